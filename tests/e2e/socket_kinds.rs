// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets of every kind that a client or a server may have: both families, one inside the other, Multipath TCP, urgent bytes; and
//! several workers at once.

use std::net::{SocketAddr, TcpStream};

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_all, receive_exactly, say};

use crate::support::{
    PORT, Relay, SERVER_PORT, assert_nothing_left, limit_socket_buffers, required, stream_both_ways,
    until_handed_over, urge,
};

on_all_paths! {
    flows_between_all_families_go_the_same_way,
    urgent_bytes_stay_where_they_are_in_the_stream,
    an_end_behind_an_urgent_byte_holds_up_neither,
    clients_of_multipath_tcp_are_served,
    a_balancer_of_multipath_tcp_serves,
    flows_of_several_workers_go_the_same_way,
}

/// Of what waits at once, path sockmap takes up to `sockmap-direction-memory`; so sockets may hold no more than half of it, whatever this
/// machine allows them.
fn net() -> Net {
    let net = Net::new(1);
    limit_socket_buffers(&net, 8 << 20);
    net
}

fn flows_between_all_families_go_the_same_way(path: Path) {
    let net = net();
    let any = SocketAddr::from(([0; 8], PORT));
    let servers = [net.server().address(SERVER_PORT), net.server().address6(SERVER_PORT)];
    let mut config = Config::new().path(path);
    for (port, server) in (PORT..).zip(servers) {
        // An IPv6 socket that takes IPv4 as well: its IPv4 clients have addresses inside IPv6 (RFC 4291 section 2.5.5.2).
        let (bind, name) = (SocketAddr::new(any.ip(), port), format!("to{port}"));
        config = config.tcp(&format!("at{port}"), bind, &name, "").backend(&name, server, required(path));
    }
    let (agent, listener) = (Agent::start(&net, &config), net.server().listen(SERVER_PORT));
    for port in [PORT, PORT + 1] {
        for address in [net.balancer.address(port), net.balancer.address6(port)] {
            let pair = (net.client.connect(address), listener.accept());
            carry(&agent, path, &pair);
            drop(pair);
            agent.until_idle();
        }
    }
    assert_nothing_left(&agent, path);
    agent.assert_share(path, 99);
}

/// Two messages, by which the flow is handed over, and then some megabytes each way.
fn carry(agent: &Agent, path: Path, (client, server): &(TcpStream, TcpStream)) {
    for (from, to) in [(client, server), (server, client)] {
        say(from, b"?");
        assert_eq!(receive_exactly(to, 1), b"?");
    }
    until_handed_over(agent, path, 1);
    let bytes = size(3_000_000, 256 << 20);
    stream_both_ways(client, server, bytes, bytes);
}

/// A byte that is sent as urgent is one of the stream (RFC 6093 section 2); taken out of it, it would be lost. That it was urgent is
/// not passed on.
fn urgent_bytes_stay_where_they_are_in_the_stream(path: Path) {
    let relay = Relay::start(path);
    for is_upwards in [true, false] {
        let (client, server) = relay.handed_over(path);
        let (from, to) = if is_upwards { (&client, &server) } else { (&server, &client) };
        for _ in 0..size(20, 1_000) {
            say(from, b"before");
            urge(from);
            say(from, b"behind");
            assert_eq!(receive_exactly(to, 13), b"before!behind");
        }
        say(to, b"still there");
        assert_eq!(receive_exactly(from, 11), b"still there");
        finish(from);
        finish(to);
        assert_eq!(receive_all(to), (Vec::new(), End::Finished));
    }
    relay.assert_nothing_left(path);
    let records = relay.agent.until_records(2);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_carried_urgent_bytes(&relay.agent, path);
}

/// With and without other bytes between both.
fn an_end_behind_an_urgent_byte_holds_up_neither(path: Path) {
    let relay = Relay::start(path);
    let rounds = size(4, 400);
    for round in 0..rounds {
        let (client, server) = relay.handed_over(path);
        let (from, to) = if round % 2 == 0 { (&client, &server) } else { (&server, &client) };
        say(from, b"before");
        urge(from);
        let rest: &[u8] = if round / 2 % 2 == 0 { b"behind" } else { b"" };
        say(from, rest);
        finish(from);
        assert_eq!(receive_all(to), ([b"before!", rest].concat(), End::Finished), "round {round}");
        say(to, b"still there");
        finish(to);
        assert_eq!(receive_all(from), (b"still there".to_vec(), End::Finished));
    }
    relay.assert_nothing_left(path);
    let records = relay.agent.until_records(rounds);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_carried_urgent_bytes(&relay.agent, path);
}

/// What has an urgent byte in it, splice(2) leaves to recv(2).
#[track_caller]
fn assert_carried_urgent_bytes(agent: &Agent, path: Path) {
    if path != Path::Splice {
        agent.assert_share(path, 99);
    }
}

fn clients_of_multipath_tcp_are_served(path: Path) {
    multipath(path, &[]);
}

/// Sockets that the C library opens become those of Multipath TCP (mptcpize(8)): those of self-tests do, and those that carry flows are opened by system
/// calls.
fn a_balancer_of_multipath_tcp_serves(path: Path) {
    multipath(path, &["mptcpize", "run"]);
}

fn multipath(path: Path, wrapper: &[&str]) {
    let net = net();
    let listener = net.server().listen(SERVER_PORT);
    let config = Config::new().path(path).tcp("in", net.frontend(PORT), "out", "").backend(
        "out",
        net.server().address(SERVER_PORT),
        if wrapper.is_empty() { required(path) } else { "" },
    );
    let agent = Agent::launch(&net).through(wrapper).start(&config);
    let bytes = size(3_000_000, 256 << 20);
    for flows in 1..=2 {
        let (client, server) = (net.client.connect_multipath(net.frontend(PORT)), listener.accept());
        say(&client, b"?");
        assert_eq!(receive_exactly(&server, 1), b"?");
        stream_both_ways(&client, &server, bytes, bytes);
        let records = agent.until_records(flows);
        assert_eq!(records[flows - 1].close(), "finished");
    }
    if wrapper.is_empty() {
        assert_nothing_left(&agent, path);
        agent.assert_share(path, 99);
        return;
    }
    agent.until_idle();
    if path == Path::Sockmap {
        // Its self-test has found that no map takes such a socket.
        let off = [("path", "sockmap"), ("reason", "self-test")];
        assert_eq!(agent.scrape().value("lb_path_available", &off).to_bits(), 0_f64.to_bits());
    }
}

fn flows_of_several_workers_go_the_same_way(path: Path) {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let config = Config::new()
        .global("workers = 4")
        .path(path)
        .tcp("in", net.frontend(PORT), "out", "")
        .backend("out", net.server().address(SERVER_PORT), "");
    let agent = Agent::start(&net, &config);
    // More than one worker may have: a new connection goes to one that has clearly fewer.
    let pairs: Vec<_> =
        (0..40).map(|_| (net.client.connect(net.frontend(PORT)), listener.accept())).collect();
    std::thread::scope(|scope| {
        for (client, server) in &pairs {
            scope.spawn(move || {
                for (number, (from, to)) in
                    (0..size(50_u32, 5_000)).zip([(client, server), (server, client)].iter().cycle())
                {
                    say(from, &number.to_be_bytes());
                    assert_eq!(receive_exactly(to, 4), number.to_be_bytes());
                }
            });
        }
    });
    until_handed_over(&agent, path, pairs.len());
    drop(pairs);
    assert_nothing_left(&agent, path);
    agent.assert_share(path, 100);
}
