// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: all flows together have no more waiting inside the kernel than `sockmap-memory`, also while the agent does not run.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::is_alone;
use lb_tests::kernel::{available_memory, redirected};
use lb_tests::net::Net;
use lb_tests::stream::{End, finish, receive_all, receive_at_most, send_until_blocked};
use rustix::process::Signal;

use crate::support::{
    INSIDE, Relay, SERVER_PORT, assert_nothing_left, assert_received, at_once, limit_socket_buffers,
    tcp_config, until_handed_over,
};

/// `sockmap-memory`. One half is for shares, the other for what waits beyond them.
const MEMORY: u64 = 32 << 20;

/// Flows of which each may have 4 MiB waiting, and all together eight times as much as there is.
const FLOWS: usize = 64;
const DIRECTION: &str = "4MiB";

/// What tcp_rmem and tcp_wmem allow a socket.
const SOCKET_MAX: u64 = 32 << 10;

/// Two sockets of the ends, two of the agent, and what TCP had taken when the filter began: no more than a receive buffer.
const BOUND: u64 = MEMORY + FLOWS as u64 * 5 * SOCKET_MAX;

/// A sender counts as blocked when nobody has taken a byte of it for so long.
const CALM: Duration = Duration::from_secs(2);

/// So many times it is tried, while others take the memory that is measured.
const TRIES: usize = 4;

#[test]
fn flows_of_an_agent_that_sleeps_have_no_more_than_is_configured() {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    let memory = format!("sockmap-memory = \"{MEMORY}B\"\nsockmap-direction-memory = \"{DIRECTION}\"");
    let config = tcp_config(&net, Path::Sockmap, INSIDE).global(&memory);
    let listener = net.server().listen(SERVER_PORT);
    let relay = Relay { agent: Agent::start(&net, &config), listener, net };
    // Memory of a segment may be twice its payload (truesize). Of what others do meanwhile, this test knows nothing where it is not alone.
    let most = 2 * BOUND + if is_alone() { 8 << 20 } else { 64 << 20 };
    let mut grown = Vec::new();
    while grown.iter().all(|bytes| *bytes >= most) {
        assert!(grown.len() < TRIES, "{grown:?} bytes of memory for flows that may have {MEMORY}");
        grown.push(growth(&relay));
    }
    println!("{grown:?} bytes of memory, {most} allowed");
    let records = relay.agent.until_records(grown.len() * FLOWS);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_nothing_left(&relay.agent, Path::Sockmap);
}

/// How much less memory there is when no sender gets rid of a byte any more, and no server has taken one.
#[track_caller]
fn growth(relay: &Relay) -> u64 {
    let counted = || relay.agent.scrape().count("lb_path_bytes_total", &[("path", "sockmap")]);
    let already = counted();
    let flows: Vec<_> = (0..FLOWS).map(|_| relay.greeted()).collect();
    until_handed_over(&relay.agent, Path::Sockmap, FLOWS);
    relay.agent.process.signal(Signal::STOP);
    relay.agent.process.until_stopped();
    let before = available_memory();
    let taken = at_once(&flows, |_, (client, _)| send_until_blocked(client, 1, CALM));
    let grown = before.saturating_sub(available_memory());
    let inside: u64 = redirected(&relay.agent.process).into_values().sum();
    relay.agent.process.signal(Signal::CONT);
    let sum: u64 = taken.iter().sum();
    println!("{sum} bytes taken while nobody reads, {inside} of them inside the kernel");
    assert!(sum < BOUND, "{sum} bytes taken while nobody reads");
    // A half of the memory is for what waits beyond the shares, and a half of what waits is what segments cost.
    assert!(inside > MEMORY / 4, "{inside} bytes inside the kernel: the memory was not used up");
    drain(flows, &taken);
    relay.agent.until_idle();
    // Whatever came behind it may have been spliced, while others had the memory.
    assert!(
        counted() - already >= inside,
        "{} of {inside} bytes arrived inside the kernel",
        counted() - already
    );
    grown
}

/// All of them read at the same time, each all of its flow.
#[track_caller]
fn drain(flows: Vec<(TcpStream, TcpStream)>, taken: &[u64]) {
    at_once(&flows, |index, (client, server)| {
        let bytes = taken[index];
        assert_received(&receive_at_most(server, 1, bytes), bytes, End::Silent);
        for (from, to) in [(client, server), (server, client)] {
            finish(from);
            assert_eq!(receive_all(to), (Vec::new(), End::Finished));
        }
    });
}
