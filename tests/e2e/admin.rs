// SPDX-License-Identifier: MIT OR Apache-2.0
//! The admin surface: metrics in two formats, as documented; health and readiness.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, admin, binary, public_directory};
use lb_tests::config::Path;
use lb_tests::metrics::{OPEN_METRICS, Response, Scrape, fetch, fetch_on};
use lb_tests::net::Net;
use lb_tests::peer::{Service, ask, echo};
use lb_tests::process::run;
use lb_tests::size;

use crate::support::{PORT, SERVER_PORT, tcp_config};

#[test]
fn the_readme_lists_exactly_the_metrics_of_a_scrape_in_both_formats() {
    let (_net, _agent, formats) = two_formats();
    let documented = documented();
    for scrape in formats.map(|response| Scrape::parse(&response.body)) {
        let ours = scrape.families.keys().filter(|name| name.starts_with("lb_"));
        let ours: BTreeSet<String> = ours.map(|name| base(name)).collect();
        assert_eq!(ours, documented, "scraped (left) and in the README (right)");
    }
}

#[test]
fn the_two_formats_say_what_they_are() {
    let (_net, _agent, [text, open]) = two_formats();
    assert!(content_type(&text).starts_with("text/plain; version=0.0.4"), "{}", text.head);
    assert!(content_type(&open).starts_with("application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n") && !text.body.contains("# EOF"));
    // A counter's family: with `_total` in the text format, without in OpenMetrics 1.0.
    let has_counter = |response: &Response, name| {
        Scrape::parse(&response.body).families.get(name).is_some_and(|kind| kind == "counter")
    };
    assert!(has_counter(&text, "lb_frontend_connections_total"), "{}", text.body);
    assert!(has_counter(&open, "lb_frontend_connections"), "{}", open.body);
    for response in [&text, &open] {
        let flows = Scrape::parse(&response.body).count("lb_path_flows_total", &[("path", "splice")]);
        assert_eq!(flows, 1);
    }
}

/// Prometheus' own word on names, units, descriptions and types.
#[test]
fn promtool_finds_nothing_to_complain_about() {
    let (_net, _agent, [text, _]) = two_formats();
    let place = public_directory();
    let file = place.path().join("metrics");
    std::fs::write(&file, &text.body).expect("a temporary file");
    let judged = run(Command::new("sh").args(["-c", "promtool check metrics < \"$0\" 2>&1"]).arg(file));
    assert_eq!(judged, "");
}

#[test]
fn users_keep_strangers_from_metrics_but_not_from_health() {
    let net = Net::new(1);
    let hash = run(Command::new("sh").args(["-c", "printf secret | \"$0\" hash-password"]).arg(binary()));
    let user = format!("[[admin.user]]\nname = \"operator\"\npassword-hash = \"{}\"", hash.trim());
    let _agent = Agent::start(&net, &tcp_config(&net, Path::Splice, "").raw(&user));
    let status = |path, credentials: &str| {
        let lines = if credentials.is_empty() {
            String::new()
        } else {
            format!("Authorization: Basic {credentials}\r\n")
        };
        fetch(&net.balancer, admin(), path, &lines).expect("an admin surface").status
    };
    // RFC 7617: base64 of operator:secret, operator:Secret and nobody:secret.
    let [right, wrong, stranger] = ["b3BlcmF0b3I6c2VjcmV0", "b3BlcmF0b3I6U2VjcmV0", "bm9ib2R5OnNlY3JldA=="];
    assert_eq!(["", right, wrong, stranger].map(|given| status("/metrics", given)), [401, 200, 401, 401]);
    assert_eq!(["/healthz", "/readyz"].map(|path| status(path, "")), [200, 200]);
}

/// Labels come from closed lists and the configuration: their number does not grow with traffic.
#[test]
fn series_do_not_grow_with_connections() {
    let (net, (agent, _server), _) = two_formats();
    let before = agent.scrape().samples.len();
    for _ in 0..size(50, 1_000) {
        ask(&net.client.connect(net.frontend(PORT)), b"x");
    }
    agent.until_idle();
    assert_eq!(agent.scrape().samples.len(), before);
}

#[test]
fn health_and_readiness_are_separate_and_other_paths_are_not_found() {
    let (_net, (agent, _server), _) = two_formats();
    let status = |path: &str| agent.admin(path).map(|response| response.status);
    assert_eq!(
        ["/healthz", "/readyz", "/etc/passwd", "/metrics/x"].map(status).map(Option::unwrap_or_default),
        [200, 200, 404, 404]
    );
}

/// A person who opens many connections to the surface and says nothing does not keep Prometheus out, not even for as long as a
/// request's header may take.
#[test]
fn silent_clients_of_the_surface_do_not_block_it() {
    let (net, (agent, _server), _) = two_formats();
    let begun = Instant::now();
    let silent: Vec<_> = (0..200).map(|_| net.balancer.connect(admin())).collect();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(agent.admin(path).map(|response| response.status), Some(200), "{path}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "somebody waited for a place");
    drop(silent);
}

#[test]
fn the_surface_is_on_loopback_alone() {
    let (net, _agent, _) = two_formats();
    assert!(net.client.try_connect(net.frontend(admin().port())).is_err());
}

/// After one connection of each kind of end, the counters add up.
#[test]
fn counters_add_up() {
    let (net, (agent, _server), _) = two_formats();
    for _ in 0..10 {
        ask(&net.client.connect(net.frontend(PORT)), b"twelve bytes");
    }
    agent.until_idle();
    let scrape = agent.scrape();
    let all = |name| scrape.count(name, &[]);
    assert_eq!(all("lb_frontend_connections_total"), 11);
    assert_eq!(all("lb_connections_closed_total"), 11);
    assert_eq!(scrape.count("lb_connections_closed_total", &[("reason", "finished")]), 11);
    assert_eq!(all("lb_session_duration_seconds_count"), 11);
    assert_eq!(all("lb_session_received_bytes_sum"), all("lb_frontend_received_bytes_total"));
    assert_eq!(all("lb_session_sent_bytes_sum"), all("lb_frontend_sent_bytes_total"));
    assert_eq!(all("lb_frontend_received_bytes_total"), 10 * 12 + 1);
    assert_eq!(all("lb_server_received_bytes_total"), 10 * 12 + 1);
    assert_eq!(all("lb_server_sent_bytes_total"), 10 * 12 + 1);
    assert_eq!(all("lb_path_bytes_total"), 2 * (10 * 12 + 1));
    assert_eq!(all("lb_backend_connect_duration_seconds_count"), 11);
}

/// An agent after one connection of one byte, and a scrape in each format.
fn two_formats() -> (Net, (Agent, Service<()>), [Response; 2]) {
    let net = Net::new(1);
    let server = echo(net.server(), SERVER_PORT);
    // The second server is there for the metrics of names: it takes no connections.
    let config = tcp_config(&net, Path::Splice, "")
        .raw("[[backend.out.server]]\nname = \"named\"\naddress = \"localhost:1\"\nweight = 0");
    let agent = Agent::start(&net, &config);
    assert_eq!(ask(&net.client.connect(net.frontend(PORT)), b"x"), b"x");
    agent.until_idle();
    let scrape = |lines: &str| fetch(&net.balancer, admin(), "/metrics", lines).expect("an admin surface");
    let formats = [scrape(""), fetch_on(&net.balancer.connect(admin()), "/metrics", &accept(OPEN_METRICS))];
    (net, (agent, server), formats)
}

fn accept(format: &str) -> String {
    format!("Accept: {format}\r\n")
}

fn content_type(response: &Response) -> String {
    let line = response.head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-type:"));
    line.expect("a content type")["content-type:".len()..].trim().to_owned()
}

/// The first cell of each row of the README's table of metrics.
fn documented() -> BTreeSet<String> {
    let readme = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = std::fs::read_to_string(readme).expect("README.md");
    let (_, rest) = text.split_once("<!-- metrics:begin -->").expect("the beginning of the table");
    let (table, _) = rest.split_once("<!-- metrics:end -->").expect("the end of the table");
    let names = table.lines().filter_map(|line| line.trim().strip_prefix("| `")?.split('`').next());
    names.filter(|name| name.starts_with("lb_")).map(base).collect()
}

/// The name without the suffix that only one of the formats has.
fn base(name: &str) -> String {
    let name = name.split('{').next().unwrap_or(name);
    name.trim_end_matches("_total").trim_end_matches("_info").to_owned()
}
