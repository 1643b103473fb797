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
use serde_json::Value;

use crate::support::{PORT, SERVER_PORT};

/// `rise` and `fall` of the server that comes and goes.
const RISE: usize = 2;
const FALL: usize = 3;

/// A server that begins and ends to listen ten times a second meets as many checks as any other, and its state changes where `rise` and
/// `fall` say, and only there. It listens for a fifth of each period for a while, then for four fifths, and so on: chance alone would
/// seldom make three failures in a row. Intervals are no multiples of the period, and vary.
#[test]
fn a_server_toggled_at_ten_hertz_meets_no_storm_of_checks() {
    let net = Net::new(1);
    count_connects(net.server());
    let check = format!(
        "type = \"tcp\"\ninterval = \"330ms\"\nfast-interval = \"170ms\"\ndown-interval = \"330ms\"\n\
         jitter = 30\nrise = {RISE}\nfall = {FALL}"
    );
    let agent = Agent::launch(&net).alive().start(&config(&net, "", &check));
    let (begun, lasting) = (Instant::now(), Duration::from_secs(size(8, 120)));
    let mut results = Vec::new();
    while begun.elapsed() < lasting {
        for (listening, silent) in [(20, 80), (80, 20)] {
            (0..15).for_each(|_| toggle(&net, listening, silent));
            add_results(&agent, &mut results);
        }
    }
    let (arrived, scrape) = (connects(net.server()), agent.scrape());
    add_results(&agent, &mut results);
    // The shortest interval, 170 ms less 30 %.
    let most = begun.elapsed().as_millis() as u64 / 119 + 8;
    let checks = scrape.count("lb_server_checks_total", &[]);
    assert!((10..=most).contains(&arrived), "{arrived} checks arrived, at most {most} should");
    assert!(arrived.abs_diff(checks) <= 1, "{arrived} arrived, {checks} counted");
    assert!((results.len() as u64).abs_diff(checks) <= 1, "{} results of {checks} checks", results.len());
    let changes = changes_in(&results);
    // The first result may be one of them.
    assert!(changes >= 2, "{results:?}");
    let counted = scrape.count("lb_server_state_changes_total", &[]);
    assert!(counted.abs_diff(changes as u64) <= 1, "{changes} changes among the results, {counted} counted");
}

/// Listens for a part of a period, in milliseconds.
fn toggle(net: &Net, listening: u64, silent: u64) {
    let listener = net.server().listen(SERVER_PORT);
    std::thread::sleep(Duration::from_millis(listening));
    listener.shut();
    drop(listener);
    std::thread::sleep(Duration::from_millis(silent));
}

/// A result of a check: when it was, whether it passed, and whether the server is up after it.
type Result = (String, bool, bool);

/// Adds the results that are new in what the admin surface says of the only server. It has the last twenty, more than come between.
fn add_results(agent: &Agent, results: &mut Vec<Result>) {
    let response = agent.admin("/api/v1/servers").expect("an admin surface");
    let value: Value = serde_json::from_str(&response.body).expect("JSON");
    let read = |result: &Value| -> Result {
        let at = result["at"].as_str().expect("a time").to_owned();
        (at, result["passed"] == true, result["state"] == "up")
    };
    let list = value["servers"][0]["results"].as_array().expect("a list").iter().map(read);
    let list: Vec<Result> = list.collect();
    let known = results.last().and_then(|last| list.iter().rposition(|result| result == last));
    results.extend_from_slice(&list[known.map_or(0, |known| known + 1)..]);
}

/// How often the state changed. A change must come with the last of `fall` failures in a row or of `rise` successes, and with none of
/// these may it fail to come; the first result decides alone.
#[track_caller]
fn changes_in(results: &[Result]) -> usize {
    let (mut is_up, mut against, mut changes) = (true, 0, 0);
    for (index, (_, has_passed, state)) in results.iter().enumerate() {
        against = if *has_passed == is_up { 0 } else { against + 1 };
        let needed = if index == 0 {
            1
        } else if is_up {
            FALL
        } else {
            RISE
        };
        if against == needed {
            (is_up, against, changes) = (!is_up, 0, changes + 1);
        }
        assert_eq!(*state, is_up, "after result {index} of {results:?}");
    }
    changes
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
    until("the log to say it", || said(&agent, "3 errors of traffic in a row"));
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
