// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a connection costs on which nothing moves, beside HAProxy on the same machine.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::kernel::available_memory;
use lb_tests::net::{Listener, Net, try_connect_here};
use lb_tests::process::Process;
use lb_tests::servers::Haproxy;
use lb_tests::size;
use lb_tests::stream::{receive_exactly, say};
use rustix::process::{Resource, getrlimit};

use crate::support::{PORT, SERVER_PORT, allow_many_connections};

/// Ports of frontends and of servers: each pair of them leads to as many connections as an address has ports.
const LANES: u16 = 4;

/// Lengths of a request, as that of a short ClientHello, and of its answer, in bytes.
const REQUEST_LEN: usize = 517;
const ANSWER_LEN: usize = 200;

/// Connections that are opened at a time.
const TOGETHER: usize = 100;

/// How long both have to give back what they need no more.
const SETTLING: Duration = Duration::from_secs(1);

/// What one connection costs, in bytes.
#[derive(Debug)]
struct Cost {
    /// Memory of the balancer's process.
    resident: u64,
    /// All that the machine has less of, the sockets of client and server included.
    machine: u64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (of the whole machine {})", self.resident, self.machine)
    }
}

#[test]
fn an_idle_connection_costs_less_than_half_of_haproxys_memory() {
    let net = Net::new(1);
    allow_many_connections(&net);
    let lanes: Vec<_> = (0..LANES).map(|lane| net.server().listen(SERVER_PORT + lane)).collect();
    let flows = size(2_000, most_flows());

    let agent = Agent::start(&net, &config(&net));
    let ours = cost(&net, &lanes, &agent.process, flows);
    drop(agent);

    let relays = (0..LANES).map(|lane| (PORT + lane, net.server().address(SERVER_PORT + lane)));
    let haproxy = Haproxy::relays(&net.balancer, &relays.collect::<Vec<_>>());
    // It was asked whether it listens.
    drop(lanes[0].accept());
    let haproxys = cost(&net, &lanes, &haproxy.process, flows);

    println!("idle {flows} connections, bytes for each: lb {ours}, HAProxy {haproxys}");
    // The bench says how much exactly, of a build with optimization.
    assert!(ours.resident * 2 < haproxys.resident, "{ours} beside HAProxy's {haproxys}");
}

/// As many connections as descriptors allow here: 100,000 where a process may have a million of them.
fn most_flows() -> usize {
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if files >= 1_000_000 { 100_000 } else { 4_000 }
}

/// Without keepalive, as HAProxy does it: an emulated machine does not answer the probes of 100,000 connections in time.
fn config(net: &Net) -> Config {
    let lines = "keepalive = false";
    (0..LANES).fold(Config::new(), |config, lane| {
        let (name, backend) = (format!("in{lane}"), format!("out{lane}"));
        let server = net.server().address(SERVER_PORT + lane);
        config.tcp(&name, net.frontend(PORT + lane), &backend, lines).backend(&backend, server, lines)
    })
}

/// Opens connections, and says what the last three quarters of them cost; then closes them all. What is made once is there by then.
fn cost(net: &Net, lanes: &[Listener], process: &Process, flows: usize) -> Cost {
    let mut open = open(net, lanes, flows / 4);
    std::thread::sleep(SETTLING);
    let (resident, available) = (process.resident_bytes(), available_memory());
    let more = flows - open.len();
    open.extend(self::open(net, lanes, more));
    std::thread::sleep(SETTLING);
    let each = |bytes: u64| bytes / more as u64;
    let cost = Cost {
        resident: each(process.resident_bytes().saturating_sub(resident)),
        machine: each(available.saturating_sub(available_memory())),
    };
    for (client, server) in &open {
        say(client, b"!");
        assert_eq!(receive_exactly(server, 1), b"!", "an idle connection is broken");
    }
    cost
}

/// Connections that have carried a request and an answer, both ends.
fn open(net: &Net, lanes: &[Listener], count: usize) -> Vec<(TcpStream, TcpStream)> {
    let numbers: Vec<_> = (0..count).collect();
    net.client.enter(|| numbers.chunks(TOGETHER).flat_map(|numbers| open_some(net, lanes, numbers)).collect())
}

/// As many at a time, step by step: one after the other, each would cost every process a wake-up at each step.
fn open_some(net: &Net, lanes: &[Listener], numbers: &[usize]) -> Vec<(TcpStream, TcpStream)> {
    let lane = |number: usize| number % lanes.len();
    let connect = |&number: &usize| {
        let frontend = net.frontend(PORT + lane(number) as u16);
        let client = try_connect_here(frontend).unwrap_or_else(|error| panic!("{number}: {error}"));
        say(&client, &request(number));
        (number, client)
    };
    let clients: BTreeMap<_, _> = numbers.iter().map(connect).collect();
    // They may come in another order.
    let accept = |&number: &usize| {
        let server = lanes[lane(number)].accept();
        let request: [u8; REQUEST_LEN] = receive_exactly(&server, REQUEST_LEN).try_into().expect("so many");
        say(&server, &[8; ANSWER_LEN]);
        (request, server)
    };
    let mut servers: HashMap<_, _> = numbers.iter().map(accept).collect();
    let pair = |(number, client): (usize, TcpStream)| {
        assert_eq!(receive_exactly(&client, ANSWER_LEN), [8; ANSWER_LEN]);
        (client, servers.remove(&request(number)).expect("each request comes to a server once"))
    };
    clients.into_iter().map(pair).collect()
}

/// What a client asks, each something else.
fn request(number: usize) -> [u8; REQUEST_LEN] {
    let mut request = [7; REQUEST_LEN];
    request[..size_of::<usize>()].copy_from_slice(&number.to_be_bytes());
    request
}
