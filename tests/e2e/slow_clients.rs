// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients that trickle their hello do not keep good clients out.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{answer, ask};
use lb_tests::wait::{until, until_steady};

use crate::support::{PORT, two_names, two_reporters};

/// Clients that send one byte a second.
const SLOW: usize = 2_000;

/// How long a good client may take in all, on a machine with two busy cores.
const GOOD: Duration = Duration::from_secs(5);

#[test]
fn good_clients_get_through_two_thousand_that_send_a_byte_a_second() {
    let closed = among_slow_clients("pending-hello-memory = \"1GiB\"");
    assert!(closed("timeout"), "nobody was closed at the deadline");
}

/// With room for some 300 pending hellos, at 216 KiB each, slow clients must make room, not good ones.
#[test]
fn good_clients_get_through_when_the_memory_for_hellos_is_used_up() {
    let closed = among_slow_clients("pending-hello-memory = \"64MiB\"");
    assert!(closed("evicted"), "nobody was evicted");
}

/// Runs the slow clients and 20 good ones among them; returns which ends of slow clients were seen.
fn among_slow_clients(global_lines: &str) -> impl Fn(&str) -> bool {
    let net = Net::new(1);
    let config = two_names(&net, "backlog = 4096").global(global_lines);
    let agent = Agent::start(&net, &config);
    let _servers = two_reporters(&net);
    let calm = Duration::from_millis(500);
    let descriptors = until_steady("what an idle agent has open", calm, || agent.process.descriptors());
    let (is_over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| trickle(&net, &is_over, &rounds));
        // Ends the thread also if an assertion fails.
        let _over = OnDrop(&is_over);
        until("all slow clients to have sent a byte", || rounds.load(Ordering::Relaxed) > 0);
        for _ in 0..20 {
            assert_good_client(&net);
        }
        // Until the first of them have met their deadline.
        until("ten bytes of each slow client", || rounds.load(Ordering::Relaxed) > 10);
        assert_good_client(&net);
    });
    until("all descriptors to be given back", || agent.process.descriptors() <= descriptors + 4);
    let scrape = agent.scrape();
    let timeouts = scrape.count("lb_client_hello_exceptions_total", &[("reason", "timeout")]);
    let evicted = scrape.count("lb_connections_closed_total", &[("reason", "hello-evicted")]);
    assert_eq!(scrape.count("lb_pending_hello_memory_bytes", &[]), 0);
    move |end| if end == "timeout" { timeouts > 0 } else { evicted > 0 }
}

#[track_caller]
fn assert_good_client(net: &Net) {
    let wire = Hello::named("alpha.example").wire();
    let begin = Instant::now();
    let client = net.client.connect(net.frontend(PORT));
    assert_eq!(ask(&client, &wire), answer("alpha", &wire).into_bytes());
    assert!(begin.elapsed() < GOOD, "a good client took {:?}", begin.elapsed());
}

/// Keeps the slow clients open, each at its own place in its hello; who is closed comes again.
fn trickle(net: &Net, is_over: &AtomicBool, rounds: &AtomicUsize) {
    let wire = Hello::named("alpha.example").wire();
    let mut clients: Vec<(Option<TcpStream>, usize)> = (0..SLOW).map(|_| (None, 0)).collect();
    while !is_over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        net.client.enter(|| clients.iter_mut().for_each(|client| drip(net, client, &wire)));
        rounds.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(begin.elapsed()));
    }
}

/// Sends the next byte of a client, on a new connection if there is none. To be called in the client's namespace.
fn drip(net: &Net, (stream, sent): &mut (Option<TcpStream>, usize), wire: &[u8]) {
    if stream.is_none() {
        *sent = 0;
        *stream = TcpStream::connect_timeout(&net.frontend(PORT), GOOD).ok();
    }
    let Some(open) = stream else { return };
    if open.write_all(&wire[*sent..=*sent]).is_err() {
        *stream = None;
    }
    *sent += 1;
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
