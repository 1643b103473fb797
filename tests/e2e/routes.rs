// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exact names over the longest wildcard over regular expressions over the default, conditions on ALPN, and names from a file.

use lb_tests::agent::Agent;
use lb_tests::config::Config;
use lb_tests::hello::Hello;
use lb_tests::net::Net;
use lb_tests::peer::{answer, ask, reporter};

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
