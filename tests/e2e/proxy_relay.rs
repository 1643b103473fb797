// SPDX-License-Identifier: MIT OR Apache-2.0
//! What servers learn in a PROXY header: what a proxy in front said, what the agent knows better, and however long that is.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::kernel::named_sockets;
use lb_tests::net::Net;
use lb_tests::peer::{ask, reporter};
use lb_tests::proxy_header::{self, ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID};
use lb_tests::stream::{End, finish, receive_all, receive_exactly, say};
use lb_tests::wait::until;

use crate::support::{PORT, SERVER_PORT, assert_carried, limit_socket_buffers, until_carried};

/// Trusts the client's namespace.
const TRUST: &str = "accept-proxy-from = \"10.1.0.2\"\nproxy-header-max = \"65551B\"";

/// What the cloud's own proxy says: PP2_TYPE_AWS of an endpoint service.
const VENDOR: (u8, &[u8]) = (0xea, b"\x01vpce-08d2bf15fac5001c9");

/// PP2_TYPE_SSL with TLVs inside.
const SSL: (u8, &[u8]) = (0x20, b"\x01\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x02cn");

type Tlvs<'a> = &'a [(u8, &'a [u8])];

#[test]
fn what_the_proxy_in_front_said_goes_on() {
    let hello = Hello::named("alpha.example").wire();
    let received: Tlvs = &[
        VENDOR,
        (NOOP, b"padding"),
        (AUTHORITY, b"their.example"),
        (UNIQUE_ID, b"their-id"),
        SSL,
        (ALPN, b"http/1.1"),
        (CRC32C, &[0; 4]),
    ];
    let check = |lines: &str, expected: Tlvs| {
        // The strict reader has verified the checksum.
        let (tlvs, unique_id) = through(lines, received, &hello);
        let without_sum: Vec<_> = tlvs
            .iter()
            .filter(|(kind, _)| *kind != CRC32C)
            .map(|(kind, value)| (*kind, &value[..]))
            .collect();
        assert_eq!(without_sum, expected, "{lines}");
        assert_eq!(tlvs.iter().filter(|(kind, _)| *kind == CRC32C).count(), 1);
        assert_eq!(unique_id, "their-id");
    };
    let theirs: Tlvs =
        &[VENDOR, (AUTHORITY, b"their.example"), (UNIQUE_ID, b"their-id"), SSL, (ALPN, b"http/1.1")];
    check("send-proxy-authority = false", theirs);
    check("", &[(AUTHORITY, b"alpha.example"), VENDOR, (UNIQUE_ID, b"their-id"), SSL, (ALPN, b"http/1.1")]);
    check(
        "send-proxy-alpn = true\nsend-proxy-unique-id = true\nsend-proxy-crc32c = true",
        &[(ALPN, b"h2"), (AUTHORITY, b"alpha.example"), (UNIQUE_ID, b"their-id"), VENDOR, SSL],
    );
}

#[test]
fn a_connection_without_an_identity_gets_one_that_is_logged() {
    let hello = Hello::named("alpha.example").wire();
    let (tlvs, unique_id) = through("send-proxy-unique-id = true", &[], &hello);
    assert_eq!(tlvs[1], (UNIQUE_ID, unique_id.clone().into_bytes()));
    assert!(unique_id.len() == 32 && unique_id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{unique_id}");
    let (_, other) = through("send-proxy-unique-id = true", &[], &hello);
    assert_ne!(unique_id, other, "another process has other identities");
    assert_eq!(through("", &[], &hello), (vec![(AUTHORITY, b"alpha.example".to_vec())], String::new()));
}

/// The TLVs that a server gets and the `unique_id` in the log, for a connection that begins with a header with these TLVs.
#[track_caller]
fn through(backend_lines: &str, received: Tlvs, hello: &[u8]) -> (Vec<(u8, Vec<u8>)>, String) {
    let net = Net::new(1);
    let server = reporter(net.server(), SERVER_PORT, "alpha", true);
    let lines = format!("send-proxy = \"v2\"\n{backend_lines}");
    let config = Config::new()
        .passthrough("tls", &[net.frontend(PORT)], TRUST)
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(SERVER_PORT), &lines);
    let agent = Agent::start(&net, &config);
    ask(&net.client.connect(net.frontend(PORT)), &[&header(received), hello].concat());
    let report = server.outcome();
    assert_eq!(report.bytes, hello);
    let ours = report.header.expect("a header");
    assert_eq!(ours.addresses, Some(ends()));
    (ours.tlvs, agent.until_records(1)[0].text("unique_id").to_owned())
}

on_all_paths! {
    a_header_larger_than_the_send_buffer_arrives_whole,
}

fn a_header_larger_than_the_send_buffer_arrives_whole(path: Path) {
    let (net, agent) = with_small_buffers(path, "connect-timeout = \"20s\"");
    let listener = net.server().listen(SERVER_PORT);
    let (large, more) = (vec![7; 40_000], vec![9; 25_000]);
    let tlvs: Tlvs = &[(0xe0, &large), VENDOR, (0xe1, &more), (CRC32C, &[0; 4])];
    let client = net.client.connect(net.frontend(PORT));
    std::thread::scope(|scope| {
        scope.spawn(|| say(&client, &header(tlvs)));
        let server = listener.accept();
        // Until the agent is stuck.
        std::thread::sleep(Duration::from_millis(300));
        let ours = proxy_header::read(&server);
        let kept: Vec<_> = ours.tlvs.iter().map(|(kind, value)| (*kind, value.len())).collect();
        assert_eq!(kept, [(0xe0, 40_000), (0xea, VENDOR.1.len()), (0xe1, 25_000), (CRC32C, 4)]);
        assert!(ours.tlv(0xe0) == Some(&large) && ours.tlv(0xe1) == Some(&more), "the values differ");
        // Bytes that wait behind a header when the flow is handed over, path `sockmap` leaves to others.
        until("the hand-over", || path != Path::Sockmap || named_sockets(&agent.process) == 2);
        say(&client, b"data");
        assert_eq!(receive_exactly(&server, 4), b"data");
        until_carried(&agent, path, 1, 4);
        finish(&client);
        assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    });
    assert_eq!(agent.until_records(1)[0].close(), "finished");
    assert_carried(&agent, path, 1);
}

#[test]
fn a_server_that_does_not_take_the_header_runs_into_the_connect_timeout() {
    let (net, agent) = with_small_buffers(Path::Auto, "connect-timeout = \"500ms\"\nretries = 0");
    let listener = net.server().listen(SERVER_PORT);
    let client = net.client.connect(net.frontend(PORT));
    let large = vec![7; 60_000];
    std::thread::scope(|scope| {
        scope.spawn(|| say(&client, &header(&[(0xe0, &large)])));
        let mut server = listener.accept();
        let record = &agent.until_records(1)[0];
        assert_eq!((record.close(), record.text("termination")), ("connect-timeout", "sC"));
        // What arrived is a part of the header, and then a reset.
        let mut arrived = Vec::new();
        let _ = server.read_to_end(&mut arrived);
        assert!(arrived.len() < 60_000, "{}", arrived.len());
    });
}

/// A header that got stuck halfway goes out from its beginning at the next try.
#[test]
fn after_half_a_header_the_next_try_begins_anew() {
    let (net, agent) = with_small_buffers(Path::Auto, "connect-timeout = \"500ms\"\nretries = 1");
    let listener = net.server().listen(SERVER_PORT);
    let client = net.client.connect(net.frontend(PORT));
    let large: Vec<u8> = (0..60_000_u32).map(|at| at.to_le_bytes()[at as usize % 2]).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            say(&client, &[&header(&[(0xe0, &large)])[..], b"data"].concat());
            finish(&client);
        });
        let _takes_nothing = listener.accept();
        let server = listener.accept();
        let ours = proxy_header::read(&server);
        assert!(ours.tlv(0xe0) == Some(&large), "the values differ");
        assert_eq!(receive_all(&server), (b"data".to_vec(), End::Finished));
    });
    let record = &agent.until_records(1)[0];
    assert_eq!((record.close(), record.number("retries")), ("finished", 1));
}

/// A trusted client, and buffers of a few kilobytes everywhere.
fn with_small_buffers(path: Path, backend_lines: &str) -> (Net, Agent) {
    let net = Net::new(1);
    limit_socket_buffers(&net, 8192);
    let lines = format!("send-proxy = \"v2\"\n{backend_lines}");
    let config = Config::new().path(path).tcp("in", net.frontend(PORT), "out", TRUST).backend(
        "out",
        net.server().address(SERVER_PORT),
        &lines,
    );
    let agent = Agent::start(&net, &config);
    (net, agent)
}

#[test]
fn version_1_goes_out_as_a_line() {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let config = Config::new()
        .tcp("in", net.frontend(PORT), "out", TRUST)
        .tcp("in6", net.balancer.address6(PORT), "out", "")
        .backend("out", net.server().address(SERVER_PORT), "send-proxy = \"v1\"");
    let _agent = Agent::start(&net, &config);
    let check = |to: SocketAddr, sent: &[u8], expected: &str| {
        let client = net.client.connect(to);
        say(&client, sent);
        let from = client.local_addr().expect("connected").port().to_string();
        let expected = expected.replace("PORT", &from);
        let server = listener.accept();
        assert_eq!(String::from_utf8_lossy(&receive_exactly(&server, expected.len())), expected);
    };
    let relayed = [&header(&[VENDOR])[..], b"x"].concat();
    check(net.frontend(PORT), &relayed, "PROXY TCP4 198.51.100.7 203.0.113.1 50123 443\r\nx");
    check(net.balancer.address6(PORT), b"x", "PROXY TCP6 fd01::2 fd01::1 PORT 5000\r\nx");
}

fn header(tlvs: Tlvs) -> Vec<u8> {
    let (client, local) = ends();
    proxy_header::write(client, local, tlvs)
}

fn ends() -> (SocketAddr, SocketAddr) {
    let [client, local] = ["198.51.100.7:50123", "203.0.113.1:443"];
    (client.parse().expect("an address"), local.parse().expect("an address"))
}
