// SPDX-License-Identifier: MIT OR Apache-2.0
//! Full servers let connections wait: in order, each its time, and nobody is lost.
//!
//! A busy machine adds to the times here; by a clock that stands still they are exact: lb-userspace, `backend::tests::waiting`.

use std::collections::{BTreeMap, VecDeque};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::hello::Hello;
use lb_tests::net::{Listener, Net};
use lb_tests::stream::{End, finish, receive_all, receive_exactly, reset, say};
use lb_tests::wait::until;

use crate::support::{PORT, SERVER_PORT};

/// Clients that come, and how many of them the server takes at once.
const CLIENTS: u32 = 300;
const AT_ONCE: u32 = 100;

/// A frontend `in`, a backend `pool` with one server.
fn start(net: &Net, max_connections: u32, pool_lines: &str) -> (Agent, Listener) {
    let limit = format!("max-connections = {max_connections}");
    let config = Config::new().tcp("in", net.frontend(PORT), "pool", "").pool("pool", pool_lines).server(
        "pool",
        "small",
        net.server().address(SERVER_PORT),
        &limit,
    );
    (Agent::start(net, &config), net.server().listen(SERVER_PORT))
}

/// A client that says its number at once.
fn client(net: &Net, number: u32) -> TcpStream {
    let client = net.client.connect(net.frontend(PORT));
    say(&client, &number.to_be_bytes());
    client
}

/// The next connection at the server and the number of its client.
fn served(listener: &Listener) -> (TcpStream, u32) {
    let server = listener.accept();
    let number = receive_exactly(&server, 4).try_into().map(u32::from_be_bytes).expect("four bytes");
    (server, number)
}

/// One worker accepts in the order in which they connect; several may not (see below).
#[test]
fn three_hundred_clients_of_a_server_for_a_hundred_are_served_in_order() {
    let net = Net::new(1);
    let config = Config::new()
        .global("workers = 1")
        .tcp("in", net.frontend(PORT), "pool", "")
        .pool("pool", "queue-timeout = \"1m\"")
        .server("pool", "small", net.server().address(SERVER_PORT), &format!("max-connections = {AT_ONCE}"));
    let agent = Agent::start(&net, &config);
    let listener = net.server().listen(SERVER_PORT);
    let clients: Vec<_> = (0..CLIENTS).map(|number| client(&net, number)).collect();
    let mut open: VecDeque<_> = (0..AT_ONCE).map(|_| served(&listener)).collect();
    agent.until_count("lb_backend_queue_length", &[], u64::from(CLIENTS - AT_ONCE));
    assert_eq!(agent.scrape().count("lb_server_connections_active", &[]), u64::from(AT_ONCE));
    for (number, client) in (0..).zip(&clients) {
        let (server, first) = open.pop_front().expect("as many as are served at once");
        assert_eq!(first, number, "the order in which they came");
        say(&server, b"done");
        drop(server);
        assert_eq!(receive_all(client), (b"done".to_vec(), End::Finished));
        client.shutdown(std::net::Shutdown::Both).expect("still open");
        if number + AT_ONCE < CLIENTS {
            open.push_back(served(&listener));
        }
    }
    let records = agent.until_records(CLIENTS as usize);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    let waited = records.iter().filter(|record| record.field("queue_ms").is_some()).count();
    assert_eq!(waited, (CLIENTS - AT_ONCE) as usize);
    let scrape = agent.scrape();
    let seen = scrape.count("lb_backend_queue_duration_seconds_count", &[]);
    assert_eq!((seen, scrape.count("lb_backend_queue_length", &[])), (u64::from(CLIENTS - AT_ONCE), 0));
}

/// What is promised is the order of standing in line: with a worker on every core, one may be faster than another from accept to there.
/// The log says how many were in front (`%bq` in HAProxy's words). Nobody leaves while they come, so that this is a place in the order.
#[test]
fn with_many_workers_places_are_given_in_the_order_of_standing_in_line() {
    for workers in ["", "workers = 4"] {
        let net = Net::new(1);
        let config = Config::with_log("target = \"stdout\"\nformat = \"tcplog\"")
            .global(workers)
            .tcp("in", net.frontend(PORT), "pool", "")
            .pool("pool", "queue-timeout = \"1m\"")
            .server(
                "pool",
                "small",
                net.server().address(SERVER_PORT),
                &format!("max-connections = {AT_ONCE}"),
            );
        let agent = Agent::start(&net, &config);
        let listener = net.server().listen(SERVER_PORT);
        let serve_first = |number| (client(&net, number), served(&listener).0);
        let mut places: VecDeque<_> = (0..AT_ONCE).map(serve_first).collect();
        let mut waiting = come_together(&net, AT_ONCE..CLIENTS);
        agent.until_count("lb_backend_queue_length", &[], u64::from(CLIENTS - AT_ONCE));
        let mut order = Vec::new();
        while !waiting.is_empty() {
            // Each place that comes free is taken before the next one does.
            drop(places.pop_front());
            let (server, number) = served(&listener);
            let client = waiting.remove(&number).expect("a client that waits");
            order.push(client.local_addr().expect("connected").to_string());
            places.push_back((client, server));
        }
        drop(places);
        until("a line for each", || agent.process.stdout_lines() == CLIENTS as usize);
        let lines = agent.process.stdout();
        let positions: BTreeMap<&str, u32> = lines.iter().map(|line| position(line)).collect();
        let served: Vec<u32> = order.iter().map(|client| positions[client.as_str()]).collect();
        assert!(served.iter().copied().eq(0..CLIENTS - AT_ONCE), "{workers}: {served:?}");
    }
}

/// Clients that connect on eight threads at the same time, by number.
fn come_together(net: &Net, numbers: Range<u32>) -> BTreeMap<u32, TcpStream> {
    let come =
        |thread: usize| numbers.clone().skip(thread).step_by(8).map(|number| (number, client(net, number)));
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|thread| scope.spawn(move || Vec::from_iter(come(thread)))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("all connect")).collect()
    })
}

/// The client and its position in the queue, from a line in HAProxy's format: `%ci:%cp … %sq/%bq sni=…`
fn position(line: &str) -> (&str, u32) {
    let (fields, _) = line.split_once(" sni=").expect("a line in HAProxy's format");
    let (client, _) = fields.split_once(' ').expect("many fields");
    let (_, position) = fields.rsplit_once('/').expect("two queues");
    (client, position.parse().expect("a number"))
}

#[test]
fn who_waits_too_long_is_turned_away_on_time() {
    let net = Net::new(1);
    let (agent, listener) = start(&net, 1, "queue-timeout = \"2s\"");
    let first = client(&net, 0);
    let (server, _) = served(&listener);
    let waiting: Vec<_> = (1..=10).map(|number| client(&net, number)).collect();
    for client in &waiting {
        assert_eq!(receive_all(client), (Vec::new(), End::Reset));
    }
    let records = agent.until_records(waiting.len());
    for record in &records {
        assert_eq!((record.close(), record.text("termination")), ("queue-timeout", "sQ"));
        let waited = record.field("queue_ms").and_then(serde_json::Value::as_f64).expect("it waited");
        assert!((2_000.0..4_000.0).contains(&waited), "{waited} ms");
    }
    assert_eq!(agent.scrape().count("lb_backend_unavailable_total", &[]), waiting.len() as u64);
    drop((server, first));
    agent.until_idle();
    let _next = client(&net, 11);
    assert_eq!(served(&listener).1, 11, "the queue is as good as new");
}

#[test]
fn who_leaves_the_queue_makes_room_in_it() {
    let net = Net::new(1);
    let (agent, listener) = start(&net, 1, "queue-timeout = \"1m\"\nmax-queue = 1");
    let first = client(&net, 0);
    let (server, _) = served(&listener);
    let second = client(&net, 1);
    agent.until_count("lb_backend_queue_length", &[], 1);
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "servers-full");

    rustix::net::sockopt::set_socket_linger(&second, Some(Duration::ZERO)).expect("a socket");
    drop(second);
    agent.until_count("lb_backend_queue_length", &[], 0);
    let records = agent.until_records(2);
    let gone = records.iter().find(|record| record.close() == "queue-aborted").expect("a line for who left");
    assert_eq!(gone.text("termination"), "CQ");

    let _third = client(&net, 2);
    agent.until_count("lb_backend_queue_length", &[], 1);
    drop((server, first));
    assert_eq!(served(&listener).1, 2);
}

/// A closed browser ends its connection without a reset. No server is bothered with what it wanted; a client that may still want an
/// answer, having said all, gets it.
#[test]
fn who_leaves_with_a_fin_gets_no_place() {
    let net = Net::new(1);
    let (tls, hello) = (net.frontend(PORT + 1), Hello::named("alpha.example").wire());
    let config = Config::new()
        .tcp("in", net.frontend(PORT), "pool", "")
        .passthrough("tls", &[tls], "default-backend = \"pool\"")
        .pool("pool", "queue-timeout = \"1m\"")
        .server("pool", "small", net.server().address(SERVER_PORT), "max-connections = 1");
    let (agent, listener) = (Agent::start(&net, &config), net.server().listen(SERVER_PORT));
    let first = client(&net, 0);
    let (server, _) = served(&listener);
    let gone = net.client.connect(tls);
    say(&gone, &hello);
    agent.until_count("lb_backend_queue_length", &[], 1);
    drop(gone);
    let second = client(&net, 1);
    agent.until_count("lb_backend_queue_length", &[], 2);
    finish(&second);
    drop((server, first));
    assert_eq!(served(&listener).1, 1, "the first of the two is gone");
    let records = agent.until_records(2);
    let gone = records.iter().find(|record| record.close() == "queue-aborted").expect("a line for who left");
    assert_eq!(gone.text("termination"), "CQ");
}

/// What the server sent before may take the client as long as it likes to read.
#[test]
fn a_server_that_resets_makes_room_at_once() {
    let net = Net::new(1);
    let (agent, listener) = start(&net, 1, "queue-timeout = \"1m\"");
    let first = client(&net, 0);
    let (server, _) = served(&listener);
    let second = client(&net, 1);
    agent.until_count("lb_backend_queue_length", &[], 1);
    let answer = vec![7; 1 << 18];
    say(&server, &answer);
    // A reset discards what has not left the server yet.
    agent.until_count("lb_server_received_bytes_total", &[], answer.len() as u64);
    reset(server);
    let (_server, number) = served(&listener);
    assert_eq!(number, 1);
    assert!(receive_exactly(&first, answer.len()) == answer);
    assert_eq!(receive_all(&first), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "server-reset");
    drop(second);
}

#[test]
fn a_draining_agent_still_serves_its_queue() {
    let net = Net::new(1);
    let (mut agent, listener) = start(&net, 1, "queue-timeout = \"1m\"");
    let first = client(&net, 0);
    let (server, _) = served(&listener);
    let second = client(&net, 1);
    agent.until_count("lb_backend_queue_length", &[], 1);
    agent.terminate();
    drop((server, first));
    let (server, number) = served(&listener);
    assert_eq!(number, 1);
    say(&server, b"served");
    drop(server);
    assert_eq!(receive_all(&second), (b"served".to_vec(), End::Finished));
    drop(second);
    assert!(agent.wait().success());
}
