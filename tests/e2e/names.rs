// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers by name: whatever DNS does, clients are served by who is there.

use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::Agent;
use lb_tests::authority::Authority;
use lb_tests::clients::curl;
use lb_tests::config::Config;
use lb_tests::dns::{DNS, Dnsmasq, Refuser};
use lb_tests::net::Net;
use lb_tests::peer::{Report, Service, echo, reporter};
use lb_tests::servers::Nginx;
use lb_tests::size;
use lb_tests::stream::{End, receive_exactly, say};
use lb_tests::wait::until;

use crate::support::{PORT, counts, tally};

const NAME: &str = "web.internal";

/// Records come, go and change their order, the DNS server dies and comes back, fails, and denies the name, all under load and
/// with a TTL of 10 s (1 s where the test is small): no client notices, and a connection to a server that has gone stays.
#[test]
fn servers_follow_the_records_and_no_connection_is_lost() {
    let net = Net::new(3);
    let authority = Authority::new();
    let identity = authority.issue(NAME);
    let servers = net.servers.iter().map(|place| Nginx::start(place, &identity)).collect();
    let echo = echo(&net.servers[0], 7);
    let (ttl, rounds, resolver) = size((1, 1, "ttl-min = \"500ms\"\nttl-max = \"1s\""), (10, 4, ""));
    let dns = Some(Dnsmasq::start(&net.balancer, ttl, &records(&net, &[0]), &[]));
    let entry = format!("name = \"all\"\naddress = \"{NAME}:443\"");
    let config = named(&net, "send-proxy = \"v2\"\nretries = 0", &entry, resolver)
        .tcp("echo", net.frontend(PORT + 1), "echo", "")
        .pool("echo", "")
        .raw(&format!("[[backend.echo.server]]\nname = \"one\"\naddress = \"{NAME}:7\""));
    let agent = Agent::start(&net, &config);
    let open = net.client.connect(net.frontend(PORT + 1));
    let mut changes = Changes { net: &net, agent: &agent, open, servers, dns, ttl };
    let served = under_load(&net, &authority, || (0..rounds).for_each(|_| changes.round()));
    drop((changes, echo));
    let records = agent.until_records(served + 1);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    assert_eq!(agent.scrape().count("lb_server_connect_failures_total", &[]), 0);
    assert_eq!(agent.scrape().count("lb_backend_unavailable_total", &[]), 0);
}

/// Runs `change` while a client asks again and again, each time successfully, and returns how often.
fn under_load(net: &Net, authority: &Authority, change: impl FnOnce()) -> usize {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let fetched = curl(&net.client, authority, NAME, net.frontend(PORT), "/");
                assert_eq!(fetched.code, 0, "{}", fetched.complaint);
                served += 1;
            }
            served
        });
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
        is_over.store(true, Ordering::Relaxed);
        let served = load.join().expect("no client failed");
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served
    })
}

/// What DNS does to an agent in front of three servers.
struct Changes<'a> {
    net: &'a Net,
    agent: &'a Agent,
    /// A connection to server 0 from before the first change.
    open: TcpStream,
    servers: Vec<Nginx>,
    dns: Option<Dnsmasq>,
    ttl: u32,
}

impl Changes<'_> {
    /// All of it once, from server 0 alone to server 0 alone.
    fn round(&mut self) {
        self.set(&[0, 1]);
        self.serving(&[0, 1]);
        self.set(&[2, 1]);
        self.serving(&[1, 2]);
        self.set(&[1, 2]);
        self.set(&[2]);
        self.serving(&[2]);

        // Nobody is there, then somebody who cannot, who does not want to, and who says nothing at all.
        self.dns = None;
        self.until_another("timeout");
        for code in [Some(2), Some(5), None] {
            let _refuser = Refuser::start(&self.net.balancer, code);
            self.until_another(if code.is_some() { "failure" } else { "timeout" });
            self.serving(&[2]);
        }
        self.dns = Some(Dnsmasq::start(&self.net.balancer, self.ttl, &records(self.net, &[2]), &[]));
        self.until_another("success");

        // The name is gone, but not for as long as hold-nx.
        self.set(&[]);
        self.until_another("nxdomain");
        self.serving(&[2]);
        self.set(&[0]);
        self.serving(&[0]);
    }

    fn set(&self, servers: &[usize]) {
        self.dns.as_ref().expect("one is running").set(&records(self.net, servers));
    }

    fn until_another(&self, result: &str) {
        self.talk();
        let before = results(self.agent, result);
        until(result, || results(self.agent, result) > before);
    }

    /// The open connection still works.
    fn talk(&self) {
        say(&self.open, b"still there?");
        assert_eq!(receive_exactly(&self.open, 12), b"still there?");
    }

    /// Waits until exactly these servers get connections.
    fn serving(&self, expected: &[usize]) {
        self.talk();
        self.agent.until_count("lb_server_addresses", &[("backend", "pool")], expected.len() as u64);
        let logged = || self.servers.iter().map(|server| server.log().len()).collect::<Vec<_>>();
        until(&format!("servers {expected:?} alone to be asked"), || {
            let (before, served) = (logged(), self.agent.process.stdout_lines());
            until("six more connections", || self.agent.process.stdout_lines() >= served + 6);
            let after = logged();
            let is_busy = |index: &usize| after[*index] > before[*index];
            (0..self.servers.len()).filter(is_busy).eq(expected.iter().copied())
        });
    }
}

/// One change at the default bounds: it is there when the TTL of ten seconds is over, no later question but one was asked for it, and
/// all that while clients were served.
#[test]
fn a_change_is_there_when_a_ttl_of_ten_seconds_is_over() {
    let net = Net::new(2);
    let _servers = reporters(&net);
    let dns = Dnsmasq::start(&net.balancer, 10, &records(&net, &[0]), &[]);
    let begun = Instant::now();
    let entry = format!("name = \"all\"\naddress = \"{NAME}:80\"\nfamily = \"ipv4\"");
    let agent = Agent::start(&net, &named(&net, "", &entry, ""));
    assert_eq!(tally(&net, 2), counts(&[("server0", 2)]));
    dns.set(&records(&net, &[1]));
    until("the other server", || {
        let served = tally(&net, 1);
        assert!(served == counts(&[("server0", 1)]) || served == counts(&[("server1", 1)]), "{served:?}");
        served.contains_key("server1")
    });
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((dns.questions("A", NAME), results(&agent, "success")), (2, 2));
    assert_eq!(tally(&net, 2), counts(&[("server1", 2)]));
}

/// Without an answer from the first moment on, the agent starts all the same; the name comes later.
#[test]
fn a_name_that_does_not_resolve_is_no_obstacle_to_the_start() {
    let net = Net::new(1);
    let _server = reporter(net.server(), 80, "server0", false);
    let begin = Instant::now();
    let config = named(&net, "", &format!("name = \"all\"\naddress = \"{NAME}:80\""), "ttl-min = \"500ms\"");
    let agent = Agent::launch(&net).alive().start(&config);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(agent.admin("/readyz").map(|response| response.status), Some(503));
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));
    assert_eq!(agent.until_records(1)[0].close(), "no-server");
    assert_eq!(agent.scrape().value("lb_server_resolved_timestamp_seconds", &[]), 0.0);

    let _dns = Dnsmasq::start(&net.balancer, 1, &records(&net, &[0]), &[]);
    until("to be ready", || agent.admin("/readyz").map(|response| response.status) == Some(200));
    assert_eq!(tally(&net, 2), counts(&[("server0", 2)]));
    assert!(agent.scrape().value("lb_server_resolved_timestamp_seconds", &[]) > 1.6e9);
}

#[test]
fn a_name_that_is_gone_loses_its_servers_after_hold_nx() {
    let net = Net::new(2);
    let _servers = reporters(&net);
    let dns = Dnsmasq::start(&net.balancer, 1, &records(&net, &[0]), &[]);
    let entry = format!("name = \"all\"\naddress = \"{NAME}:80\"");
    let agent = Agent::start(&net, &named(&net, "", &entry, "ttl-min = \"500ms\"\nhold-nx = \"2s\""));
    assert_eq!(tally(&net, 2), counts(&[("server0", 2)]));
    dns.set(&[]);
    until("NXDOMAIN", || results(&agent, "nxdomain") > 0);
    let denied = Instant::now();
    agent.until_count("lb_server_addresses", &[], 0);
    // The first NXDOMAIN came at most a look before the clock was read.
    assert!(denied.elapsed() > Duration::from_millis(1500), "{:?}", denied.elapsed());
    assert_eq!(agent.scrape().count("lb_server_up", &[]), 0);
    assert_eq!(agent.admin("/readyz").map(|response| response.status), Some(503));
    assert_eq!(net.client.connect_to_the_end(net.frontend(PORT)), (Vec::new(), End::Reset));

    dns.set(&records(&net, &[1]));
    agent.until_count("lb_server_addresses", &[], 1);
    assert_eq!(tally(&net, 2), counts(&[("server1", 2)]));
    let said = agent.process.stderr();
    let has = |text: &str| said.iter().any(|line| line.contains(text) && line.contains(NAME));
    assert!(has("its servers go") && has("servers changed") && has("resolved again"), "{said:?}");
}

#[test]
fn srv_records_say_ports_weights_and_who_is_a_backup() {
    let net = Net::new(2);
    let hosts = [("a.internal", net.servers[0].v4.into()), ("b.internal", net.servers[1].v4.into())];
    let server = |index: usize, port| reporter(&net.servers[index], port, &format!("{index}:{port}"), false);
    let (first, second, spare) = (server(0, 8001), server(0, 8002), server(1, 8003));
    let service = "_web._tcp.internal";
    let records = [
        "_web._tcp.internal,a.internal,8001,10,30",
        "_web._tcp.internal,a.internal,8002,10,10",
        "_web._tcp.internal,b.internal,8003,20,60000",
    ];
    let small: Vec<&str> = records[..2].to_vec();
    let dns = Dnsmasq::start(&net.balancer, 1, &hosts, &small);
    let check = "check = { type = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }";
    let entry = format!("name = \"all\"\nsrv = \"{service}\"");
    let agent = Agent::start(&net, &named(&net, check, &entry, "ttl-min = \"500ms\""));
    assert_eq!(tally(&net, 40), counts(&[("0:8001", 30), ("0:8002", 10)]));

    // The third record is of another priority, and its weight changes the scale of all.
    drop(dns);
    let dns = Dnsmasq::start(&net.balancer, 1, &hosts, &records);
    agent.until_count("lb_server_addresses", &[], 3);
    assert_eq!(tally(&net, 10), counts(&[("0:8001", 5), ("0:8002", 5)]));
    drop((first, second));
    agent.until_count("lb_server_state_changes_total", &[], 2);
    assert_eq!(tally(&net, 4), counts(&[("1:8003", 4)]));
    drop((dns, spare));
}

/// 300 addresses do not fit into a datagram (RFC 6891: 1,232 bytes in our questions).
#[test]
fn more_addresses_than_a_datagram_holds_come_over_tcp_and_are_cut() {
    let net = Net::new(1);
    let many: Vec<(&str, IpAddr)> = (0..300u16)
        .map(|n| (NAME, Ipv4Addr::new(10, 9, (n / 200) as u8, (n % 200) as u8 + 1).into()))
        .collect();
    let dns = Dnsmasq::start(&net.balancer, 1, &many, &[]);
    let entry = format!("name = \"all\"\naddress = \"{NAME}:80\"\nmax-addresses = 250");
    let agent = Agent::start(&net, &named(&net, "", &entry, "ttl-min = \"500ms\""));
    agent.until_count("lb_server_addresses", &[], 250);
    // dnsmasq turns the order with each answer; those that are there stay.
    let asked = results(&agent, "success");
    until("further answers", || results(&agent, "success") > asked + 1);
    let said = agent.process.stderr();
    let lines = |text: &str| said.iter().filter(|line| line.contains(text)).count();
    assert_eq!((lines("servers changed"), lines("more addresses than max-addresses")), (1, 1), "{said:?}");
    drop(dns);
}

#[test]
fn a_name_is_asked_for_once_however_many_entries_have_it() {
    let net = Net::new(2);
    let dns = Dnsmasq::start(&net.balancer, 300, &records(&net, &[0, 1]), &[]);
    let entry = format!("name = \"all\"\naddress = \"{NAME}:80\"\nfamily = \"ipv4\"");
    let more = format!(
        "[[backend.pool.server]]\nname = \"too\"\naddress = \"{NAME}:81\"\nfamily = \"ipv4\"\n\
         [backend.other]\n[[backend.other.server]]\nname = \"all\"\naddress = \"{NAME}:82\"\nfamily = \"ipv4\""
    );
    let agent = Agent::start(&net, &named(&net, "", &entry, "").raw(&more));
    agent.until_count("lb_server_addresses", &[], 6);
    assert_eq!(results(&agent, "success"), 1);
    assert_eq!((dns.questions("A", NAME), dns.questions("AAAA", NAME)), (1, 0));
}

#[test]
fn both_families_count_unless_one_is_chosen() {
    let net = Net::new(2);
    let _servers = reporters(&net);
    let names = [(NAME, net.servers[0].v4.into()), (NAME, net.servers[1].v6.into())];
    let _dns = Dnsmasq::start(&net.balancer, 300, &names, &[]);
    let check = |family: &str, expected: &[(&str, usize)]| {
        let entry = format!("name = \"all\"\naddress = \"{NAME}:80\"\nfamily = \"{family}\"");
        let _agent = Agent::start(&net, &named(&net, "", &entry, ""));
        assert_eq!(tally(&net, 4), counts(expected), "{family}");
    };
    check("any", &[("server0", 2), ("server1", 2)]);
    check("ipv4", &[("server0", 4)]);
    check("ipv6", &[("server1", 4)]);
}

/// Where IPv6 is off, connect(2) says of its addresses what it says when local ports run short (EADDRNOTAVAIL). They are taken out all
/// the same, and nobody is told of ports.
#[test]
fn addresses_of_a_family_that_the_host_lacks_are_taken_out() {
    let net = Net::new(1);
    net.balancer.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let _servers = reporters(&net);
    let names = [(NAME, net.servers[0].v4.into()), (NAME, net.servers[0].v6.into())];
    let _dns = Dnsmasq::start(&net.balancer, 300, &names, &[]);
    let check = "check = { type = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }";
    let agent =
        Agent::start(&net, &named(&net, check, &format!("name = \"all\"\naddress = \"{NAME}:80\""), ""));
    assert_eq!(tally(&net, 4), counts(&[("server0", 4)]), "whether the check was first or not");
    agent.until_count("lb_server_state_changes_total", &[], 1);
    assert_eq!(agent.scrape().count("lb_server_addresses", &[]), 2);
    assert_eq!(agent.scrape().count("lb_backend_source_ports_exhausted_total", &[]), 0);
}

/// Checks begin when an address comes and end when it goes.
#[test]
fn checks_follow_the_addresses() {
    let net = Net::new(3);
    let servers: Vec<Service<Report>> = reporters(&net).into_iter().take(2).collect();
    let dns = Dnsmasq::start(&net.balancer, 1, &records(&net, &[0]), &[]);
    let check = "check = { type = \"tcp\", interval = \"200ms\", rise = 1, fall = 1 }";
    let entry = format!("name = \"all\"\naddress = \"{NAME}:80\"");
    let agent = Agent::start(&net, &named(&net, check, &entry, "ttl-min = \"500ms\""));
    dns.set(&records(&net, &[0, 1]));
    until("checks of server 1", || servers[1].accepted() > 2);

    // Nobody listens at server 2: it is taken out before clients are sent there for long.
    dns.set(&records(&net, &[0, 2]));
    agent.until_count("lb_server_state_changes_total", &[], 1);
    assert_eq!(agent.scrape().count("lb_server_up", &[]), 1);
    let (alive, gone) = (servers[0].accepted(), servers[1].accepted());
    until("further checks of server 0", || servers[0].accepted() > alive + 5);
    assert!(
        servers[1].accepted() <= gone + 1,
        "{} checks of a server that has gone",
        servers[1].accepted() - gone
    );
    assert_eq!(tally(&net, 4), counts(&[("server0", 4)]));
}

/// /etc/hosts of the host knows localhost.
#[test]
fn names_in_the_hosts_file_need_no_dns() {
    let net = Net::new(1);
    let _server = reporter(&net.balancer, 80, "local", false);
    let entry = "name = \"all\"\naddress = \"localhost:80\"";
    let _agent = Agent::start(&net, &named(&net, "", entry, ""));
    assert_eq!(tally(&net, 2), counts(&[("local", 2)]));
}

/// A backend `pool` with one entry, behind a frontend of mode `tcp`; names are asked of [`DNS`].
fn named(net: &Net, backend_lines: &str, entry: &str, resolver_lines: &str) -> Config {
    Config::new()
        .raw(&format!("[resolver]\nservers = \"{DNS}\"\ntimeout = \"500ms\"\n{resolver_lines}"))
        .tcp("in", net.frontend(PORT), "pool", "")
        .pool("pool", backend_lines)
        .raw(&format!("[[backend.pool.server]]\n{entry}"))
}

/// The name with the addresses of these servers.
fn records(net: &Net, servers: &[usize]) -> Vec<(&'static str, IpAddr)> {
    servers.iter().map(|&index| (NAME, net.servers[index].v4.into())).collect()
}

fn reporters(net: &Net) -> Vec<Service<Report>> {
    let start = |(index, place)| reporter(place, 80, &format!("server{index}"), false);
    net.servers.iter().enumerate().map(start).collect()
}

/// Resolutions so far that came to this.
fn results(agent: &Agent, result: &str) -> u64 {
    agent.scrape().count("lb_resolutions_total", &[("result", result)])
}
