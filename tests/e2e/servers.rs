// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who gets the connection: weights, open connections, backups, and checks that take servers out and back in.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::peer::{Report, Service, greeter, reporter};
use lb_tests::proxy_header;
use lb_tests::stream::say;
use lb_tests::wait::until;

use crate::support::{PORT, counts, tally};

/// The port of server 0; the others follow.
const FIRST_PORT: u16 = 6001;

#[test]
fn round_robin_follows_the_weights_exactly() {
    let net = Net::new(1);
    let agent = Agent::start(&net, &pool(&net, "", &["weight = 3", "weight = 1", "weight = 0"]));
    let _servers = reporters(&net, 3);
    assert_eq!(tally(&net, 40), counts(&[("server0", 30), ("server1", 10)]));
    let served = |name| agent.scrape().count("lb_server_connections_total", &[("server", name)]);
    assert_eq!(["server0", "server1", "server2"].map(served), [30, 10, 0]);
}

#[test]
fn least_connections_fills_servers_evenly_by_weight() {
    let net = Net::new(1);
    let lines = "balance = \"least-connections\"";
    let agent = Agent::start(&net, &pool(&net, lines, &["weight = 1", "weight = 1", "weight = 2"]));
    let _servers: Vec<Service<()>> =
        (0..3).map(|index| greeter(net.server(), FIRST_PORT + index, &format!("server{index}"))).collect();
    let mut open: Vec<(String, TcpStream)> = (0..20).map(|_| greeted(&net)).collect();
    let spread = |open: &[(String, TcpStream)]| {
        let mut counts = BTreeMap::new();
        for (name, _) in open {
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
        counts
    };
    assert_eq!(spread(&open), counts(&[("server0", 5), ("server1", 5), ("server2", 10)]));

    // Who lost connections gets the next ones.
    open.retain(|(name, _)| name != "server1");
    let active = |name| agent.scrape().count("lb_server_connections_active", &[("server", name)]);
    until("server1 to have no connection", || active("server1") == 0);
    open.extend((0..5).map(|_| greeted(&net)));
    assert_eq!(spread(&open), counts(&[("server0", 5), ("server1", 5), ("server2", 10)]));
}

#[test]
fn backup_servers_work_only_while_all_others_are_down() {
    let net = Net::new(1);
    let lines = "check = { type = \"tcp\", interval = \"200ms\", timeout = \"2s\", rise = 1, fall = 1 }";
    let agent = Agent::start(&net, &pool(&net, lines, &["", "", "backup = true"]));
    let mut servers = reporters(&net, 3);
    let is_up = |name: &str, up: u64| agent.until_count("lb_server_up", &[("server", name)], up);
    ["server0", "server1", "server2"].into_iter().for_each(|name| is_up(name, 1));
    assert_eq!(tally(&net, 10), counts(&[("server0", 5), ("server1", 5)]));
    drop(servers.remove(0));
    is_up("server0", 0);
    assert_eq!(tally(&net, 10), counts(&[("server1", 10)]));
    drop(servers.remove(0));
    is_up("server1", 0);
    assert_eq!(tally(&net, 10), counts(&[("server2", 10)]));
    let _again = reporter(net.server(), FIRST_PORT, "server0", false);
    is_up("server0", 1);
    assert_eq!(tally(&net, 10), counts(&[("server0", 10)]));
}

/// The check's answers are held back by the test, so that it sees the state between the first success and the second.
#[test]
fn a_server_comes_back_after_exactly_rise_successes() {
    let net = Net::new(1);
    let check = "check = { type = \"http\", method = \"OPTIONS\", path = \"/alive\", expect = \"204\", port = 8008, \
                 interval = \"300ms\", timeout = \"20s\", rise = 2, fall = 1, jitter = 0 }";
    let (answers, next) = channel::<u16>();
    let next = Mutex::new(next);
    let checks = Service::start(net.server().listen(8008), move |stream| {
        let request = request_line(&stream);
        let Ok(status) = next.lock().expect("no panic").recv() else { return request };
        say(&stream, format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").as_bytes());
        request
    });
    let config = pool(&net, check, &[""]);
    let agent = Agent::launch(&net).alive().start(&config);
    let _server = reporters(&net, 1);
    let answer = |status| {
        answers.send(status).expect("the checks are running");
        assert_eq!(checks.outcome(), "OPTIONS /alive HTTP/1.1");
    };
    let up = |expected| agent.until_count("lb_server_up", &[], expected);
    let readiness = || agent.admin("/readyz").map(|response| response.status);

    // 200 is a success for HTTP, but not for this check.
    answer(200);
    up(0);
    until("not to be ready without a server", || readiness() == Some(503));
    answer(204);
    until("the next check to begin", || checks.accepted() >= 3);
    assert_eq!(agent.scrape().count("lb_server_up", &[]), 0, "after one success of two");
    answer(204);
    up(1);
    until("to be ready", || readiness() == Some(200));
    assert_eq!(tally(&net, 3), counts(&[("server0", 3)]));
    answer(503);
    up(0);
    let scrape = agent.scrape();
    assert_eq!(scrape.count("lb_server_check_failures_total", &[]), 2);
    drop(answers);
}

#[test]
fn checks_send_a_local_header_where_the_servers_expect_one() {
    let net = Net::new(1);
    let lines = "send-proxy = \"v2\"\ncheck = { type = \"tcp\", interval = \"200ms\" }";
    let headers = Service::start(net.server().listen(FIRST_PORT), |stream| proxy_header::read(&stream));
    let _agent = Agent::start(&net, &pool(&net, lines, &[""]));
    let header = headers.outcome();
    assert_eq!(header.command, 0, "{header:?}");
}

#[test]
fn a_check_on_a_port_of_its_own_sends_no_header() {
    let net = Net::new(1);
    let lines =
        "send-proxy = \"v2\"\ncheck = { type = \"http\", path = \"/ok\", interval = \"200ms\", port = 8008 }";
    let checks = Service::start(net.server().listen(8008), |stream| {
        let request = request_line(&stream);
        say(&stream, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        request
    });
    let _agent = Agent::start(&net, &pool(&net, lines, &[""]));
    assert_eq!(checks.outcome(), "GET /ok HTTP/1.1");
}

/// Weight and share grow evenly from 5 percent: in the first quarter to 25, beside a server that has 100 all the time.
#[test]
fn a_server_that_comes_back_takes_its_share_slowly() {
    const SLOW_START: Duration = Duration::from_secs(8);
    let net = Net::new(1);
    let lines = "check = { type = \"tcp\", interval = \"100ms\", rise = 1, fall = 1 }";
    let _steady = reporter(net.server(), FIRST_PORT, "server0", false);
    let agent = Agent::start(&net, &pool(&net, lines, &["", "slow-start = \"8s\""]));
    let up = |expected| agent.until_count("lb_server_up", &[("server", "server1")], expected);
    up(0);
    let _back = reporter(net.server(), FIRST_PORT + 1, "server1", false);
    up(1);
    let begin = Instant::now();
    let (mut early, mut all) = (0, 0);
    while begin.elapsed() < SLOW_START / 4 {
        early += tally(&net, 20).remove("server1").unwrap_or(0);
        all += 20;
    }
    // Between 5 and 30 of so many more than 100; checks see the server with a delay.
    assert!(early * 100 >= all * 2 && early * 100 <= all * 25, "{early} of {all}");
    until("the share to be whole", || {
        begin.elapsed() > SLOW_START && tally(&net, 20) == counts(&[("server0", 10), ("server1", 10)])
    });
}

/// Every state change is one line on standard error that names server and reason.
#[test]
fn state_changes_are_logged_with_their_reason() {
    let net = Net::new(1);
    let lines = "check = { type = \"tcp\", interval = \"200ms\", rise = 1, fall = 2 }";
    let servers = reporters(&net, 1);
    let agent = Agent::start(&net, &pool(&net, lines, &[""]));
    drop(servers);
    agent.until_count("lb_server_up", &[], 0);
    until("a line about the server that went down", || {
        let lines = agent.process.stderr();
        lines.iter().any(|line| line.contains("server0") && line.to_lowercase().contains("refused"))
    });
    assert_eq!(agent.scrape().count("lb_server_state_changes_total", &[]), 1);
}

/// A backend with one server an element of `server_lines`, behind a frontend of mode `tcp`.
fn pool(net: &Net, backend_lines: &str, server_lines: &[&str]) -> Config {
    let config = Config::new().tcp("in", net.frontend(PORT), "pool", "").pool("pool", backend_lines);
    (0..).zip(server_lines).fold(config, |config, (index, lines)| {
        let address = net.server().address(FIRST_PORT + index);
        config.server("pool", &format!("server{index}"), address, lines)
    })
}

fn reporters(net: &Net, count: u16) -> Vec<Service<Report>> {
    let start = |index| reporter(net.server(), FIRST_PORT + index, &format!("server{index}"), false);
    (0..count).map(start).collect()
}

/// A connection to a greeter that stays open, and the greeter's name.
#[track_caller]
fn greeted(net: &Net) -> (String, TcpStream) {
    let stream = net.client.connect(net.frontend(PORT));
    (request_line(&stream), stream)
}

/// The first line from the other end.
#[track_caller]
fn request_line(stream: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}
