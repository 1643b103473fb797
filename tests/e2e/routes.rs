// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exact names over the longest wildcard over regular expressions over the default, conditions on ALPN, and names from a file.

use std::net::Ipv4Addr;
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::hello::Hello;
use lb_tests::net::{Net, canonical};
use lb_tests::peer::{Service, answer, ask, reporter};
use lb_tests::proxy_header::{self, AUTHORITY};
use lb_tests::stream::{finish, receive_all};

use crate::support::PORT;

const BACKENDS: [&str; 6] = ["exact", "near", "far", "pattern", "listed", "grpc"];

#[test]
fn the_most_specific_route_wins() {
    let net = Net::new(1);
    let names = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(names.path(), "# names\nlisted.example\n*.listed.example\n").expect("a temporary file");
    let servers = (6001..).zip(BACKENDS).map(|(port, name)| reporter(net.server(), port, name, false));
    let _servers: Vec<_> = servers.collect();
    let _agent = Agent::start(&net, &config(&net, &names.path().to_string_lossy()));
    let check = |expected: &str, hello: Hello| {
        let wire = hello.wire();
        let got = ask(&net.client.connect(net.frontend(PORT)), &wire);
        assert_eq!(got, answer(expected, &wire).into_bytes(), "{:?}", hello.server_name);
    };
    check("exact", Hello::named("www.a.example"));
    check("near", Hello::named("other.a.example"));
    check("near", Hello::named("deep.other.a.example"));
    check("far", Hello::named("b.example"));
    check("far", Hello::named("www7.example"));
    check("pattern", Hello::named("www7.test"));
    check("listed", Hello::named("listed.example"));
    check("listed", Hello::named("x.listed.example"));
    check("grpc", Hello::named("api.test").alpn(&["grpc-exp", "h2"]));
    check("pattern", Hello::named("api.test").alpn(&["http/1.1"]));
}

/// `config/ingress.toml` as it is, with servers at its private addresses.
#[test]
fn the_shipped_ingress_sends_every_name_to_its_server() {
    let net = Net::new(1);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/ingress.toml");
    let text = std::fs::read_to_string(file).expect("config/ingress.toml");
    let servers = (3..=7).map(|last| Ipv4Addr::new(172, 24, 0, last));
    for address in servers {
        let with_prefix = format!("{address}/32");
        net.server().run(Command::new("ip").args(["address", "add", &with_prefix, "dev", "lo"]));
    }
    let via = net.server().v4.to_string();
    net.balancer.run(Command::new("ip").args(["route", "add", "172.24.0.0/24", "via", &via]));
    let seen = Service::start(net.server().listen(443), |stream| {
        let own = canonical(stream.local_addr().expect("connected"));
        let header = proxy_header::read(&stream);
        // Closing with unread bytes would reset the connection.
        receive_all(&stream);
        finish(&stream);
        (own.ip().to_string(), header)
    });
    let _agent = Agent::start(&net, &Config::whole(&text));
    for (name, server) in [
        ("fiscalismia.example", "172.24.0.3"),
        ("www.fiscalismia.example", "172.24.0.3"),
        ("api.fiscalismia.example", "172.24.0.4"),
        ("demo.fiscalismia.example", "172.24.0.5"),
        ("tenant.demo.fiscalismia.example", "172.24.0.5"),
        ("auth.fiscalismia.example", "172.24.0.6"),
        ("monitor.fiscalismia.example", "172.24.0.7"),
    ] {
        for frontend in [net.frontend(443), net.balancer.address6(443)] {
            let client = net.client.connect(frontend);
            ask(&client, &Hello::named(name).wire());
            // Checks come in between, with a LOCAL header.
            let (own, header) = std::iter::repeat_with(|| seen.outcome())
                .find(|(_, header)| header.command == 1)
                .expect("an endless iterator");
            assert_eq!((own.as_str(), header.source()), (server, client.local_addr().expect("connected")));
            assert_eq!(header.tlv(AUTHORITY), Some(name.as_bytes()));
        }
    }
}

fn config(net: &Net, file: &str) -> Config {
    let config = Config::new()
        .passthrough("tls", &[net.frontend(PORT)], "")
        .route("tls", "~^(www[0-9]|api)\\\\.test$", "pattern")
        .route("tls", "*.example", "far")
        .route("tls", "*.a.example", "near")
        .route("tls", "www.a.example", "exact")
        .raw(&format!("[[frontend.tls.route]]\nsni-file = \"{file}\"\nbackend = \"listed\""))
        .raw("[[frontend.tls.route]]\nsni = [\"api.test\"]\nalpn = [\"grpc-exp\"]\nbackend = \"grpc\"");
    (6001..)
        .zip(BACKENDS)
        .fold(config, |config, (port, name)| config.backend(name, net.server().address(port), ""))
}
