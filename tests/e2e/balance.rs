// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way of choosing a server, before three nginx of different weight.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::clients;
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::servers::Nginx;
use lb_tests::wait::until;

use crate::support::PORT;

/// Weights of the servers.
const WEIGHTS: [u64; 3] = [1, 2, 1];

/// Where the frontend listens that does not look at names.
const TCP_PORT: u16 = PORT + 1;

/// Three nginx for all names below `alpha.example`, behind a frontend that reads names and one that does not.
struct Farm {
    agent: Agent,
    servers: Vec<Nginx>,
    authority: Authority,
    net: Net,
}

impl Farm {
    #[track_caller]
    fn start(backend_lines: &str) -> Self {
        let net = Net::new(3);
        let authority = Authority::new();
        let identity = authority.issue("*.alpha.example");
        let servers: Vec<Nginx> = net.servers.iter().map(|place| Nginx::start(place, &identity)).collect();
        let tls = [net.frontend(PORT), net.balancer.address6(PORT)];
        let config = Config::new()
            .passthrough("tls", &tls, "default-backend = \"farm\"")
            .tcp("tcp", net.frontend(TCP_PORT), "farm", "")
            .pool("farm", &format!("send-proxy = \"v2\"\n{backend_lines}"));
        let config =
            net.servers.iter().zip(WEIGHTS).zip(0..).fold(config, |config, ((place, weight), number)| {
                let name = format!("nginx{number}");
                config.server("farm", &name, place.address(443), &format!("weight = {weight}"))
            });
        Self { agent: Agent::start(&net, &config), servers, authority, net }
    }

    /// Fetches a page as the client with this address, under this name.
    #[track_caller]
    fn fetch(&self, client: &str, name: &str) {
        let frontend: SocketAddr = match client.contains(':') {
            true => self.net.balancer.address6(PORT),
            false => self.net.frontend(PORT),
        };
        let mut command = clients::curl_command(&self.authority, name, frontend, "/");
        let body = self.net.client.run(command.args(["--interface", client]));
        assert!(body.contains(&format!("you are {client} ")), "{body}");
    }

    /// Gives the client's host further addresses.
    fn add_addresses(&self, addresses: &[String]) {
        for address in addresses {
            let length = if address.contains(':') { 64 } else { 24 };
            let mut command = Command::new("ip");
            command.args(["address", "add", &format!("{address}/{length}"), "dev", "uplink"]);
            if length == 64 {
                command.arg("nodad");
            }
            self.net.client.run(&mut command);
        }
    }

    /// Opens connections that stay open.
    #[track_caller]
    fn hold(&self, connections: u64) -> Vec<TcpStream> {
        let held = (0..connections).map(|_| self.net.client.connect(self.net.frontend(TCP_PORT))).collect();
        until("every connection to have a server", || {
            self.count("lb_server_connections_active").iter().sum::<u64>() == connections
        });
        held
    }

    /// A metric of each server.
    fn count(&self, metric: &str) -> [u64; 3] {
        let scrape = self.agent.scrape();
        ["nginx0", "nginx1", "nginx2"].map(|name| scrape.count(metric, &[("server", name)]))
    }

    /// The servers that had requests, by a field of their logs: 0 is the client's address, 2 the name.
    fn servers_by(&self, field: usize) -> BTreeMap<String, BTreeSet<usize>> {
        let mut servers: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (server, nginx) in self.servers.iter().enumerate() {
            for line in nginx.log() {
                let key = line.split(' ').nth(field).expect("four fields").to_owned();
                servers.entry(key).or_default().insert(server);
            }
        }
        servers
    }
}

/// Asserts that each key had one server, and that every server had a key.
#[track_caller]
fn assert_kept(servers: &BTreeMap<String, BTreeSet<usize>>, keys: usize) {
    assert_eq!(servers.len(), keys, "{servers:?}");
    assert!(servers.values().all(|servers| servers.len() == 1), "{servers:?}");
    assert_eq!(servers.values().flatten().collect::<BTreeSet<_>>().len(), WEIGHTS.len(), "{servers:?}");
}

#[test]
fn round_robin_goes_by_weight() {
    let farm = Farm::start("balance = \"round-robin\"");
    (0..20).for_each(|_| farm.fetch("10.1.0.2", "www.alpha.example"));
    assert_eq!(farm.count("lb_server_connections_total"), [5, 10, 5]);
}

#[test]
fn least_connections_fills_by_weight() {
    let farm = Farm::start("balance = \"least-connections\"");
    let held = farm.hold(100);
    assert_eq!(farm.count("lb_server_connections_active"), [25, 50, 25]);
    drop(held);
    farm.agent.until_idle();
}

/// The better of two drawn differs from an even spread by a few connections, however many there are.
#[test]
fn random_fills_by_weight() {
    let farm = Farm::start("balance = \"random\"");
    let _held = farm.hold(400);
    for (count, weight) in farm.count("lb_server_connections_active").into_iter().zip(WEIGHTS) {
        assert!(count.abs_diff(100 * weight) <= 20, "{count} at weight {weight}");
    }
    assert_eq!(farm.count("lb_server_connections_total").iter().sum::<u64>(), 400);
}

#[test]
fn a_source_keeps_its_server() {
    let farm = Farm::start("balance = \"source\"");
    let v4: Vec<String> = (10..34).map(|host| format!("10.1.0.{host}")).collect();
    // Both are of the same /64.
    let v6 = ["fd01::a".to_owned(), "fd01::b".to_owned()];
    farm.add_addresses(&v4);
    farm.add_addresses(&v6);
    for name in ["www.alpha.example", "api.alpha.example"] {
        v4.iter().chain(&v6).for_each(|client| farm.fetch(client, name));
    }
    let servers = farm.servers_by(0);
    assert_kept(&servers, 26);
    assert_eq!(servers["fd01::a"], servers["fd01::b"]);
}

#[test]
fn a_name_keeps_its_server() {
    let farm = Farm::start("balance = \"maglev\"\nhash-on = \"sni\"");
    let clients = ["10.1.0.10".to_owned(), "10.1.0.11".to_owned(), "fd01::a".to_owned()];
    farm.add_addresses(&clients);
    let names: Vec<String> = (0..16).map(|number| format!("shop{number}.alpha.example")).collect();
    for client in &clients {
        names.iter().for_each(|name| farm.fetch(client, name));
    }
    assert_kept(&farm.servers_by(2), 16);
}

#[test]
fn one_source_cannot_overload_its_server() {
    let farm = Farm::start("balance = \"maglev\"\nhash-balance-factor = 125");
    let _held = farm.hold(100);
    let counts = farm.count("lb_server_connections_active");
    // 125 % of 100 by weight, rounded up.
    assert!(counts.iter().zip([32, 63, 32]).all(|(count, most)| *count <= most), "{counts:?}");
    // The server that the address leads to is as full as it may be.
    assert!(counts.iter().zip([32, 63, 32]).any(|(count, most)| *count == most), "{counts:?}");
}
