// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PROXY header, as others read it: HAProxy, tshark, and a strict reader of our own. (nginx: see `real_clients`.)

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::clients::curl;
use lb_tests::config::Config;
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{ask, reporter};
use lb_tests::proxy_header::{AUTHORITY, CRC32C, Header};
use lb_tests::servers::{Haproxy, Tshark};

use crate::support::PORT;

/// All that a header can have.
const FULL: &str = "send-proxy = \"v2\"\nsend-proxy-authority = true\nsend-proxy-crc32c = true";

#[test]
fn haproxy_reads_addresses_authority_and_checksum() {
    let net = Net::new(1);
    let authority = Authority::new();
    let _haproxy = Haproxy::start(net.server(), &authority.issue("alpha.example"));
    let _agent = Agent::start(&net, &config(&net, FULL));
    for (frontend, client) in [
        (net.frontend(PORT), net.client.v4.to_string()),
        (net.balancer.address6(PORT), net.client.v6.to_string()),
    ] {
        let fetched = curl(&net.client, &authority, "alpha.example", frontend, "/");
        assert_eq!(fetched.code, 0, "{}", fetched.complaint);
        let port = fetched.local_port;
        assert_eq!(fetched.body, format!("source {client} {port} authority alpha.example\n"));
    }
}

#[test]
fn tshark_reads_addresses_authority_and_checksum() {
    let net = Net::new(1);
    let server = reporter(net.server(), 443, "alpha", true);
    let _agent = Agent::start(&net, &config(&net, FULL));
    let tshark = Tshark::start(net.server());
    let frontends = [net.frontend(PORT), net.balancer.address6(PORT)];
    for (index, frontend) in frontends.into_iter().enumerate() {
        let client = net.client.connect(frontend);
        let from = client.local_addr().expect("connected");
        ask(&client, &Hello::named("alpha.example").wire());
        let ours = server.outcome().header.expect("a header");
        let fields = tshark.header(index);
        let [version, v4, v6, source_port, destination_port, types, values, complaints] = &fields[..] else {
            panic!("{fields:?}");
        };
        let (source, empty) = if from.is_ipv4() { (v4, v6) } else { (v6, v4) };
        assert_eq!((version.as_str(), empty.as_str(), complaints.as_str()), ("2", "", ""), "{fields:?}");
        assert_eq!((source, source_port), (&from.ip().to_string(), &from.port().to_string()));
        assert_eq!(destination_port, &frontend.port().to_string());
        // Wireshark 4.0 forgets the 16 bytes before the length when it looks for the end of the TLVs, so it misses those that
        // begin in the last 16 bytes; those that it shows must be ours, in order.
        let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let expected: Vec<String> = ours.tlvs.iter().map(|(_, value)| hex(value)).collect();
        let shown: Vec<&str> = values.split(',').collect();
        assert_eq!(shown, expected[..shown.len()], "{fields:?}");
        assert_eq!(
            (types.split(',').count(), shown[0]),
            (shown.len(), &*hex(b"alpha.example")),
            "{fields:?}"
        );
    }
}

#[test]
fn authority_and_checksum_can_be_switched() {
    let case = |authority: bool, crc32c: bool| {
        let lines =
            format!("send-proxy = \"v2\"\nsend-proxy-authority = {authority}\nsend-proxy-crc32c = {crc32c}");
        // The strict reader has checked the sum itself.
        let header = header_of(&lines, Hello::named("ALPHA.Example."), "alpha.example");
        let expected = authority.then_some(&b"alpha.example"[..]);
        assert_eq!((header.tlv(AUTHORITY), header.tlv(CRC32C).is_some()), (expected, crc32c), "{lines}");
    };
    case(false, false);
    case(true, false);
    case(false, true);
    case(true, true);
}

#[test]
fn without_a_name_there_is_no_authority() {
    let net = Net::new(1);
    let server = reporter(net.server(), 443, "alpha", true);
    let tcp = Config::new().tcp("tcp", net.frontend(PORT), "alpha", "");
    let _agent = Agent::start(&net, &tcp.backend("alpha", net.server().address(443), FULL));
    let client = net.client.connect(net.frontend(PORT));
    ask(&client, b"no TLS at all");
    let report = server.outcome();
    let header = report.header.expect("a header");
    assert_eq!(header.tlv(AUTHORITY), None);
    assert_eq!(header.addresses, Some((client.local_addr().expect("connected"), net.frontend(PORT))));
    assert_eq!(report.bytes, b"no TLS at all");
}

/// A frontend on `[::]` also gets IPv4 clients, as mapped addresses (RFC 4291 section 2.5.5.2). The server must see IPv4.
#[test]
fn an_ipv4_client_of_an_ipv6_socket_is_an_ipv4_client() {
    let net = Net::new(1);
    let server = reporter(net.server(), 443, "alpha", true);
    let any = format!("[::]:{PORT}").parse().expect("an address");
    let tcp = Config::new().tcp("tcp", any, "alpha", "");
    let agent = Agent::start(&net, &tcp.backend("alpha", net.server().address(443), FULL));
    for frontend in [net.frontend(PORT), net.balancer.address6(PORT)] {
        let client = net.client.connect(frontend);
        ask(&client, b"x");
        let from = client.local_addr().expect("connected");
        let header = server.outcome().header.expect("a header");
        assert_eq!(header.addresses, Some((from, frontend)));
    }
    let records = agent.until_records(2);
    assert!(records[0].text("client").starts_with("10.1.0.2:"), "{records:?}");
}

/// The header that the server gets for a hello; the bytes behind it must be the hello's own.
#[track_caller]
fn header_of(backend_lines: &str, hello: Hello, route: &str) -> Header {
    let net = Net::new(1);
    let server = reporter(net.server(), 443, "alpha", true);
    let config = Config::new().passthrough("tls", &[net.frontend(PORT)], "").route("tls", route, "alpha");
    let _agent = Agent::start(&net, &config.backend("alpha", net.server().address(443), backend_lines));
    let client = net.client.connect(net.frontend(PORT));
    let wire = hello.wire();
    ask(&client, &wire);
    let report = server.outcome();
    assert_eq!(report.bytes, wire);
    let header = report.header.expect("a header");
    assert_eq!(header.command, 1);
    assert_eq!(header.addresses, Some((client.local_addr().expect("connected"), net.frontend(PORT))));
    header
}

fn config(net: &Net, backend_lines: &str) -> Config {
    Config::new()
        .passthrough("tls", &[net.frontend(PORT), net.balancer.address6(PORT)], "")
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(443), backend_lines)
}
