// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: flows that hold nothing take nothing of `sockmap-memory`, however many they are, and when all of them wake, all together have
//! no more of it than there is.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::kernel::overdraft;
use lb_tests::net::Net;
use lb_tests::stream::{
    End, finish, receive_all, receive_at_most, receive_exactly, say, send, send_until_blocked,
};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{
    INSIDE, Relay, SERVER_PORT, assert_carried_so_far, assert_nothing_left, assert_received, at_once,
    limit_socket_buffers, tcp_config,
};

/// `sockmap-memory`. A half of it is for shares.
const MEMORY: u64 = 4 << 20;

/// More than there are least shares, of 4 KiB for either direction.
const FLOWS: usize = 400;

/// So many move much at the same time.
const BUSY: usize = 20;

/// What tcp_rmem and tcp_wmem allow a socket.
const SOCKET_MAX: u64 = 32 << 10;

/// A sender counts as blocked when nobody has taken a byte of it for so long.
const CALM: Duration = Duration::from_secs(2);

#[test]
fn thousands_that_rest_go_inside_and_leave_the_memory_to_those_who_move() {
    let relay = relay();
    let flows = resting(&relay);
    let fallbacks = relay.agent.scrape().count("lb_path_fallbacks_total", &[]);
    assert_eq!(fallbacks, 0, "flows that hold nothing found no memory");
    // Less than a share, and of a few what is more.
    for (flows, length) in [(&flows[..], 100), (&flows[..BUSY], 32 << 10)] {
        for (seed, (client, server)) in (0..).zip(flows) {
            send(client, seed, length).expect("the agent takes it");
            assert_received(&receive_at_most(server, seed, length), length, End::Silent);
            say(server, b"ok");
            assert_eq!(receive_exactly(client, 2), b"ok");
        }
    }
    let moved = FLOWS as u64 * 102 + BUSY as u64 * (32 << 10);
    assert_carried_so_far(&relay.agent, Path::Sockmap, moved);
    end(&relay, &flows);
}

#[test]
fn all_that_rest_may_wake_at_once_while_the_agent_sleeps() {
    let relay = relay();
    let flows = resting(&relay);
    relay.agent.process.signal(Signal::STOP);
    relay.agent.process.until_stopped();
    let taken = flood(&flows);
    let waiting = overdraft(&relay.agent.process);
    relay.agent.process.signal(Signal::CONT);
    let sum: u64 = taken.iter().sum();
    println!(
        "{sum} bytes taken while nobody reads, {waiting} bytes of cost wait inside the kernel beyond shares"
    );
    // Each processor may be at a segment that the others do not know of yet.
    let at_work = std::thread::available_parallelism().map_or(1, usize::from) as u64 * (128 << 10);
    let most = MEMORY / 2 + at_work;
    assert!(waiting >= MEMORY / 2, "{waiting} bytes of cost beyond shares: the memory was not used up");
    assert!(waiting < most, "{waiting} bytes of cost beyond shares, {most} are allowed");
    at_once(&flows, |index, (_, server)| {
        assert_received(&receive_at_most(server, 1, taken[index]), taken[index], End::Silent);
    });
    end(&relay, &flows);
}

/// All clients send at the same moment, and soon none gets rid of a byte any more: what is turned away for long is sent again ever later.
fn flood(flows: &[(TcpStream, TcpStream)]) -> Vec<u64> {
    std::thread::scope(|scope| {
        let senders = flows.iter().map(|(client, _)| scope.spawn(|| send_until_blocked(client, 1, CALM)));
        let senders: Vec<_> = senders.collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    })
}

fn relay() -> Relay {
    let net = Net::new(1);
    limit_socket_buffers(&net, SOCKET_MAX);
    let memory = format!("sockmap-memory = \"{MEMORY}B\"\nsockmap-direction-memory = \"1MiB\"");
    let config = tcp_config(&net, Path::Sockmap, INSIDE).global(&memory);
    let listener = net.server().listen(SERVER_PORT);
    Relay { agent: Agent::start(&net, &config), listener, net }
}

/// Flows that have begun together inside the kernel, and rest.
#[track_caller]
fn resting(relay: &Relay) -> Vec<(TcpStream, TcpStream)> {
    let flows: Vec<_> = (0..FLOWS).map(|_| relay.greeted()).collect();
    until("all flows to be inside", || relay.agent.own_flows(Path::Sockmap) == FLOWS as u64);
    // Those that rest have a half of the shares at most.
    let taken = || relay.agent.scrape().count("lb_sockmap_memory_bytes", &[]);
    until("the memory to be given back", || taken() <= MEMORY / 4);
    flows
}

#[track_caller]
fn end(relay: &Relay, flows: &[(TcpStream, TcpStream)]) {
    at_once(flows, |_, (client, server)| {
        for (from, to) in [(client, server), (server, client)] {
            finish(from);
            assert_eq!(receive_all(to), (Vec::new(), End::Finished));
        }
    });
    let records = relay.agent.until_records(FLOWS);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_nothing_left(&relay.agent, Path::Sockmap);
}
