// SPDX-License-Identifier: MIT OR Apache-2.0
//! Very many short flows leave nothing behind: no descriptor, no socket in the kernel, no entry in a map that a later flow could meet.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::kernel::{named_sockets, tcp_sockets};
use lb_tests::net::{Net, try_connect_here};
use lb_tests::peer::echo;
use lb_tests::stream::{End, finish, receive_all, receive_exactly, reset, say};
use lb_tests::wait::until;
use lb_tests::{is_alone, size};

use crate::support::{PORT, SERVER_PORT, allow_many_connections, assert_nothing_left, tcp_config};

/// So few places that each is taken by very many flows, one after the other.
const PLACES: u64 = 32;

/// Clients at the same time.
const CLIENTS: u64 = 8;

on_all_paths! {
    short_flows_leave_nothing_behind,
}

fn short_flows_leave_nothing_behind(path: Path) {
    let net = Net::new(1);
    allow_many_connections(&net);
    let _server = echo(net.server(), SERVER_PORT);
    let agent =
        Agent::start(&net, &tcp_config(&net, path, "").global(&format!("max-connections = {PLACES}")));
    let flows = size(2_000, 100_000);
    // What is made once, such as pipes and threads' memory, is there after the first flows.
    run(&net, flows / 20);
    agent.until_idle();
    let (descriptors, sockets) = (agent.process.descriptors(), tcp_sockets());
    let resident = agent.process.resident_bytes();
    assert_open_flows_are_seen(&net, &agent, path, CLIENTS);

    run(&net, flows - flows / 20);

    assert_nothing_left(&agent, path);
    until("descriptors to be given back", || agent.process.descriptors() <= descriptors + 4);
    // Each flow had four. Other tests have some, too, and the count is exact to some hundreds.
    let most = flows / 50 + if is_alone() { 500 } else { 2_000 };
    until("sockets to be freed", || tcp_sockets() < sockets + most.min(flows));
    let grown = agent.process.resident_bytes().saturating_sub(resident);
    assert!(grown < 16 << 20, "{grown} bytes of memory more after {flows} flows");
    // What the maps of sockets hold, the kernel does not tell. A place of which something is left takes no socket again, so all are taken.
    assert_open_flows_are_seen(&net, &agent, path, PLACES);
    agent.until_idle();
    // Each of them, besides those that were open for the look at them.
    assert_eq!(agent.own_flows(path), flows + CLIENTS + PLACES);
    agent.assert_share(path, 100);
    assert_eq!(agent.scrape().count("lb_path_fallbacks_total", &[]), 0);
}

/// So many at the same time. That nothing is counted afterwards means something only if open flows are.
fn assert_open_flows_are_seen(net: &Net, agent: &Agent, path: Path, flows: u64) {
    let open: Vec<TcpStream> = (0..flows).map(|_| net.client.connect(net.frontend(PORT))).collect();
    for client in &open {
        say(client, b"?");
        assert_eq!(receive_exactly(client, 1), b"?");
    }
    if path == Path::Sockmap {
        assert_eq!(named_sockets(&agent.process) as u64, flows * 2);
    }
}

/// Every flow carries a number that no other has, there and back; a third of them end in a reset.
fn run(net: &Net, flows: u64) {
    let (next, frontend) = (AtomicU64::new(0), net.frontend(PORT));
    let client = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= flows {
                return;
            }
            let stream = try_connect_here(frontend).unwrap_or_else(|error| panic!("flow {number}: {error}"));
            let message = number.to_be_bytes();
            say(&stream, &message);
            assert_eq!(receive_exactly(&stream, message.len()), message, "bytes of another flow");
            if number.is_multiple_of(3) {
                reset(stream);
                continue;
            }
            finish(&stream);
            assert_eq!(receive_all(&stream), (Vec::new(), End::Finished));
        }
    };
    net.client.enter(|| {
        std::thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(client))));
    });
}
