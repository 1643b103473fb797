// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: what waits inside the kernel for a receiver that takes nothing is bounded, and nothing is lost for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write as _;
use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive, receive_all, receive_at_most, receive_exactly, say, send, send_until_blocked,
};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{
    INSIDE, Relay, SERVER_PORT, allow_many_connections, assert_received, at_once, limit_socket_buffers,
    median, tcp_config, until_handed_over,
};

/// What tcp_rmem and tcp_wmem allow a socket in these tests.
const SOCKET_MAX: u64 = 1 << 20;

/// The same where buffers should hold little.
const SMALL_SOCKET: u64 = 128 << 10;

/// The same where so many flows stand still that their buffers have to fit into a small machine: all sockets together may hold what
/// net.ipv4.tcp_mem says, 155 MiB in a machine of 2 GiB. Beyond that the kernel drops what comes for any connection, and each message
/// waits for timeouts until it is sent again, for 0.6 s.
const TINY_SOCKET: u64 = 32 << 10;

/// `sockmap-direction-memory` in tests that reach it.
const DIRECTION: u64 = 4 << 20;

/// Sockets between two ends: theirs, and two of the agent.
const SOCKETS: u64 = 4;

/// How long nothing moves before a sender counts as blocked.
const CALM: Duration = Duration::from_secs(2);

fn relay() -> Relay {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    let config = tcp_config(&net, Path::Sockmap, INSIDE).global("sockmap-direction-memory = \"4MiB\"");
    let listener = net.server().listen(SERVER_PORT);
    Relay { agent: Agent::start(&net, &config), listener, net }
}

/// The agent does not run at all while a client floods a server that reads nothing: what waits is bounded all the same, and nothing
/// breaks.
#[test]
fn an_agent_that_sleeps_costs_no_connection() {
    let relay = relay();
    let tries = size(3, 20);
    for _ in 0..tries {
        let pair = relay.handed_over(Path::Sockmap);
        relay.agent.process.signal(Signal::STOP);
        let taken = fill(&pair, CALM);
        relay.agent.process.signal(Signal::CONT);
        assert_bounded(taken);
        // Half of what waits is what segments cost besides their bytes.
        assert!(
            taken.iter().all(|bytes| *bytes > DIRECTION / 2),
            "{taken:?} bytes: the bound was not reached"
        );
        drain(&pair, taken);
    }
    assert_nothing_is_left(&relay, tries);
    relay.agent.assert_inside(99);
}

/// Others have the processors, so that the agent comes late, and the kernel's workers do, again and again.
#[test]
fn a_busy_machine_costs_no_connection() {
    let relay = relay();
    let tries = size(5, 200);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spin = || {
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let processors = std::thread::available_parallelism().expect("Linux knows").get();
        (0..2 * processors).for_each(|_| drop(scope.spawn(spin)));
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..tries {
                let pair = relay.handed_over(Path::Sockmap);
                let taken = fill(&pair, CALM / 4);
                assert_bounded(taken);
                drain(&pair, taken);
            }
        }));
        is_over.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_nothing_is_left(&relay, tries);
    relay.agent.assert_inside(99);
}

/// Both ends send until nobody takes more; what was taken of the client's and of the server's.
fn fill((client, server): &(TcpStream, TcpStream), calm: Duration) -> [u64; 2] {
    std::thread::scope(|scope| {
        let up = scope.spawn(|| send_until_blocked(client, 1, calm));
        let down = scope.spawn(|| send_until_blocked(server, 2, calm));
        [up, down].map(|sender| sender.join().expect("no panic"))
    })
}

/// What TCP had taken when the filter began comes on top of what may wait: no more than a receive buffer.
#[track_caller]
fn assert_bounded(taken: [u64; 2]) {
    let most = DIRECTION + (SOCKETS + 1) * SOCKET_MAX;
    assert!(taken.iter().all(|bytes| *bytes < most), "{taken:?} bytes taken while nobody reads");
}

/// Both read all of it. The ends come last: what a socket holds that has begun to close is not carried inside the kernel.
#[track_caller]
fn drain((client, server): &(TcpStream, TcpStream), taken: [u64; 2]) {
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| receive_at_most(client, 2, taken[1]));
        assert_received(&receive_at_most(server, 1, taken[0]), taken[0], End::Silent);
        assert_received(&reader.join().expect("no panic"), taken[1], End::Silent);
    });
    for (from, to) in [(client, server), (server, client)] {
        finish(from);
        assert_eq!(receive_all(to), (Vec::new(), End::Finished));
    }
}

/// One-byte segments: what they cost counts, not what they carry.
#[test]
fn one_byte_segments_count_as_what_they_cost() {
    let relay = relay();
    limit_socket_buffers(&relay.net, SMALL_SOCKET);
    let (client, server) = relay.handed_over(Path::Sockmap);
    relay.agent.process.signal(Signal::STOP);
    client.set_write_timeout(Some(CALM)).expect("a socket");
    let mut taken = 0_u64;
    while (&client).write(&[taken as u8]).is_ok_and(|count| count == 1) {
        taken += 1;
    }
    relay.agent.process.signal(Signal::CONT);
    // The send buffer of the agent and the receive buffer of the server take nothing but bytes; whatever else there is holds a segment
    // for each.
    let bytes = 2 * SMALL_SOCKET;
    let segments = (DIRECTION + 3 * SMALL_SOCKET) / 1024;
    assert!(taken < bytes + segments, "{taken} bytes in segments of one, of {bytes} + {segments}");
    finish(&client);
    let (received, end) = receive_all(&server);
    assert_eq!((received.len() as u64, end), (taken, End::Finished));
    finish(&server);
    assert!(received.iter().enumerate().all(|(at, byte)| *byte == at as u8), "bytes out of place");
    relay.agent.until_idle();
    relay.agent.assert_inside(99);
    assert_nothing_is_left(&relay, 1);
}

/// Both ends at full speed, and neither reads for a while: over and over on one connection.
#[test]
fn pauses_without_end_lose_nothing() {
    let relay = relay();
    let (client, server) = relay.handed_over(Path::Sockmap);
    let pauses = || relay.agent.scrape().count("lb_sockmap_pauses_total", &[]);
    let (wanted, burst) = (size(30, 1_000), 12 << 20);
    let mut round = 0;
    while pauses() < wanted {
        round += 1;
        std::thread::scope(|scope| {
            for (from, to, seed) in [(&client, &server, round), (&server, &client, !round)] {
                scope.spawn(move || send(from, seed, burst).expect("a reader that comes late"));
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(20));
                    assert_received(&receive_at_most(to, seed, burst), burst, End::Silent);
                });
            }
        });
    }
    finish(&client);
    finish(&server);
    relay.agent.until_idle();
    relay.agent.assert_inside(99);
    assert_nothing_is_left(&relay, 1);
}

/// Flows that stand still hold all the memory. One that goes on, and needs some of it, is not held up by them: user space carries the rest.
#[test]
fn flows_that_stand_still_starve_no_other() {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    let config = tcp_config(&net, Path::Sockmap, INSIDE).global("sockmap-memory = \"16MiB\"");
    let listener = net.server().listen(SERVER_PORT);
    let relay = Relay { agent: Agent::start(&net, &config), listener, net };
    let (client, server) = relay.greeted();
    let stalled: Vec<_> = (0..16).map(|_| relay.greeted()).collect();
    until_handed_over(&relay.agent, Path::Sockmap, stalled.len() + 1);
    let taken = at_once(&stalled, |_, (client, _)| send_until_blocked(client, 1, CALM));
    let sum: u64 = taken.iter().sum();
    // A half of the memory is for what waits beyond the shares, and a half of what waits is what segments cost.
    assert!(sum > 4 << 20, "{sum} bytes: the memory is not used up");
    // Each of them alone could have as much waiting.
    let bound = (16 << 20) + stalled.len() as u64 * (SOCKETS + 1) * SOCKET_MAX;
    assert!(sum < bound, "{sum} bytes taken while nobody reads");
    // A send buffer of each, at least. Who has caught up and finds no memory for a second is spliced from there.
    let counted = || relay.agent.scrape().count("lb_path_bytes_total", &[]);
    until("bytes to be counted", || counted() >= stalled.len() as u64 * (64 << 10));
    relay.agent.assert_inside(50);

    let late = send_until_blocked(&client, 2, CALM);
    assert!(late > SMALL_SOCKET, "{late} bytes: the flow was not held up");
    finish(&client);
    assert_received(&receive(&server, 2), late, End::Finished);
    finish(&server);
    for ((client, server), taken) in stalled.iter().zip(taken) {
        finish(client);
        assert_received(&receive(server, 1), taken, End::Finished);
        finish(server);
    }
    drop((client, server, stalled));
    assert_nothing_is_left(&relay, 17);
}

/// Many flows whose servers take nothing: memory stays within what is configured, the kernel has little to do for them, and another
/// flow goes on. Who goes on when others hold the memory is spliced; who comes then does not go inside.
#[test]
fn stalled_flows_cost_little_and_hold_up_nobody() {
    stand_still(size(300, 2_000), [128, 16], "", 1);
}

/// The same with more memory than they can want, so that none is spliced: all of them stand still inside the kernel. Each of them wants little,
/// for this machine has to have all of it.
#[test]
fn stalled_flows_inside_the_kernel_cost_little_and_hold_up_nobody() {
    stand_still(size(300, 2_000), [8_192, 1], INSIDE, 99);
}

/// So many flows, which share so much memory in MiB, and have so much of it for a direction. At least `percent` of what they bring must go inside
/// the kernel.
#[track_caller]
fn stand_still(flows: usize, [mib, direction_mib]: [u64; 2], backend_lines: &str, percent: u64) {
    let net = Net::new(1);
    limit_socket_buffers(&net, TINY_SOCKET);
    allow_many_connections(&net);
    let global = format!("sockmap-memory = \"{mib}MiB\"\nsockmap-direction-memory = \"{direction_mib}MiB\"");
    let config = tcp_config(&net, Path::Sockmap, backend_lines).global(&global);
    let listener = net.server().listen(SERVER_PORT);
    let relay = Relay { agent: Agent::start(&net, &config), listener, net };
    let pair = relay.handed_over(Path::Sockmap);
    let rounds = size(200, 6_000);
    let before = round_trips("a message before flows stand still", &pair, rounds.min(1_000));
    let flows: Vec<_> = (0..flows).map(|_| relay.pair()).collect();
    let taken = at_once(&flows, |_, (client, _)| send_until_blocked(client, 1, Duration::from_millis(200)));
    until_inside(&relay.agent, flows.len() as u64 + 1, mib << 20);
    // As much as a send buffer and a receive buffer hold, at least.
    let count = || relay.agent.scrape().count("lb_path_bytes_total", &[]);
    until("bytes to be counted", || count() >= flows.len() as u64 * 10_000);
    relay.agent.assert_inside(percent);
    let shares = relay.agent.scrape().count("lb_sockmap_memory_bytes", &[]);
    assert!(shares <= mib << 20, "{shares} bytes inside the kernel");
    let sum: u64 = taken.iter().sum();
    // Where there is memory for all that they may have, that is the bound.
    let waiting = mib.min(direction_mib * flows.len() as u64) << 20;
    let bound = waiting + flows.len() as u64 * (SOCKETS + 1) * TINY_SOCKET;
    assert!(sum < bound, "{sum} bytes taken while nobody reads");
    assert_another_goes_on(&relay, &pair, before, rounds);
    at_once(&flows, |index, (client, server)| {
        finish(client);
        assert_received(&receive(server, 1), taken[index], End::Finished);
        finish(server);
    });
    drop(pair);
    assert_nothing_is_left(&relay, flows.len() + 1);
}

/// Messages on another flow take no longer than before, with time for others, which may come and go; and neither the kernel's workers nor the
/// agent have much to do meanwhile.
#[track_caller]
fn assert_another_goes_on(relay: &Relay, pair: &(TcpStream, TcpStream), before: Duration, rounds: u32) {
    let process = &relay.agent.process;
    let naps = || process.naps().values().sum::<u64>();
    let (workers, agent, woken, begin) = (kernel_workers(), process.cpu_time(), naps(), Instant::now());
    let beside = round_trips("a message beside flows that stand still", pair, rounds);
    let (used, passed) = (used_since(&workers), begin.elapsed());
    let (agent, woken) = (process.cpu_time() - agent, naps().saturating_sub(woken));
    println!("in {passed:?} the kernel's workers took {used:?}, the agent {agent:?} and {woken} wake-ups");
    let most = before * 10 + Duration::from_millis(20);
    assert!(beside < most, "{beside:?} for a message beside stalled flows, {before:?} before");
    // One that never rests takes a whole processor; half of one is what the tries of 300 flows take where it is emulated.
    assert!(used < passed * 3 / 4, "{used:?} of {passed:?} for what stands still");
    // It looks at each flow once a second.
    assert!(agent < passed / 4, "{agent:?} of {passed:?} in the agent for what stands still");
}

/// Waits until each of so many flows is inside the kernel, or has found its memory used up: when it came, or with its first bytes.
#[track_caller]
fn until_inside(agent: &Agent, flows: u64, memory: u64) {
    // Metrics may be a second behind.
    until("every flow to be inside the kernel, or to have found no room", || {
        let scrape = agent.scrape();
        let refused = scrape.count("lb_path_fallbacks_total", &[("reason", "memory")]);
        let withdrawn = scrape.count("lb_sockmap_withdrawals_total", &[]);
        agent.own_flows(Path::Sockmap) + refused + withdrawn >= flows
    });
    let inside = agent.own_flows(Path::Sockmap);
    println!("{inside} of {flows} flows are inside");
    if inside < flows {
        // One half is for shares. Who leaves gives its own back, and who asks for twice as much as it has may find less.
        let taken = agent.scrape().count("lb_sockmap_memory_bytes", &[]);
        assert!(taken >= memory / 20 * 9, "{taken} bytes taken, and {inside} of {flows} flows found no more");
    }
}

/// Messages of which each comes within seconds, one every 10 ms; how long half of them take at most.
#[track_caller]
fn round_trips(what: &str, (client, server): &(TcpStream, TcpStream), rounds: u32) -> Duration {
    let times = (0..rounds).map(|round| {
        std::thread::sleep(Duration::from_millis(10));
        let sent = Instant::now();
        say(client, &round.to_be_bytes());
        assert_eq!(receive_exactly(server, 4), round.to_be_bytes());
        sent.elapsed()
    });
    let times: Vec<_> = times.collect();
    let slowest = times.iter().max().expect("some messages");
    assert!(*slowest < Duration::from_secs(5), "{slowest:?} for a message");
    median(what, times)
}

/// The time that each of the kernel's workers has used so far, by process (proc_pid_stat(5): utime and stime, in ticks of 10 ms).
fn kernel_workers() -> BTreeMap<OsString, Duration> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let workers = processes.filter_map(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(") ")?;
        let times = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        let is_worker = name.contains("(kworker/");
        is_worker.then(|| (process.file_name(), Duration::from_millis(10 * times.sum::<u64>())))
    });
    workers.collect()
}

/// What the kernel's workers have used since. One that ends has had nothing to do for five minutes before (kernel/workqueue.c,
/// IDLE_WORKER_TIMEOUT), so that nothing is missing.
fn used_since(before: &BTreeMap<OsString, Duration>) -> Duration {
    let used = |(worker, time): (OsString, Duration)| {
        time.saturating_sub(before.get(&worker).copied().unwrap_or_default())
    };
    kernel_workers().into_iter().map(used).sum()
}

/// No connection has been broken, and the memory has been given back.
fn assert_nothing_is_left(relay: &Relay, connections: usize) {
    let records = relay.agent.until_records(connections);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    relay.agent.until_count("lb_sockmap_memory_bytes", &[], 0);
}
