// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line a connection, in two formats and to several targets, never at the cost of traffic.

use std::net::UdpSocket;
use std::path::Path as FilePath;

use lb_tests::agent::{Agent, Record, public_directory};
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{Report, Service, ask, reporter};
use lb_tests::stream::{receive_all, say};
use lb_tests::wait::{PATIENCE, until, until_some};
use rustix::process::Signal;

use crate::support::{PORT, SERVER_PORT, allow_many_connections};

#[test]
fn a_json_line_says_everything_about_a_connection() {
    let (net, agent, server) = start(Config::new());
    let client = net.client.connect(net.frontend(PORT));
    let wire = Hello::named("Alpha.Example").ech().wire();
    let answer = ask(&client, &wire);
    let record = &agent.until_records(1)[0];
    let texts = [
        ("client", client.local_addr().expect("connected").to_string()),
        ("local", net.frontend(PORT).to_string()),
        ("frontend", "tls".into()),
        ("sni", "alpha.example".into()),
        ("alpn", "h2,http/1.1".into()),
        ("backend", "alpha".into()),
        ("server", "only".into()),
        ("server_address", net.server().address(SERVER_PORT).to_string()),
        ("path", "splice".into()),
        ("close", "finished".into()),
        ("termination", "--".into()),
    ];
    for (field, expected) in texts {
        assert_eq!(record.text(field), expected, "{field} in {record:?}");
    }
    let numbers = [("received_bytes", wire.len()), ("sent_bytes", answer.len()), ("retries", 0)];
    for (field, expected) in numbers {
        assert_eq!(record.number(field), expected as u64, "{field} in {record:?}");
    }
    let time = |field: &str| record.field(field).and_then(serde_json::Value::as_f64).expect("milliseconds");
    assert!(time("hello_ms") <= time("total_ms") && time("connect_ms") <= time("total_ms"), "{record:?}");
    assert_eq!(record.field("ech"), Some(&serde_json::Value::Bool(true)));
    assert!(record.text("time").ends_with('Z'), "{record:?}");
    assert_eq!(server.outcome().bytes, wire);
}

#[test]
fn a_tcplog_line_has_haproxys_fields_and_ours() {
    let (net, agent, _server) = start(Config::with_log("format = \"tcplog\"\ntarget = \"stdout\""));
    let client = net.client.connect(net.frontend(PORT));
    let wire = Hello::named("alpha.example").wire();
    let answer = ask(&client, &wire);
    until("a line", || agent.process.stdout_lines() == 1);
    let line = &agent.process.stdout()[0];
    let (source, rest) = line.split_once(" [").unwrap_or_else(|| panic!("{line}"));
    assert_eq!(source, client.local_addr().expect("connected").to_string());
    let (_, rest) = rest.split_once("] ").unwrap_or_else(|| panic!("{line}"));
    let words: Vec<&str> = rest.split(' ').collect();
    assert_eq!(words[..2], ["tls", "alpha/only"], "{line}");
    assert_eq!(words[2].split('/').filter_map(|time| time.parse::<u32>().ok()).count(), 3, "{line}");
    assert_eq!(words[3..5], [&answer.len().to_string(), "--"], "{line}");
    assert_eq!(words[5].split('/').count(), 5, "{line}");
    assert_eq!(words[6], "0/0", "{line}");
    let received = format!("up={}", wire.len());
    for word in ["sni=alpha.example", "path=splice", "close=finished", &received] {
        assert!(words[7..].contains(&word), "{word} is not in {line}");
    }
}

#[test]
fn control_characters_of_a_client_stay_out_of_the_log() {
    let config = Config::new();
    let (net, agent, _server) = start(config);
    for name in [&b"a\nb\x1b[2J\".example"[..], b"\xff\xfe\x00", b"line\r\nbreak"] {
        let hello = Hello { server_name: Some(name.to_vec()), ..Hello::nameless() };
        let client = net.client.connect(net.frontend(PORT));
        say(&client, &hello.wire());
        receive_all(&client);
    }
    let records = agent.until_records(3);
    assert_eq!(records.len(), 3, "one line a connection: {records:?}");
    for line in agent.process.stdout() {
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line:?}");
    }
}

#[test]
fn sighup_opens_the_file_anew() {
    let place = public_directory();
    let (log, old) = (place.path().join("lb.log"), place.path().join("lb.log.1"));
    let (net, agent, _server) = start(Config::with_log(&format!("target = \"file:{}\"", log.display())));
    visit(&net);
    until("a line in the file", || lines(&log).len() == 1);
    std::fs::rename(&log, &old).expect("our own file");
    visit(&net);
    until("a line in the renamed file", || lines(&old).len() == 2);
    agent.process.signal(Signal::HUP);
    until("a new file", || log.exists());
    visit(&net);
    until("a line in the new file", || lines(&log).len() == 1);
    assert_eq!(lines(&old).len(), 2);
    assert_eq!(Record::parse(&lines(&log)[0]).close(), "finished");
}

/// The file is on a file system of 1 MiB that is full.
#[test]
fn a_full_disk_costs_lines_but_no_traffic() {
    let place = public_directory();
    let log = place.path().join("lb.log");
    let config = Config::with_log(&format!("target = \"file:{}\"", log.display()));
    // In a mount namespace of its own, so that it is gone with the agent.
    let script = "mount -t tmpfs -o size=1m lb-tests \"$1\" && head -c 2M /dev/zero > \"$1/filler\" 2>/dev/null; \
                  shift; exec \"$@\"";
    let directory = place.path().to_string_lossy().into_owned();
    let wrapper =
        ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh", &directory];
    let net = Net::new(1);
    let _server = reporter(net.server(), SERVER_PORT, "alpha", false);
    let agent = Agent::launch(&net).through(&wrapper).start(&with_route(&net, config));
    const CONNECTIONS: u64 = 200;
    for _ in 0..CONNECTIONS {
        visit(&net);
    }
    agent.until_idle();
    agent.until_count("lb_log_lines_dropped_total", &[], CONNECTIONS);
    assert_eq!(agent.scrape().count("lb_connections_closed_total", &[("reason", "finished")]), CONNECTIONS);
}

/// Standard output is a pipe whose reader has stopped.
#[test]
fn a_reader_that_stops_reading_the_log_costs_lines_but_no_traffic() {
    let net = Net::new(1);
    let _server = reporter(net.server(), SERVER_PORT, "alpha", false);
    let config = with_route(&net, Config::new());
    let fifo = public_directory();
    let pipe = fifo.path().join("pipe").to_string_lossy().into_owned();
    // A FIFO that is open for reading and never read.
    let script = "mkfifo \"$1\" && exec 3<>\"$1\" >&3 && shift && exec \"$@\"";
    let agent = Agent::launch(&net).through(&["sh", "-c", script, "sh", &pipe]).start(&config);
    allow_many_connections(&net);
    let mut connections = 0;
    // The pipe holds 64 KiB, the queue behind it thousands of lines.
    while agent.scrape().count("lb_log_lines_dropped_total", &[]) == 0 {
        assert!(connections < 100_000, "no line was dropped");
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| (0..250).for_each(|_| visit(&net)))));
        });
        connections += 8 * 250;
    }
    agent.until_idle();
    let finished = agent.scrape().count("lb_connections_closed_total", &[("reason", "finished")]);
    assert_eq!(finished, connections);
}

#[test]
fn syslog_gets_a_datagram_a_line() {
    let net = Net::new(1);
    let _server = reporter(net.server(), SERVER_PORT, "alpha", false);
    let syslog = net.balancer.enter(|| UdpSocket::bind("127.0.0.1:5514")).expect("a free port");
    syslog.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let config = with_route(&net, Config::with_log("target = \"syslog:127.0.0.1:5514\""));
    let _agent = Agent::start(&net, &config);
    visit(&net);
    let mut datagram = [0; 4096];
    let length = syslog.recv(&mut datagram).expect("a datagram");
    let text = String::from_utf8(datagram[..length].to_vec()).expect("text");
    // RFC 5424 section 6: priority and version, then the header's fields, then the message.
    assert!(text.starts_with('<') && text.contains(">1 "), "{text}");
    let json = &text[text.find('{').unwrap_or_else(|| panic!("{text}"))..];
    assert_eq!(Record::parse(json).text("sni"), "alpha.example");
}

#[test]
fn nothing_is_logged_if_the_log_is_off() {
    let (net, mut agent, _server) = start(Config::with_log("target = \"off\""));
    visit(&net);
    agent.until_idle();
    agent.terminate();
    agent.wait();
    assert_eq!(agent.process.stdout(), Vec::<String>::new());
}

/// A line for each connection is there when the agent has ended, though nobody waited for lines before.
#[test]
fn no_line_is_lost_at_the_end() {
    let (net, mut agent, _server) = start(Config::new());
    for _ in 0..50 {
        visit(&net);
    }
    agent.terminate();
    agent.wait();
    assert_eq!(agent.records().len(), 50);
}

fn start(config: Config) -> (Net, Agent, Service<Report>) {
    let net = Net::new(1);
    let server = reporter(net.server(), SERVER_PORT, "alpha", false);
    let agent = Agent::start(&net, &with_route(&net, config));
    (net, agent, server)
}

fn with_route(net: &Net, config: Config) -> Config {
    config
        .path(Path::Splice)
        .passthrough("tls", &[net.frontend(PORT)], "")
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(SERVER_PORT), "")
}

/// One connection, served.
#[track_caller]
fn visit(net: &Net) {
    let answer = ask(&net.client.connect(net.frontend(PORT)), &Hello::named("alpha.example").wire());
    assert!(answer.starts_with(b"alpha "));
}

fn lines(file: &FilePath) -> Vec<String> {
    until_some("a readable file", || std::fs::read_to_string(file).ok()).lines().map(str::to_owned).collect()
}
