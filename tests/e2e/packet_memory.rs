// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a flow costs that programs carry: far less than the two sockets that it had.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::kernel::map_bytes;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{receive_exactly, say};
use lb_tests::wait::until;

use crate::packet_stage::has_links;
use crate::support::{NOTHING_KEPT, PORT, Relay, SERVER_PORT};

/// Flows that are opened at a time: what one takes until it leaves, the next ones get.
const TOGETHER: usize = 250;

/// Most bytes of a flow in the agent, which needs some 480. What the agent has of a flow that it carries itself is twice as much.
const USER_MAX: u64 = 640;

/// Most bytes of a flow in maps that grow: two keys of 104 each and a story of 256.
const ENTRIES_MAX: u64 = 480;

/// How long the agent has to give back what it needs no more.
const SETTLING: Duration = Duration::from_secs(1);

/// What the agent has, in bytes.
#[derive(Debug)]
struct Memory {
    resident: u64,
    /// BPF maps that grow. Since Linux 6.4 the kernel tells how large they are, before that how large they may become.
    maps: u64,
}

impl Memory {
    fn of(agent: &Agent) -> Self {
        std::thread::sleep(SETTLING);
        Self { resident: agent.process.resident_bytes(), maps: map_bytes(agent.process.pid()) }
    }
}

#[test]
fn a_flow_that_has_left_costs_little_on_either_side() {
    let net = Net::new(1);
    // What a flow takes until it leaves, the next one of the same worker gets: with many workers each would have to warm up.
    let config = Config::new()
        .global(&format!("{NOTHING_KEPT}\nworkers = 2\n"))
        .path(Path::Packet)
        .tcp("in", net.frontend(PORT), "out", "")
        .backend("out", net.server().address(SERVER_PORT), "");
    let listener = net.server().listen(SERVER_PORT);
    let relay = Relay { agent: Agent::start(&net, &config), listener, net };
    let count = size(1_500, 4_000);
    let mut flows = leave(&relay, count / 4);
    let before = Memory::of(&relay.agent);
    let more = count - flows.len();
    flows.extend(leave(&relay, more));
    let after = Memory::of(&relay.agent);
    let each = |after: u64, before: u64| after.saturating_sub(before) / more as u64;
    let (user, entries) = (each(after.resident, before.resident), each(after.maps, before.maps));
    println!("{count} flows, bytes for each: in the agent {user}, in maps {entries}");
    assert!(user < USER_MAX, "{user} bytes of the agent");
    assert!(entries < ENTRIES_MAX, "{entries} bytes of maps");
    // Where the kernel tells.
    assert!(entries > 0 || !has_links());
    flows.iter().for_each(|(client, server)| ping(client, server));
}

/// Flows that programs carry.
fn leave(relay: &Relay, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let mut all = Vec::new();
    while all.len() < count {
        let before = relay.agent.own_flows(Path::Packet);
        let some: Vec<_> = (0..TOGETHER.min(count - all.len())).map(|_| relay.pair()).collect();
        until("the flows to leave the agent", || {
            some.iter().for_each(|(client, server)| ping(client, server));
            relay.agent.own_flows(Path::Packet) >= before + some.len() as u64
        });
        all.extend(some);
    }
    all
}

/// A message each way.
#[track_caller]
fn ping(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        say(from, b"?");
        assert_eq!(receive_exactly(to, 1), b"?");
    }
}
