// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers whose checks would be the same share one probe.

use std::sync::atomic::AtomicUsize;

use super::*;

/// A listener that counts connections, and how many came so far.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let (listener, address) = listener().await;
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, count)
}

fn checks_of_server(backend: &Arc<Backend>) -> u64 {
    backend.servers()[0].metrics.checks.get()
}

#[tokio::test]
async fn one_probe_counts_for_all() {
    let (address, arrived) = counting().await;
    let check = Check { interval: Duration::from_millis(100), jitter_percent: 0, ..tcp() };
    let patient = Check { fall: 9.try_into().unwrap(), ..check.clone() };
    let backends = [check.clone(), check, patient].map(|check| checked(check, vec![at("a", address)]));
    let checks = Checks::default();
    let guards = backends.each_ref().map(|backend| checks.start(backend, &backend.servers()[0]).unwrap());
    until(|| backends.iter().all(|backend| checks_of_server(backend) >= 5)).await;
    let (probes, results) = (arrived.load(Ordering::Relaxed) as u64, checks_of_server(&backends[0]));
    assert!(probes.abs_diff(results) <= 1, "{probes} probes, {results} results");
    drop(guards);
}

#[tokio::test]
async fn checks_that_differ_are_not_shared() {
    let (address, arrived) = counting().await;
    let slow = Duration::from_secs(3600);
    let check = Check { interval: slow, fast_interval: slow, down_interval: slow, ..tcp() };
    let other = Check { timeout: Duration::from_secs(1), ..check.clone() };
    let backends = [check, other].map(|check| checked(check, vec![at("a", address), at("b", address)]));
    let checks = Checks::default();
    let start = |backend: &Arc<Backend>, index: usize| {
        checks.start(backend, &backend.servers()[index]).unwrap().expect("a server that is checked")
    };
    let _guards = [start(&backends[0], 0), start(&backends[1], 0)];
    until(|| backends.iter().all(|backend| checks_of_server(backend) == 1)).await;
    assert_eq!(arrived.load(Ordering::Relaxed), 2);
    // Who comes later is checked soon.
    let _late = start(&backends[0], 1);
    until(|| backends[0].servers()[1].metrics.checks.get() == 1).await;
    assert_eq!((checks_of_server(&backends[0]), checks_of_server(&backends[1])), (2, 1));
}

/// Names are resolved again and again: servers that come and go are no reason to check more often than servers that stay.
#[tokio::test]
async fn servers_that_join_bring_no_storm() {
    let (address, arrived) = counting().await;
    let hour = Duration::from_secs(3600);
    let check = Check { interval: hour, fast_interval: hour, down_interval: hour, ..tcp() };
    let backend = checked(check, vec![at("a", address)]);
    let checks = Checks::default();
    let start = || checks.start(&backend, &backend.servers()[0]).unwrap();
    let _first = start();
    until(|| arrived.load(Ordering::Relaxed) == 1).await;
    let joining = std::time::Instant::now();
    while joining.elapsed() < Duration::from_secs(3) {
        drop(start());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(arrived.load(Ordering::Relaxed) <= 5, "{arrived:?} in three seconds");
}

/// A server that does not answer holds the only place until its check runs into the timeout; then others have their turn.
#[tokio::test]
async fn checks_beyond_the_bound_wait_for_their_turn() {
    let [(silent, _), (address, _)] = [counting().await, counting().await];
    let check = Check { timeout: Duration::from_millis(200), ..http(&[(200, 200)]) };
    let backends = [checked(check, vec![at("a", silent)]), checked(tcp(), vec![at("a", address)])];
    let checks = Checks::new(Arc::default(), 1);
    let _guards = backends.each_ref().map(|backend| checks.start(backend, &backend.servers()[0]).unwrap());
    until(|| backends.iter().all(|backend| checks_of_server(backend) >= 3)).await;
    let [slow, quick] = backends.each_ref().map(checks_of_server);
    assert!(quick <= slow + 2, "{quick} checks beside {slow} that took all places");
}

#[tokio::test]
async fn checks_end_with_the_last_guard() {
    let (address, arrived) = counting().await;
    let backends = [tcp(), tcp()].map(|check| checked(check, vec![at("a", address)]));
    let checks = Checks::default();
    let [first, second] =
        backends.each_ref().map(|backend| checks.start(backend, &backend.servers()[0]).unwrap());
    until(|| checks_of_server(&backends[1]) >= 2).await;
    drop(first);
    let seen = checks_of_server(&backends[0]);
    let goes_on = checks_of_server(&backends[1]);
    until(|| checks_of_server(&backends[1]) >= goes_on + 3).await;
    assert_eq!(checks_of_server(&backends[0]), seen);
    drop(second);
    // The last one may be in the listener's queue.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let last = arrived.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(arrived.load(Ordering::Relaxed), last);
}

#[tokio::test]
async fn servers_that_come_are_checked_and_those_that_go_are_not() {
    let [(first, at_first), (second, at_second)] = [counting().await, counting().await];
    let backend = checked(tcp(), vec![at("a", first)]);
    let _checks = checks_of(&backend);
    until(|| at_first.load(Ordering::Relaxed) >= 2).await;
    backend.set_addresses(0, &[second]);
    until(|| at_second.load(Ordering::Relaxed) >= 2).await;
    let last = at_first.load(Ordering::Relaxed);
    let goes_on = at_second.load(Ordering::Relaxed);
    until(|| at_second.load(Ordering::Relaxed) >= goes_on + 3).await;
    assert!(at_first.load(Ordering::Relaxed) <= last + 1, "a check may have been under way");
}
