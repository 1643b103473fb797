// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of real servers that take nothing but connections with a PROXY header: LOCAL in version 2, the check's own addresses in
//! version 1.

use std::net::SocketAddr;

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::process::Process;
use lb_tests::servers::{Haproxy, Nginx};
use rustix::process::Signal;

use crate::support::PORT;

/// Versions of the header, and whether servers take a check with it.
const HEADERS: [(&str, bool); 3] = [("v2", true), ("v1", true), ("off", false)];

/// The last answer says whether the header was read: without one (`off`) neither server speaks TLS.
const HTTPS: &str = "type = \"https\"\nhost = \"alpha.example\"\nexpect = 200\n";

#[test]
fn nginx_and_haproxy_behind_headers_are_up_until_they_are_stopped() {
    let net = Net::new(2);
    let authority = Authority::new();
    let identity = authority.issue("alpha.example");
    let checks = format!("{HTTPS}ca-file = \"{}\"", authority.certificate().display());
    let [nginx_at, haproxy_at] = [0, 1].map(|index: usize| net.servers[index].address(443));
    let config = Config::new().tcp("in", net.frontend(PORT), "nginx-v2", "");
    let config = backends(backends(config, "nginx", nginx_at, &checks), "haproxy", haproxy_at, &checks);
    let start_nginx = || Nginx::start(&net.servers[0], &identity);
    let start_haproxy = || Haproxy::start(&net.servers[1], &identity);
    let (mut nginx, mut haproxy) = (start_nginx(), start_haproxy());
    let agent = Agent::launch(&net).alive().start(&config);
    expect(&agent, "nginx", true);
    expect(&agent, "haproxy", true);

    stop(&mut nginx.process);
    expect(&agent, "nginx", false);
    expect(&agent, "haproxy", true);
    stop(&mut haproxy.process);
    expect(&agent, "haproxy", false);

    let _servers = (start_nginx(), start_haproxy());
    expect(&agent, "nginx", true);
    expect(&agent, "haproxy", true);
}

/// A backend for each version of the header and each kind of check.
fn backends(config: Config, name: &str, server: SocketAddr, checks: &str) -> Config {
    HEADERS.iter().fold(config, |config, (header, _)| {
        let check = |name: &str, lines: &str| {
            format!(
                "[backend.{name}.check]\ninterval = \"200ms\"\ntimeout = \"2s\"\nrise = 2\nfall = 2\n{lines}"
            )
        };
        let (https, tcp) = (format!("{name}-{header}"), format!("{name}-{header}-tcp"));
        let send = format!("send-proxy = \"{header}\"");
        config
            .pool(&https, &send)
            .raw(&check(&https, checks))
            .server(&https, "only", server, "")
            .pool(&tcp, &send)
            .raw(&check(&tcp, "type = \"tcp\""))
            .server(&tcp, "only", server, "")
    })
}

/// Waits until the backends of a server are as they should be. A check that only connects says nothing of the header.
#[track_caller]
fn expect(agent: &Agent, name: &str, is_running: bool) {
    for (header, takes) in HEADERS {
        let backend = format!("{name}-{header}");
        agent.until_count("lb_server_up", &[("backend", &backend)], u64::from(is_running && takes));
        let tcp = format!("{backend}-tcp");
        agent.until_count("lb_server_up", &[("backend", &tcp)], u64::from(is_running));
    }
}

/// As an operator stops it.
#[track_caller]
fn stop(process: &mut Process) {
    process.signal(Signal::TERM);
    process.wait();
}
