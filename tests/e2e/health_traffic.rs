// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that come and go quickly, and what traffic says of them.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::net::{Namespace, Net};
use lb_tests::peer::Service;
use lb_tests::size;
use lb_tests::stream::{End, receive_all, reset, say};
use lb_tests::wait::until;

use crate::support::{PORT, SERVER_PORT};

/// A server that begins and ends to listen ten times a second meets as many checks as any other, and its state changes at most as
/// often as `rise` and `fall` allow.
#[test]
fn a_server_toggled_at_ten_hertz_meets_no_storm_of_checks() {
    let net = Net::new(1);
    count_connects(net.server());
    let check = "type = \"tcp\"\ninterval = \"400ms\"\nfast-interval = \"200ms\"\ndown-interval = \"400ms\"\n\
                 jitter = 0\nrise = 2\nfall = 3";
    let agent = Agent::launch(&net).alive().start(&config(&net, "", check));
    let (begun, lasting) = (Instant::now(), Duration::from_secs(size(8, 120)));
    while begun.elapsed() < lasting {
        let listener = net.server().listen(SERVER_PORT);
        std::thread::sleep(Duration::from_millis(50));
        listener.shut();
        drop(listener);
        std::thread::sleep(Duration::from_millis(50));
    }
    let most = begun.elapsed().as_millis() as u64 / 200 + 8;
    let arrived = connects(net.server());
    let scrape = agent.scrape();
    let checks = scrape.count("lb_server_checks_total", &[]);
    assert!((10..=most).contains(&arrived), "{arrived} checks arrived, at most {most} should");
    assert!(arrived.abs_diff(checks) <= 1, "{arrived} arrived, {checks} counted");
    let changes = scrape.count("lb_server_state_changes_total", &[]);
    // Two successes or three failures each; the first result decides alone.
    assert!(changes <= checks / 2 + 1, "{changes} changes in {checks} checks");
}

#[test]
fn failed_connects_mark_a_server_down_and_checks_bring_it_back() {
    let net = Net::new(1);
    let check = "type = \"tcp\"\ninterval = \"1h\"\nfast-interval = \"200ms\"\ndown-interval = \"500ms\"\njitter = 0\n\
                 observe = \"connections\"\nerror-limit = 5\non-error = \"mark-down\"";
    let server = Service::start(net.server().listen(SERVER_PORT), |_| ());
    let agent = Agent::start(&net, &config(&net, "retries = 0", check));
    agent.until_count("lb_server_checks_total", &[], 1);
    drop(server);
    for _ in 0..4 {
        net.client.connect_to_the_end(net.frontend(PORT));
    }
    assert_eq!(agent.scrape().count("lb_server_up", &[]), 1);
    net.client.connect_to_the_end(net.frontend(PORT));
    agent.until_count("lb_server_up", &[], 0);
    until("a line about the server that went down", || said(&agent, "5 errors of traffic in a row"));
    // A check, which is an hour away otherwise, follows soon.
    until("a failed check", || agent.scrape().count("lb_server_check_failures_total", &[]) >= 1);
    let _server = Service::start(net.server().listen(SERVER_PORT), |_| ());
    agent.until_count("lb_server_up", &[], 1);
}

/// The server accepts connections, so that its checks pass; clients get resets and no byte.
#[test]
fn early_resets_mark_a_server_down_that_passes_its_checks() {
    let net = Net::new(1);
    let check = "type = \"tcp\"\ninterval = \"1h\"\nfast-interval = \"1h\"\ndown-interval = \"1h\"\njitter = 0\n\
                 observe = \"connections\"\nerror-limit = 3\non-error = \"mark-down\"";
    let _server = rude(&net);
    let agent = Agent::start(&net, &config(&net, "retries = 0", check));
    agent.until_count("lb_server_checks_total", &[], 1);
    (0..3).for_each(|_| be_reset(&net));
    agent.until_count("lb_server_up", &[], 0);
    assert!(said(&agent, "3 errors of traffic in a row"));
    assert_eq!(agent.scrape().count("lb_server_check_failures_total", &[]), 0);
}

#[test]
fn without_observe_traffic_does_not_change_the_state() {
    let net = Net::new(1);
    let _server = rude(&net);
    let agent = Agent::start(&net, &config(&net, "retries = 0", "type = \"tcp\"\ninterval = \"1h\""));
    agent.until_count("lb_server_checks_total", &[], 1);
    (0..30).for_each(|_| be_reset(&net));
    agent.until_records(30);
    assert_eq!(agent.scrape().count("lb_server_up", &[]), 1);
}

/// A server that accepts connections, so that its checks pass, and resets those that say something.
fn rude(net: &Net) -> Service<()> {
    Service::start(net.server().listen(SERVER_PORT), |mut stream| {
        if stream.read(&mut [0]).is_ok_and(|bytes| bytes > 0) {
            reset(stream);
        }
    })
}

#[track_caller]
fn be_reset(net: &Net) {
    let stream = net.client.connect(net.frontend(PORT));
    say(&stream, b"x");
    assert_eq!(receive_all(&stream), (Vec::new(), End::Reset));
}

fn config(net: &Net, backend_lines: &str, check: &str) -> Config {
    let config = Config::new().tcp("in", net.frontend(PORT), "pool", "").pool("pool", backend_lines);
    config.raw(&format!("[backend.pool.check]\n{check}")).server(
        "pool",
        "only",
        net.server().address(SERVER_PORT),
        "",
    )
}

fn said(agent: &Agent, words: &str) -> bool {
    agent.process.stderr().iter().any(|line| line.contains(words))
}

/// Counts connects to the server's port from now on, also those that are refused.
fn count_connects(place: &Namespace) {
    for words in [
        "add table inet lb",
        "add chain inet lb in { type filter hook input priority 0 ; }",
        &format!("add rule inet lb in tcp dport {SERVER_PORT} tcp flags & (syn|ack) == syn counter"),
    ] {
        place.run(Command::new("nft").arg(words));
    }
}

/// How many there were.
#[track_caller]
fn connects(place: &Namespace) -> u64 {
    let listing = place.run(Command::new("nft").args(["list", "table", "inet", "lb"]));
    let (_, rest) = listing.split_once("counter packets ").expect("a counter");
    rest.split(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}
