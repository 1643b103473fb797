// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that cannot be connected costs clients nothing while there is another.

use std::process::Command;
use std::time::Instant;

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::peer::{Report, Service, ask, reporter};
use lb_tests::stream::End;
use lb_tests::wait::PATIENCE;

use crate::support::PORT;

const SERVERS: [&str; 3] = ["server0", "server1", "server2"];

/// Slow enough that every connect right after the stop is made before a check can notice.
const CHECK: &str =
    "check = { type = \"tcp\", interval = \"3s\", timeout = \"1s\", rise = 2, fall = 2 }\nretries = 3";

#[test]
fn one_of_three_servers_stopped_costs_no_client_an_error() {
    let net = Net::new(3);
    let agent = Agent::start(&net, &config(&net, CHECK));
    let mut servers = start_all(&net);
    let state = |name, up| agent.until_count("lb_server_up", &[("server", name)], up);
    SERVERS.iter().for_each(|name| state(name, 1));
    assert_eq!(answers(&net, 9).len(), 3);

    drop(servers.remove(1));
    assert_eq!(answers(&net, 30), ["server0", "server2"]);
    let scrape = agent.scrape();
    let failures = scrape.count("lb_server_connect_failures_total", &[("server", "server1")]);
    assert!(failures > 0, "the first connects were made before the check noticed");
    assert_eq!(scrape.count("lb_backend_redispatches_total", &[]), failures);
    assert_eq!(scrape.count("lb_backend_retries_total", &[]), failures);
    state("server1", 0);
    assert_eq!(answers(&net, 9), ["server0", "server2"]);

    servers.push(reporter(&net.servers[1], 80, "server1", false));
    state("server1", 1);
    assert_eq!(answers(&net, 9), SERVERS);
    let records = agent.until_records(57);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    let retried = records.iter().map(|record| record.number("retries")).sum::<u64>();
    assert_eq!(retried, failures);
}

/// A server behind a firewall that drops: connects run into `connect-timeout` instead of being refused.
#[test]
fn a_server_that_swallows_connects_costs_a_timeout_but_no_error() {
    let net = Net::new(3);
    let agent = Agent::start(&net, &config(&net, "connect-timeout = \"300ms\"\nretries = 2"));
    let _servers = start_all(&net);
    net.servers[0].run(Command::new("nft").args(["add", "table", "inet", "wall"]));
    let chain = "add chain inet wall in { type filter hook input priority 0 ; policy drop ; }";
    net.servers[0].run(Command::new("nft").arg(chain));
    let begin = Instant::now();
    assert_eq!(answers(&net, 6), ["server1", "server2"]);
    assert!(begin.elapsed() < PATIENCE);
    let failures = agent.scrape().count("lb_server_connect_failures_total", &[("server", "server0")]);
    assert!(failures >= 1);
}

#[test]
fn a_client_is_told_loudly_when_no_server_can_be_connected() {
    let net = Net::new(3);
    let agent = Agent::start(&net, &config(&net, "retries = 2"));
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    let record = &agent.until_records(1)[0];
    assert_eq!((record.close(), record.number("retries")), ("connect-failed", 2));
    let failures = agent.scrape().count("lb_server_connect_failures_total", &[]);
    assert_eq!(failures, 3);
}

#[test]
fn a_client_is_told_loudly_when_no_server_is_up() {
    let net = Net::new(3);
    let check = "check = { type = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }";
    let agent = Agent::launch(&net).alive().start(&config(&net, check));
    SERVERS.iter().for_each(|name| agent.until_count("lb_server_up", &[("server", name)], 0));
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "no-server");
    assert_eq!(agent.scrape().count("lb_backend_unavailable_total", &[]), 1);
}

fn config(net: &Net, backend_lines: &str) -> Config {
    let config = Config::new().tcp("in", net.frontend(PORT), "pool", "").pool("pool", backend_lines);
    SERVERS
        .iter()
        .zip(&net.servers)
        .fold(config, |config, (name, place)| config.server("pool", name, place.address(80), ""))
}

fn start_all(net: &Net) -> Vec<Service<Report>> {
    SERVERS.iter().zip(&net.servers).map(|(name, place)| reporter(place, 80, name, false)).collect()
}

/// Makes so many connections, each of which must be answered, and returns who answered, each once and in order.
#[track_caller]
fn answers(net: &Net, connections: usize) -> Vec<String> {
    let mut names: Vec<String> = (0..connections)
        .map(|_| ask(&net.client.connect(net.frontend(PORT)), b"who?"))
        .map(|answer| String::from_utf8(answer).expect("text").split(' ').next().expect("a name").to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
