// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where connections to servers come from: addresses in turn, and a way out when ports run short.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpStream};

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::net::{Namespace, Net};
use lb_tests::stream::{End, say};

use crate::support::{PORT, SERVER_PORT};

/// Ports that each address of the balancer has towards a server. An even number: of an odd one, the kernel may leave one out
/// (net/ipv4/inet_hashtables.c, __inet_hash_connect).
const PORTS: usize = 6;

/// The balancer's further addresses in the network of the first server.
const SOURCES: [&str; 2] = ["10.2.0.10", "10.2.0.11"];

fn give_addresses(net: &Net) {
    for source in SOURCES {
        let mut command = std::process::Command::new("ip");
        net.balancer.run(command.args(["address", "add", &format!("{source}/24"), "dev", "server0"]));
    }
    net.balancer.sysctl("net/ipv4/ip_local_port_range", &format!("20000 {}", 20_000 + PORTS - 1));
}

/// A frontend a server, each with a backend of its own with these lines.
fn config(net: &Net, backend_lines: &str) -> Config {
    (0..).zip(&net.servers).fold(Config::new(), |config, (index, server)| {
        let name = format!("b{index}");
        config.tcp(&format!("f{index}"), net.frontend(PORT + index), &name, "").backend(
            &name,
            server.address(SERVER_PORT),
            backend_lines,
        )
    })
}

/// So many connections through a frontend, both ends of each.
fn connections(net: &Net, port: u16, server: &Namespace, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let listener = server.listen(SERVER_PORT);
    (0..count).map(|_| (net.client.connect(net.frontend(port)), listener.accept())).collect()
}

/// How many come from where, as the server sees it.
fn by_source(connections: &[(TcpStream, TcpStream)]) -> BTreeMap<IpAddr, usize> {
    let mut counts = BTreeMap::new();
    for (_, server) in connections {
        *counts.entry(server.peer_addr().expect("connected").ip().to_canonical()).or_default() += 1;
    }
    counts
}

#[test]
fn ports_of_several_addresses_are_used_to_the_last() {
    let net = Net::new(2);
    give_addresses(&net);
    let agent = Agent::start(&net, &config(&net, &format!("source = {SOURCES:?}\nretries = 0")));
    let first = connections(&net, PORT, &net.servers[0], PORTS * SOURCES.len());
    let expected = SOURCES.map(|source| (source.parse().expect("an address"), PORTS));
    assert_eq!(by_source(&first), BTreeMap::from(expected));

    // The same ports serve another server: they belong to pairs of addresses.
    let second = connections(&net, PORT + 1, &net.servers[1], PORTS * SOURCES.len());
    assert_eq!(by_source(&second), BTreeMap::from(expected));

    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "resources");
    let scrape = agent.scrape();
    let exhausted = scrape.count("lb_backend_source_ports_exhausted_total", &[("backend", "b0")]);
    assert!(exhausted >= SOURCES.len() as u64, "{exhausted}");
    assert_eq!(scrape.count("lb_server_connect_failures_total", &[]), 0, "it is not the server that failed");
    assert_eq!(scrape.count("lb_server_up", &[]), 2);
}

#[test]
fn an_address_that_is_not_ours_is_named() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &config(&net, "source = \"10.9.9.9\"\nretries = 0"));
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "resources");
    let lines = agent.process.stderr();
    let warned = lines.iter().filter(|line| line.contains("10.9.9.9") && line.contains("WARN")).count();
    assert_eq!(warned, 2, "at the start, and when it mattered: {lines:?}");
    assert_eq!(
        agent.scrape().count("lb_server_connect_failures_total", &[]),
        0,
        "it is not the server that failed"
    );
}

#[test]
fn connections_leave_by_the_interface_that_was_asked_for() {
    let net = Net::new(2);
    let interface =
        |name: &str| format!("source-interface = \"{name}\"\nretries = 0\nconnect-timeout = \"500ms\"");
    let agent = Agent::start(&net, &config(&net, &interface("server0")));
    let (client, server) = connections(&net, PORT, &net.servers[0], 1).remove(0);
    say(&client, b"x");
    assert_eq!(lb_tests::stream::receive_exactly(&server, 1), b"x");
    // The second server is behind another interface.
    let _listener = net.servers[1].listen(SERVER_PORT);
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT + 1)), (Vec::new(), End::Reset));
    assert!(["connect-failed", "connect-timeout"].contains(&agent.until_records(1)[0].close()));
}
