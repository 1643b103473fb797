// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job on real programs: curl, OpenSSL and Chromium reach the right nginx of five by name, nginx sees their address, and
//! TLS stays end to end.

use std::net::SocketAddr;

use lb_tests::agent::Agent;
use lb_tests::authority::{Authority, Identity};
use lb_tests::clients::{chromium, curl, openssl, shown_fingerprint};
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::process::text;
use lb_tests::servers::Nginx;
use lb_tests::wait::until_some;

const NAMES: [&str; 5] =
    ["alpha.example", "beta.example", "gamma.example", "delta.example", "epsilon.example"];

/// Five nginx, each with its own certificate, behind one frontend on IPv4 and IPv6.
struct Ingress {
    agent: Agent,
    nginx: Vec<Nginx>,
    identities: Vec<Identity>,
    authority: Authority,
    net: Net,
}

#[test]
fn curl_reaches_the_right_nginx_of_five() {
    let ingress = Ingress::start();
    for frontend in ingress.frontends() {
        for (index, name) in NAMES.into_iter().enumerate() {
            let fetched = curl(&ingress.net.client, &ingress.authority, name, frontend, "/");
            assert_eq!(fetched.code, 0, "{}", fetched.complaint);
            let client = ingress.client_of(frontend);
            let port = fetched.local_port;
            assert_eq!(fetched.body, format!("I am {name}, you are {client} {port}\n"));
            let expected = format!("{client} {port} {name} 200");
            until_some(&format!("{expected:?} in nginx's log"), || {
                ingress.nginx[index].log().into_iter().find(|line| *line == expected)
            });
        }
    }
    let records = ingress.agent.until_records(2 * NAMES.len());
    for (record, name) in records.iter().zip(NAMES.iter().chain(&NAMES)) {
        assert_eq!((record.text("sni"), record.text("alpn")), (*name, "h2,http/1.1"), "{record:?}");
        assert_eq!(record.close(), "finished", "{record:?}");
    }
}

#[test]
fn openssl_sees_the_certificate_of_the_right_nginx_of_five() {
    let ingress = Ingress::start();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    for frontend in ingress.frontends() {
        for identity in &ingress.identities {
            let output = openssl(&ingress.net.client, &ingress.authority, &identity.name, frontend);
            let printed = text(&output.stdout);
            assert!(output.status.success(), "{printed}");
            let answer = format!("I am {}, you are {} ", identity.name, ingress.client_of(frontend));
            assert!(printed.contains(&answer), "{printed}");
            let shown = shown_fingerprint(&printed, scratch.path());
            assert_eq!(shown, Identity::fingerprint(&identity.certificate));
        }
    }
}

#[test]
fn chromium_reaches_the_right_nginx_of_five_over_ipv4() {
    let ingress = Ingress::start();
    ingress.visit_all(ingress.frontends()[0]);
}

#[test]
fn chromium_reaches_the_right_nginx_of_five_over_ipv6() {
    let ingress = Ingress::start();
    ingress.visit_all(ingress.frontends()[1]);
}

impl Ingress {
    fn start() -> Self {
        let net = Net::new(5);
        let authority = Authority::new();
        let identities: Vec<Identity> = NAMES.iter().map(|name| authority.issue(name)).collect();
        let places = net.servers.iter().zip(&identities);
        let nginx = places.map(|(place, identity)| Nginx::start(place, identity)).collect();
        let bind = [net.frontend(443), net.balancer.address6(443)];
        let mut config = Config::new().passthrough("https", &bind, "");
        for (index, name) in NAMES.into_iter().enumerate() {
            let backend = format!("nginx-{index}");
            let server = net.servers[index].address(443);
            config = config.route("https", name, &backend).backend(&backend, server, "send-proxy = \"v2\"");
        }
        Self { agent: Agent::start(&net, &config), nginx, identities, authority, net }
    }

    fn frontends(&self) -> [SocketAddr; 2] {
        [self.net.frontend(443), self.net.balancer.address6(443)]
    }

    /// The client's address that nginx must see for connections to a frontend.
    fn client_of(&self, frontend: SocketAddr) -> String {
        let client = &self.net.client;
        if frontend.is_ipv4() { client.v4.to_string() } else { client.v6.to_string() }
    }

    #[track_caller]
    fn visit_all(&self, frontend: SocketAddr) {
        for (index, identity) in self.identities.iter().enumerate() {
            let page = chromium(&self.net.client, identity, frontend);
            let client = self.client_of(frontend);
            assert!(page.contains(&format!("I am {}, you are {client} ", identity.name)), "{page}");
            until_some(&format!("{client} in nginx's log"), || {
                self.nginx[index].log().into_iter().find(|line| line.starts_with(&format!("{client} ")))
            });
        }
    }
}
