// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: client and server speak with each other, and the agent has no part in it.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive, receive_all, receive_exactly, reset, say, send};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{
    NOTHING_KEPT, PORT, Relay, SERVER_PORT, assert_received, stream_both_ways, stream_whole, tcp_config,
};

fn relay() -> Relay {
    Relay::start(Path::Packet)
}

fn relay6() -> Relay {
    let net = Net::new(1);
    let config = Config::new()
        .global(NOTHING_KEPT)
        .path(Path::Packet)
        .tcp("in", net.balancer.address6(PORT), "out", "")
        .backend("out", net.server().address6(SERVER_PORT), "");
    let listener = net.server().listen(SERVER_PORT);
    Relay { agent: Agent::start(&net, &config), listener, net }
}

/// Who has set ports aside wants the path wherever it is possible, and is not told to ask for it twice.
#[test]
fn auto_takes_the_path_where_its_ports_are_written() {
    for (global, is_taken) in [("packet-ports = \"61000-61099\"", true), ("", false)] {
        let net = Net::new(1);
        let config = tcp_config(&net, Path::Auto, "").global(global);
        let listener = net.server().listen(SERVER_PORT);
        let relay = Relay { agent: Agent::start(&net, &config), listener, net };
        let (client, server) = relay.pair();
        if is_taken {
            until_spliced(&relay, &client, &server);
        }
        stream_both_ways(&client, &server, 4 << 20, 4 << 20);
        let records = relay.agent.until_records(1);
        assert_eq!(records[0].text("path") == "packet", is_taken, "{records:?}");
    }
}

/// A message each way.
#[track_caller]
fn ping(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        say(from, b"?");
        assert_eq!(receive_exactly(to, 1), b"?");
    }
}

/// Talks until the programs at the interfaces carry the flow, by their own count; returns how often.
#[track_caller]
fn until_spliced(relay: &Relay, client: &TcpStream, server: &TcpStream) -> u64 {
    let (flows, mut pings) = (relay.agent.own_flows(Path::Packet), 0);
    until("the flow to leave the agent", || {
        ping(client, server);
        pings += 1;
        relay.agent.own_flows(Path::Packet) > flows
    });
    pings
}

/// Sockets of the balancer's that have a connection with a server.
fn sockets(relay: &Relay) -> usize {
    let mut command = std::process::Command::new("ss");
    command.args(["-tnH", "dport", "=", &format!(":{SERVER_PORT}")]);
    relay.net.balancer.run(&mut command).lines().count()
}

#[test]
fn a_flow_leaves_the_agent_and_is_exact() {
    stays_exact(&relay());
}

#[test]
fn a_flow_over_ipv6_leaves_the_agent_and_is_exact() {
    let relay = relay6();
    let address = relay.net.balancer.address6(PORT);
    let client = relay.net.client.connect(address);
    let server = relay.listener.accept();
    converse(&relay, &client, &server);
}

fn stays_exact(relay: &Relay) {
    let (client, server) = relay.pair();
    converse(relay, &client, &server);
}

fn converse(relay: &Relay, client: &TcpStream, server: &TcpStream) {
    let pings = until_spliced(relay, client, server);
    until("the agent's socket to be gone", || sockets(relay) == 0);
    let bytes = size(64 << 20, 2 << 30);
    stream_both_ways(client, server, bytes, bytes);
    let records = relay.agent.until_records(1);
    assert_eq!(records[0].close(), "finished");
    assert_eq!(records[0].text("path"), "packet");
    for direction in ["received_bytes", "sent_bytes"] {
        assert_eq!(records[0].number(direction), bytes + pings, "{direction}");
    }
    relay.agent.assert_share(Path::Packet, 99);
}

/// Nobody can stop what nobody carries.
#[test]
fn an_agent_that_stands_still_holds_up_nobody() {
    let relay = relay();
    let (client, server) = relay.pair();
    until_spliced(&relay, &client, &server);
    relay.agent.process.signal(Signal::STOP);
    (0..1_000).for_each(|_| ping(&client, &server));
    stream_both_ways(&client, &server, 8 << 20, 8 << 20);
    relay.agent.process.signal(Signal::CONT);
    assert_eq!(relay.agent.until_records(1)[0].close(), "finished");
}

/// An upload that never waits is asked to, once, and loses nothing for it.
#[test]
fn bytes_that_never_cease_leave_the_agent_too() {
    for is_upload in [true, false] {
        let relay = relay();
        let (client, server) = relay.pair();
        let (from, to) = if is_upload { (&client, &server) } else { (&server, &client) };
        let bytes = size(512 << 20, 5 << 30);
        stream_whole(from, to, 1, bytes);
        finish(to);
        relay.agent.until_records(1);
        relay.agent.assert_share(Path::Packet, 90);
    }
}

#[test]
fn a_half_close_goes_through_and_the_other_direction_goes_on() {
    let relay = relay();
    let (client, server) = relay.pair();
    until_spliced(&relay, &client, &server);
    finish(&client);
    assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let sum = send(&server, 3, 8 << 20).expect("a reader");
            finish(&server);
            sum
        });
        let received = receive(&client, 3);
        assert_received(&received, 8 << 20, End::Finished);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
    assert_eq!(relay.agent.until_records(1)[0].close(), "finished");
}

#[test]
fn a_reset_goes_through_and_is_told() {
    for (is_clients, reason) in [(true, "client-reset"), (false, "server-reset")] {
        let relay = relay();
        let (client, server) = relay.pair();
        until_spliced(&relay, &client, &server);
        let (from, to) = if is_clients { (client, server) } else { (server, client) };
        reset(from);
        assert_eq!(receive_all(&to), (Vec::new(), End::Reset));
        assert_eq!(relay.agent.until_records(1)[0].close(), reason);
    }
}

#[test]
fn a_silent_flow_ends_in_time_and_loudly() {
    let net = Net::new(1);
    let config = tcp_config(&net, Path::Packet, "idle-timeout = \"2s\"");
    let listener = net.server().listen(SERVER_PORT);
    let relay = Relay { agent: Agent::start(&net, &config), listener, net };
    let (client, server) = relay.pair();
    until_spliced(&relay, &client, &server);
    assert_eq!(relay.agent.until_records(1)[0].close(), "idle-timeout");
    for end in [&client, &server] {
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    }
}

/// Very many short flows, some of which leave the agent and some of which end before they could.
#[test]
fn short_flows_are_exact_whether_they_leave_or_not() {
    let relay = relay();
    let flows = size(200, 3_000_u64);
    for number in 0..flows {
        let (client, server) = relay.pair();
        for _ in 0..number % 40 {
            ping(&client, &server);
            if number % 3 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let bytes = number * 997 % 300_000;
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let sum = send(&client, number, bytes).expect("a reader");
                finish(&client);
                sum
            });
            let received = receive(&server, number);
            assert_received(&received, bytes, End::Finished);
            assert_eq!(received.sha256, sent.join().expect("no panic"), "flow {number}");
        });
        finish(&server);
        assert_eq!(receive_all(&client), (Vec::new(), End::Finished));
    }
    let records = relay.agent.until_records(flows as usize);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    let away = relay.agent.own_flows(Path::Packet);
    println!("{away} of {flows} flows left the agent");
    assert!((flows / 10..flows).contains(&away), "{away} of {flows} flows left the agent");
}
