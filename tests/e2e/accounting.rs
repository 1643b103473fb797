// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes in the log and in the counters are those that arrived at the ends, whatever ended the flow.

use std::net::TcpStream;
use std::time::Duration;

use lb_tests::agent::{Agent, Record};
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::random::Random;
use lb_tests::stream::{End, finish, receive, receive_all, receive_at_most, reset, send, send_until_blocked};
use lb_tests::wait::until;

use crate::support::{
    Relay, assert_carried, assert_carried_so_far, assert_received, limit_socket_buffers, required,
};

on_all_paths! {
    bytes_of_flows_that_end_cleanly_are_those_that_arrived,
    bytes_of_flows_that_are_reset_are_those_that_arrived,
    bytes_of_flows_that_are_timed_out_are_those_that_arrived,
    bytes_of_flows_that_are_cut_are_those_that_arrived,
    bytes_of_a_flow_that_is_reset_in_a_backlog_are_no_fewer_than_arrived,
    bytes_of_open_flows_are_counted_within_seconds,
}

fn bytes_of_flows_that_end_cleanly_are_those_that_arrived(path: Path) {
    arrived(path, "finished", |pair, _| {
        finish(&pair.0);
        finish(&pair.1);
        assert_eq!(receive_all(&pair.0), (Vec::new(), End::Finished));
        assert_eq!(receive_all(&pair.1), (Vec::new(), End::Finished));
    });
}

fn bytes_of_flows_that_are_reset_are_those_that_arrived(path: Path) {
    arrived(path, "client-reset", |(client, server), _| {
        reset(client);
        assert_eq!(receive_all(&server), (Vec::new(), End::Reset));
    });
    arrived(path, "server-reset", |(client, server), _| {
        reset(server);
        assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    });
}

fn bytes_of_flows_that_are_timed_out_are_those_that_arrived(path: Path) {
    arrived(path, "idle-timeout", |(client, _server), _| {
        assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    });
    arrived(path, "half-close-timeout", |(client, server), _| {
        finish(&client);
        assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
        assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    });
}

fn bytes_of_flows_that_are_cut_are_those_that_arrived(path: Path) {
    arrived(path, "shutdown", |(client, _server), agent| {
        agent.terminate();
        until("/readyz to say 503", || agent.admin("/readyz").is_some_and(|response| response.status == 503));
        agent.terminate();
        assert_eq!(receive_all(&client), (Vec::new(), End::Reset));
    });
}

/// Flows of all sizes and both directions, one an agent, whose bytes have all arrived when `end` ends it.
fn arrived(path: Path, reason: &str, end: impl Fn((TcpStream, TcpStream), &Agent)) {
    let mut random = Random::new(3);
    for (up, down) in [(0, 1), (1, 0), (1_000_000, 20_000), (20_000, 1_000_000)] {
        let (up, down) = (up + random.below(1000) as u64 + 1, down + random.below(1000) as u64 + 1);
        let relay = relay(path, reason);
        // A byte each way shows that it is inside. Elsewhere that takes as long as the timeouts here.
        let is_inside = path == Path::Sockmap;
        let (pair, more) = if is_inside { (relay.handed_over(path), 1) } else { (relay.pair(), 0) };
        assert_eq!(hashes_of(&pair, up, down), [true; 2]);
        end(pair, &relay.agent);
        let record = &relay.agent.until_records(1)[0];
        assert_eq!(record.close(), reason);
        assert_counted(&relay.agent, reason, record, [up + more, down + more]);
        if reason != "shutdown" {
            relay.agent.assert_share(path, 99);
        }
    }
}

/// With the timeouts that an ending wants to see.
fn relay(path: Path, reason: &str) -> Relay {
    match reason {
        "idle-timeout" => Relay::with(path, "idle-timeout = \"1s\""),
        "half-close-timeout" => Relay::with(path, "half-close-timeout = \"1s\""),
        _ => Relay::start(path),
    }
}

/// Sends both ways at once; by direction, whether what arrived has the hash of what was sent.
fn hashes_of((client, server): &(TcpStream, TcpStream), up: u64, down: u64) -> [bool; 2] {
    std::thread::scope(|scope| {
        let sent = [(client, 1, up), (server, 2, down)]
            .map(|(stream, seed, bytes)| scope.spawn(move || send(stream, seed, bytes).expect("is read")));
        let reader = scope.spawn(|| receive_at_most(client, 2, down).sha256);
        let got = [receive_at_most(server, 1, up).sha256, reader.join().expect("no panic")];
        let [up, down] = sent.map(|sender| sender.join().expect("no panic"));
        [got[0] == up, got[1] == down]
    })
}

/// The line, the frontend, the server, the paths and the histograms' sums say the same.
#[track_caller]
fn assert_counted(agent: &Agent, reason: &str, record: &Record, [up, down]: [u64; 2]) {
    assert_eq!([record.number("received_bytes"), record.number("sent_bytes")], [up, down], "{record:?}");
    if reason == "shutdown" {
        // Nobody is left who could be asked.
        return;
    }
    let scrape = agent.scrape();
    let count = |name: &str| scrape.count(name, &[]);
    assert_eq!(
        [count("lb_frontend_received_bytes_total"), count("lb_frontend_sent_bytes_total")],
        [up, down]
    );
    // A server receives what a client sends: named as HAProxy's bin and bout are, from the client's view.
    assert_eq!([count("lb_server_received_bytes_total"), count("lb_server_sent_bytes_total")], [down, up]);
    assert_eq!(count("lb_path_bytes_total"), up + down);
    assert_eq!([count("lb_session_received_bytes_sum"), count("lb_session_sent_bytes_sum")], [up, down]);
}

/// What was under way, the agent's kernel had taken, and the peer's had not: it counts, or does not. What the peer got counts, and what
/// the sender's kernel did not take does not.
fn bytes_of_a_flow_that_is_reset_in_a_backlog_are_no_fewer_than_arrived(path: Path) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 256 << 10);
    let relay = Relay::over(net, path, "");
    let (client, server) = relay.pair();
    let taken = send_until_blocked(&client, 1, Duration::from_millis(500));
    let some = receive_at_most(&server, 1, 100_000);
    assert_received(&some, 100_000, End::Silent);
    assert_carried_so_far(&relay.agent, path, some.bytes);
    reset(client);
    let rest = receive_all(&server);
    assert_eq!(rest.1, End::Reset);
    let record = &relay.agent.until_records(1)[0];
    let (arrived, counted) = (some.bytes + rest.0.len() as u64, record.number("received_bytes"));
    assert!((arrived..=taken).contains(&counted), "{counted} counted, {arrived} arrived, {taken} taken");
    assert_eq!(record.number("sent_bytes"), 0);
    assert_eq!(relay.agent.scrape().count("lb_frontend_received_bytes_total", &[]), counted);
}

fn bytes_of_open_flows_are_counted_within_seconds(path: Path) {
    let relay = Relay::with(path, required(path));
    let (agent, pair) = (&relay.agent, relay.pair());
    let mut total = 0;
    for bytes in [1, 1_000, 3_000_000] {
        assert_eq!(hashes_of(&pair, bytes, 0), [true; 2]);
        total += bytes;
        agent.until_count("lb_frontend_received_bytes_total", &[], total);
        agent.until_count("lb_path_bytes_total", &[], total);
        // Patterns begin anew with each transfer; what was counted stays.
        assert_eq!(agent.scrape().count("lb_frontend_received_bytes_total", &[]), total);
    }
    drop(pair.0);
    assert_eq!(receive(&pair.1, 1).bytes, 0);
    assert_carried(agent, path, 1);
}
