// SPDX-License-Identifier: MIT OR Apache-2.0
//! PROXY headers from listed sources: mandatory, believed, and taken to the last byte. From others: just bytes.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Record};
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::{Listener, Net};
use lb_tests::peer::{ask, reporter};
use lb_tests::proxy_header::{self, AUTHORITY, CRC32C};
use lb_tests::stream::{End, Pattern, finish, receive_all, receive_exactly, say};

use crate::support::{PORT, SERVER_PORT, assert_left};

/// Why path `sockmap` leaves connections to others of which bytes wait behind a header: it would have to cut the segment that holds both. One
/// whose header came alone it carries (`taken_bytes::sockmap`).
const PARTLY_TAKEN: &str = "partly-taken";

/// Trusts the client's namespace.
const TRUST: &str = "accept-proxy-from = [\"10.1.0.0/24\", \"fd01::/64\"]";

/// Who the header says the client is.
const CLAIMED: &str = "198.51.100.7:50123";

/// Where the header says that the client connected to.
const MEANT: &str = "203.0.113.1:443";

on_all_paths! {
    header_hello_and_early_data_arrive_from_one_segment,
    header_and_data_arrive_from_one_segment_in_mode_tcp,
    a_header_may_be_split_at_every_byte,
}

fn header_hello_and_early_data_arrive_from_one_segment(path: Path) {
    let bytes = [Hello::named("alpha.example").wire(), Pattern::beginning(1, 16 * 1024)].concat();
    behind_a_header(path, Mode::Tls, &bytes);
}

fn header_and_data_arrive_from_one_segment_in_mode_tcp(path: Path) {
    behind_a_header(path, Mode::Tcp, &Pattern::beginning(1, 16 * 1024));
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Tcp,
    Tls,
}

fn behind_a_header(path: Path, mode: Mode, bytes: &[u8]) {
    let (net, agent, listener) = start(path, mode, "send-proxy = \"v2\"");
    for header in [line(), binary(&[(AUTHORITY, b"ignored.example"), (CRC32C, &[0; 4])])] {
        let client = net.client.connect(net.frontend(PORT));
        say(&client, &[&header, bytes].concat());
        let server = listener.accept();
        assert_eq!(net.client.sent(&client), (1, header.len() + bytes.len()), "segments and bytes");
        finish(&client);
        let got = proxy_header::read(&server);
        assert_eq!(got.addresses, Some((address(CLAIMED), address(MEANT))));
        let (arrived, end) = receive_all(&server);
        assert_eq!((arrived.len(), end), (bytes.len(), End::Finished));
        assert!(arrived == bytes, "the bytes differ");
        say(&server, b"answer");
        finish(&server);
        assert_eq!(receive_all(&client), (b"answer".to_vec(), End::Finished));
    }
    for record in agent.until_records(2) {
        assert_addresses(&record, CLAIMED, MEANT);
        assert!(record.text("peer").starts_with("10.1.0.2:"), "{record:?}");
        assert_eq!((record.number("received_bytes"), record.close()), (bytes.len() as u64, "finished"));
    }
    assert_left(&agent, path, PARTLY_TAKEN, 2);
}

fn a_header_may_be_split_at_every_byte(path: Path) {
    let (net, agent, listener) = start(path, Mode::Tcp, "");
    let mut connections = 0;
    for header in [line(), binary(&[(CRC32C, &[0; 4])])] {
        for at in 1..header.len() {
            let mut client = net.client.connect(net.frontend(PORT));
            client.set_nodelay(true).expect("a socket");
            say(&client, &header[..at]);
            // Another segment, and most often another wake-up.
            std::thread::sleep(Duration::from_millis(1));
            client.write_all(&[&header[at..], b"hello"].concat()).expect("an open connection");
            let server = listener.accept();
            assert_eq!(receive_exactly(&server, 5), b"hello", "split at {at}");
            finish(&client);
            assert_eq!(receive_all(&server), (Vec::new(), End::Finished), "split at {at}");
            connections += 1;
        }
    }
    for record in agent.until_records(connections) {
        assert_addresses(&record, CLAIMED, MEANT);
    }
    assert_left(&agent, path, PARTLY_TAKEN, connections as u64);
}

/// What says nothing of addresses: LOCAL, UNKNOWN, UNSPEC, AF_UNIX.
#[test]
fn headers_without_addresses_leave_those_of_the_socket() {
    let (net, agent, listener) = start(Path::Auto, Mode::Tcp, "send-proxy = \"v2\"");
    let of = |command: u8, family: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).expect("a header").to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body].concat()
    };
    let headers = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 198.51.100.7 203.0.113.1 1 2\r\n".to_vec(),
        of(0x20, 0, b""),
        of(0x20, 0x11, &[9; 12]),
        of(0x21, 0, b""),
        of(0x21, 0x31, &[b'x'; 216]),
    ];
    for (index, header) in headers.iter().enumerate() {
        let client = net.client.connect(net.frontend(PORT));
        say(&client, &[&header[..], b"x"].concat());
        finish(&client);
        let server = listener.accept();
        let ends = (client.local_addr().expect("connected"), net.frontend(PORT));
        assert_eq!(proxy_header::read(&server).addresses, Some(ends));
        assert_eq!(receive_all(&server).0, b"x");
        drop(server);
        let record = &agent.until_records(index + 1)[index];
        assert_addresses(record, &ends.0.to_string(), &ends.1.to_string());
        assert_eq!(record.field("peer"), None);
    }
}

#[test]
fn who_is_not_listed_cannot_claim_an_address() {
    let net = Net::new(1);
    let server = reporter(net.server(), SERVER_PORT, "alpha", true);
    let to = net.server().address(SERVER_PORT);
    // Everybody but the client.
    let others = "accept-proxy-from = [\"10.2.0.0/16\", \"10.1.0.3\", \"fd01::3\", \"198.51.100.0/24\"]";
    let config = Config::new()
        .tcp("tcp", net.frontend(PORT), "alpha", others)
        .passthrough("tls", &[net.frontend(PORT + 1)], others)
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", to, "send-proxy = \"v2\"\nsend-proxy-unique-id = true");
    let agent = Agent::start(&net, &config);
    for (index, header) in [line(), binary(&[(5, b"claimed")])].iter().enumerate() {
        let bytes = [header, &Hello::named("alpha.example").wire()[..]].concat();
        let client = net.client.connect(net.frontend(PORT));
        ask(&client, &bytes);
        let report = server.outcome();
        assert_eq!(report.bytes, bytes, "all that it sent goes on");
        let (ours, from) = (report.header.expect("ours"), client.local_addr().expect("connected"));
        assert_eq!(ours.source(), from);
        assert_ne!(ours.tlv(5), Some(&b"claimed"[..]));

        let client = net.client.connect(net.frontend(PORT + 1));
        say(&client, &bytes);
        finish(&client);
        assert_eq!(receive_all(&client).0, b"", "no alert for who speaks no TLS");
        let records = agent.until_records(2 * index + 2);
        let [tcp, tls] = &records[2 * index..] else { panic!("{records:?}") };
        assert_addresses(tcp, &from.to_string(), &net.frontend(PORT).to_string());
        assert_eq!((tls.text("hello_exception"), tls.close()), ("not-tls", "hello-rejected"));
        assert!(tls.text("client").starts_with("10.1.0.2:"), "{tls:?}");
        assert!([tcp, tls].iter().all(|record| record.field("peer").is_none()), "{records:?}");
    }
    assert_eq!(agent.scrape().count("lb_proxy_header_rejected_total", &[]), 0);
}

#[test]
fn what_a_listed_source_sends_must_be_a_header() {
    let net = Net::new(1);
    let lines = format!("{TRUST}\nproxy-header-timeout = \"300ms\"\nproxy-header-max = \"1KiB\"");
    let server = net.server().listen(SERVER_PORT);
    let config = Config::new().tcp("in", net.frontend(PORT), "out", &lines).backend(
        "out",
        net.server().address(SERVER_PORT),
        "",
    );
    let agent = Agent::start(&net, &config);
    let mut wrong_sum = binary(&[(CRC32C, &[0; 4])]);
    wrong_sum[20] ^= 1;
    let mut version_3 = binary(&[]);
    version_3[12] = 0x31;
    let cases: [(&str, Vec<u8>); 7] = [
        ("missing", Hello::named("alpha.example").wire()),
        ("malformed", b"PROXY TCP4 198.51.100.7 203.0.113.1 1 65536\r\n".to_vec()),
        ("too-large", binary(&[(0xe0, &[7; 1000])])),
        ("too-large", [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat()),
        ("timeout", b"PROXY TCP4 198.51".to_vec()),
        ("checksum", wrong_sum),
        ("unsupported-version", version_3),
    ];
    for (index, (reason, bytes)) in cases.iter().enumerate() {
        let labels = [("reason", *reason)];
        let before = agent.scrape().count("lb_proxy_header_rejected_total", &labels);
        let client = net.client.connect(net.frontend(PORT));
        say(&client, bytes);
        assert_eq!(receive_all(&client), (Vec::new(), End::Reset), "{reason}");
        let record = &agent.until_records(index + 1)[index];
        assert_eq!((record.close(), record.text("termination")), ("proxy-rejected", "PR"), "{reason}");
        assert!(record.text("client").starts_with("10.1.0.2:"), "{record:?}");
        assert_eq!(agent.scrape().count("lb_proxy_header_rejected_total", &labels), before + 1, "{reason}");
    }
    drop(server);
}

#[test]
fn a_slow_sender_meets_the_deadline() {
    let net = Net::new(1);
    let lines = format!("{TRUST}\nproxy-header-timeout = \"1s\"");
    let config = Config::new().tcp("in", net.frontend(PORT), "out", &lines).backend(
        "out",
        net.server().address(SERVER_PORT),
        "",
    );
    let agent = Agent::start(&net, &config);
    let started = Instant::now();
    let mut client = net.client.connect(net.frontend(PORT));
    say(&client, b"PROXY UNKNOWN ");
    let took = loop {
        // Each byte would move a deadline that is not absolute.
        std::thread::sleep(Duration::from_millis(50));
        if client.write_all(b"x").is_err() {
            break started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(4), "80 bytes, and still waiting");
    };
    assert!(took >= Duration::from_millis(900), "{took:?}");
    assert_eq!(agent.until_records(1)[0].close(), "proxy-rejected");
    assert_eq!(agent.scrape().count("lb_proxy_header_rejected_total", &[("reason", "timeout")]), 1);
    agent.until_count("lb_pending_hello_memory_bytes", &[], 0);
}

#[test]
fn who_leaves_before_the_header_is_complete_is_not_rejected() {
    let net = Net::new(1);
    let config = Config::new().tcp("in", net.frontend(PORT), "out", TRUST).backend(
        "out",
        net.server().address(SERVER_PORT),
        "",
    );
    let agent = Agent::start(&net, &config);
    for sent in [&b""[..], b"PROXY"] {
        let client = net.client.connect(net.frontend(PORT));
        say(&client, sent);
        drop(client);
    }
    for record in agent.until_records(2) {
        assert_eq!((record.close(), record.text("termination")), ("proxy-aborted", "CR"));
    }
    assert_eq!(agent.scrape().count("lb_proxy_header_rejected_total", &[]), 0);
}

/// On an IPv6 socket that takes IPv4 as well, an IPv4 source is one.
#[test]
fn sources_are_told_apart_on_a_socket_for_both_families() {
    let net = Net::new(1);
    let server = reporter(net.server(), SERVER_PORT, "alpha", false);
    let any = format!("[::]:{PORT}").parse().expect("an address");
    let config = Config::new().tcp("in", any, "out", "accept-proxy-from = \"10.1.0.2\"").backend(
        "out",
        net.server().address(SERVER_PORT),
        "",
    );
    let agent = Agent::start(&net, &config);
    let bytes = [&line()[..], b"x"].concat();
    ask(&net.client.connect(net.frontend(PORT)), &bytes);
    assert_eq!(server.outcome().bytes, b"x");
    ask(&net.client.connect(net.balancer.address6(PORT)), &bytes);
    assert_eq!(server.outcome().bytes, bytes);
    let records = agent.until_records(2);
    assert_eq!(records[0].text("client"), CLAIMED);
    assert!(records[1].text("client").starts_with("[fd01::2]:"), "{records:?}");
}

/// A client may have a family that the host has not: its address is taken, logged, chosen by and passed on all the same.
#[test]
fn an_ipv6_client_is_believed_on_a_host_without_ipv6() {
    let net = Net::new(1);
    net.balancer.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let server = reporter(net.server(), SERVER_PORT, "alpha", true);
    let (client, local) = ("[2001:db8::7]:50123", "[2001:db8:1::1]:443");
    let config = Config::new()
        .tcp("tcp", net.frontend(PORT), "out", TRUST)
        .passthrough("tls", &[net.frontend(PORT + 1)], TRUST)
        .route("tls", "alpha.example", "out")
        .backend("out", net.server().address(SERVER_PORT), "send-proxy = \"v2\"\nbalance = \"source\"");
    let agent = Agent::start(&net, &config);
    let v1 = b"PROXY TCP6 2001:db8::7 2001:db8:1::1 50123 443\r\n".to_vec();
    let v2 = proxy_header::write(address(client), address(local), &[(CRC32C, &[0; 4])]);
    let hello = Hello::named("alpha.example").wire();
    let mut connections = 0;
    for (port, header) in [(PORT, &v1), (PORT, &v2), (PORT + 1, &v1), (PORT + 1, &v2)] {
        ask(&net.client.connect(net.frontend(port)), &[&header[..], &hello].concat());
        let report = server.outcome();
        assert_eq!(report.header.expect("a header").addresses, Some((address(client), address(local))));
        assert_eq!(report.bytes, hello);
        connections += 1;
        assert_addresses(&agent.until_records(connections)[connections - 1], client, local);
    }
    assert_eq!(agent.scrape().count("lb_proxy_header_rejected_total", &[]), 0);
}

/// A frontend of mode `mode` that trusts the client's namespace, in front of one listening server. Segments of clients are not cut.
fn start(path: Path, mode: Mode, backend_lines: &str) -> (Net, Agent, Listener) {
    let net = Net::new(1);
    net.allow_large_segments();
    let listener = net.server().listen(SERVER_PORT);
    let config = Config::new().path(path);
    let config = match mode {
        Mode::Tcp => config.tcp("in", net.frontend(PORT), "out", TRUST),
        Mode::Tls => {
            config.passthrough("in", &[net.frontend(PORT)], TRUST).route("in", "alpha.example", "out")
        }
    };
    let config = config.backend("out", net.server().address(SERVER_PORT), backend_lines);
    let agent = Agent::start(&net, &config);
    (net, agent, listener)
}

fn line() -> Vec<u8> {
    b"PROXY TCP4 198.51.100.7 203.0.113.1 50123 443\r\n".to_vec()
}

fn binary(tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    proxy_header::write(address(CLAIMED), address(MEANT), tlvs)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[track_caller]
fn assert_addresses(record: &Record, client: &str, local: &str) {
    assert_eq!((record.text("client"), record.text("local")), (client, local), "{record:?}");
}
