// SPDX-License-Identifier: MIT OR Apache-2.0
//! PROXY headers between real programs: HAProxy and nginx in front of the agent and behind it, and a Python package as both.

use std::net::{IpAddr, SocketAddr};

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::clients::curl;
use lb_tests::config::Config;
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{ask, reporter};
use lb_tests::proxy_header::{AUTHORITY, CRC32C, UNIQUE_ID};
use lb_tests::proxy_protocol;
use lb_tests::servers::{Haproxy, Nginx, NginxRelay};
use lb_tests::stream::{finish, receive_all, say};
use lb_tests::wait::until_some;
use serde_json::json;

use crate::support::{PORT, SERVER_PORT};

/// Client, HAProxy, agent, nginx: each sees who the client is.
#[test]
fn nginx_sees_the_client_behind_haproxy() {
    for words in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let net = Net::new(2);
        let authority = Authority::new();
        let nginx = Nginx::start(net.server(), &authority.issue("alpha.example"));
        let front = &net.servers[1];
        let lines = format!("accept-proxy-from = \"{}\"", front.v4);
        let config = Config::new()
            .passthrough("tls", &[net.frontend(PORT)], &lines)
            .route("tls", "alpha.example", "alpha")
            .backend("alpha", net.server().address(443), "send-proxy = \"v2\"\nsend-proxy-crc32c = true");
        let agent = Agent::start(&net, &config);
        let _haproxy = Haproxy::relay_with(front, 443, net.frontend(PORT), words);
        // Waiting for HAProxy to listen was a connection through it, which has ended.
        let fetched = curl(&net.client, &authority, "alpha.example", front.address(443), "/");
        assert_eq!(fetched.code, 0, "{words}: {fetched:?}");
        let client = format!("{}:{}", net.client.v4, fetched.local_port);
        assert_eq!(fetched.body, format!("I am alpha.example, you are {}\n", client.replace(':', " ")));
        let expected = format!("{} {} alpha.example 200", net.client.v4, fetched.local_port);
        until_some(&format!("{expected:?} in nginx's log"), || {
            nginx.log().into_iter().find(|line| *line == expected)
        });
        let record = until_some("the line of the connection", || {
            agent.records().into_iter().find(|record| record.text("client") == client)
        });
        assert_eq!(record.text("local"), front.address(443).to_string());
        assert!(record.text("peer").starts_with(&format!("{}:", front.v4)), "{record:?}");
        assert_eq!(record.close(), "finished");
    }
}

/// Version 1 from nginx to the agent and from the agent to nginx, over both families: all agree on who is connected with whom.
#[test]
fn nginx_agrees_in_version_1_in_both_directions() {
    let net = Net::new(2);
    let authority = Authority::new();
    let nginx = Nginx::start(net.server(), &authority.issue("alpha.example"));
    let front = &net.servers[1];
    let trust = format!("accept-proxy-from = [\"{}\", \"{}\"]", front.v4, front.v6);
    let config = Config::new()
        .passthrough("tls", &[net.frontend(PORT), net.balancer.address6(PORT)], &trust)
        .route("tls", "alpha.example", "alpha")
        .backend("alpha", net.server().address(443), "send-proxy = \"v1\"");
    let agent = Agent::start(&net, &config);
    let _relay = NginxRelay::start(front, 443, net.frontend(PORT));
    let by_relay = [front.address(443), front.address6(443)];
    let directly = [net.frontend(PORT), net.balancer.address6(PORT)];
    for (is_relayed, local) in
        by_relay.map(|local| (true, local)).into_iter().chain(directly.map(|local| (false, local)))
    {
        let fetched = curl(&net.client, &authority, "alpha.example", local, "/ends");
        assert_eq!(fetched.code, 0, "{local}: {fetched:?}");
        let ip: IpAddr = if local.is_ipv4() { net.client.v4.into() } else { net.client.v6.into() };
        let (client, port) = (SocketAddr::new(ip, fetched.local_port), fetched.local_port);
        assert_eq!(fetched.body, format!("{ip} {port} {} {}\n", local.ip(), local.port()));
        let logged = format!("{ip} {port} alpha.example 200");
        until_some(&format!("{logged:?} in nginx's log"), || {
            nginx.log().into_iter().find(|line| *line == logged)
        });
        let record = until_some("the line of the connection", || {
            agent.records().into_iter().find(|record| record.text("client") == client.to_string())
        });
        assert_eq!((record.text("local"), record.close()), (&*local.to_string(), "finished"));
        let is_from_relay = record.text("peer").starts_with(&format!("{}:", front.v4));
        assert_eq!(is_from_relay, is_relayed, "{record:?}");
    }
}

#[test]
fn haproxy_reads_both_versions_and_every_tlv() {
    let net = Net::new(1);
    let authority = Authority::new();
    let answer =
        "source %[src] %[src_port] to %[dst] %[dst_port] authority %[fc_pp_authority] id %[fc_pp_unique_id]";
    let _haproxy = Haproxy::saying(net.server(), &authority.issue("alpha.example"), answer);
    let server = net.server().address(443);
    let all = "send-proxy = \"v2\"\nsend-proxy-authority = true\nsend-proxy-crc32c = true\nsend-proxy-alpn = true\n\
               send-proxy-unique-id = true";
    let config = Config::new()
        .passthrough("one", &[net.frontend(PORT), net.balancer.address6(PORT)], "default-backend = \"one\"")
        .passthrough(
            "two",
            &[net.frontend(PORT + 1), net.balancer.address6(PORT + 1)],
            "default-backend = \"two\"",
        )
        .backend("one", server, "send-proxy = \"v1\"")
        .backend("two", server, all);
    let agent = Agent::start(&net, &config);
    let mut seen = 0;
    let mut ask = |frontend: SocketAddr| {
        let fetched = curl(&net.client, &authority, "alpha.example", frontend, "/");
        assert_eq!(fetched.code, 0, "{fetched:?}");
        seen += 1;
        let id = agent.until_records(seen)[seen - 1].text("unique_id").to_owned();
        (fetched, id)
    };
    for v6 in [false, true] {
        let (client, balancer) = if v6 {
            (net.client.v6.to_string(), net.balancer.v6.to_string())
        } else {
            (net.client.v4.to_string(), net.balancer.v4.to_string())
        };
        let at = |port: u16| if v6 { net.balancer.address6(port) } else { net.frontend(port) };
        let (fetched, id) = ask(at(PORT));
        let port = fetched.local_port;
        assert_eq!(id, "");
        assert_eq!(fetched.body, format!("source {client} {port} to {balancer} {PORT} authority  id \n"));
        let (fetched, id) = ask(at(PORT + 1));
        let port = fetched.local_port;
        assert_eq!(id.len(), 32);
        let expected =
            format!("source {client} {port} to {balancer} {} authority alpha.example id {id}\n", PORT + 1);
        assert_eq!(fetched.body, expected);
    }
}

/// What the Python package writes, the agent reads; what the agent then writes, the package reads.
#[test]
fn a_python_package_agrees_in_both_directions() {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let trust = "accept-proxy-from = \"10.1.0.2\"";
    let config = Config::new()
        .passthrough("one", &[net.frontend(PORT)], &format!("{trust}\ndefault-backend = \"one\""))
        .passthrough("two", &[net.frontend(PORT + 1)], &format!("{trust}\ndefault-backend = \"two\""))
        .backend("one", net.server().address(SERVER_PORT), "send-proxy = \"v1\"")
        .backend("two", net.server().address(SERVER_PORT), "send-proxy = \"v2\"\nsend-proxy-crc32c = true");
    let agent = Agent::start(&net, &config);
    let hello = Hello::named("alpha.example").wire();
    let families =
        [("198.51.100.7:50123", "203.0.113.1:443"), ("[2001:db8::7]:50123", "[2001:db8:1::1]:443")];
    let mut seen = 0;
    for (client, local) in families {
        let ends: (SocketAddr, SocketAddr) =
            (client.parse().expect("an address"), local.parse().expect("an address"));
        for (version, port) in [("V1", PORT), ("V2", PORT + 1), ("V1", PORT + 1), ("V2", PORT)] {
            let theirs = proxy_protocol::write(version, Some(ends), "their.example");
            let stream = net.client.connect(net.frontend(port));
            say(&stream, &[&theirs, &hello[..]].concat());
            finish(&stream);
            let (bytes, _) = receive_all(&listener.accept());
            let header = bytes.strip_suffix(&hello[..]).expect("the hello behind the header");
            let read = proxy_protocol::read(header);
            let pair = |end: SocketAddr| json!([end.ip().to_string(), end.port()]);
            assert_eq!((&read["source"], &read["dest"]), (&pair(ends.0), &pair(ends.1)), "{read}");
            if port == PORT + 1 {
                let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
                let tlv = |kind: u8| read["tlvs"][kind.to_string()].as_str().unwrap_or_default().to_owned();
                assert_eq!(tlv(AUTHORITY), hex("alpha.example"), "{read}");
                let id = if version == "V2" { hex("from-python") } else { String::new() };
                assert_eq!((tlv(UNIQUE_ID), tlv(CRC32C).len()), (id, 8), "{read}");
            }
            seen += 1;
            let record = &agent.until_records(seen)[seen - 1];
            assert_eq!((record.text("client"), record.text("local")), (client, local));
        }
    }
    let unknown = proxy_protocol::write("V1", None, "");
    let stream = net.client.connect(net.frontend(PORT));
    say(&stream, &[&unknown, &hello[..]].concat());
    finish(&stream);
    let (bytes, _) = receive_all(&listener.accept());
    let read = proxy_protocol::read(&bytes[..bytes.len() - hello.len()]);
    assert_eq!(read["source"][0], "10.1.0.2", "{read}");
}

/// A check by a proxy in front: connect, LOCAL or UNKNOWN, and away.
#[test]
fn checks_of_haproxy_in_front_pass() {
    let net = Net::new(2);
    let server = reporter(net.server(), SERVER_PORT, "alpha", false);
    let front = &net.servers[1];
    let lines = format!("accept-proxy-from = \"{}\"", front.v4);
    let config = Config::new().tcp("in", net.frontend(PORT), "out", &lines).backend(
        "out",
        net.server().address(SERVER_PORT),
        "",
    );
    let agent = Agent::start(&net, &config);
    let words = "send-proxy-v2 check-send-proxy check inter 100ms";
    let _haproxy = Haproxy::relay_with(front, 443, net.frontend(PORT), words);
    until_some("a check", || agent.records().into_iter().find(|record| record.text("peer").is_empty()));
    ask(&net.client.connect(front.address(443)), b"hello");
    let bytes = until_some("the client's bytes", || {
        server.outcomes().into_iter().map(|report| report.bytes).find(|bytes| !bytes.is_empty())
    });
    assert_eq!(bytes, b"hello");
    assert_eq!(agent.scrape().count("lb_proxy_header_rejected_total", &[]), 0);
}
