// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: an end is on the balancer's own host. Its packets go by loopback, and the programs are there if that is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::slice;

use lb_tests::agent::Agent;
use lb_tests::bpffs::Bpffs;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Namespace, Net};

use crate::packet_lab::{Family, Lab, Spliced};
use crate::packet_links::{goes_on, sent};
use crate::packet_stage::kill;
use crate::packet_tracking::rule;
use crate::support::{PORT, SERVER_PORT};

on_both_families! {
    a_client_on_this_host_and_a_server_elsewhere,
    a_server_on_this_host_and_a_client_elsewhere,
    both_ends_on_this_host_by_an_address_of_its_own,
    both_ends_on_this_host_by_loopback_addresses,
    stateful_rules_that_hold_for_loopback_too_let_flows_go_on,
    a_killed_agent_loses_no_flow_with_ends_on_this_host,
    without_programs_at_loopback_such_flows_stay_in_user_space,
}

const WITH_LOOPBACK: &str = "packet-interfaces = [\"lo\", \"client\", \"server0\"]";

const LOOPBACK_ALONE: &str = "packet-interfaces = [\"lo\"]";

/// What does not belong to a connection that tracking knows is dropped, also what this host sends to itself.
const STATEFUL: &str = "
    table inet firewall {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state invalid drop
            ct state established,related accept
            meta l4proto ipv6-icmp accept
            tcp dport { 5000, 6000, 8404 } ct state new accept
        }
        chain output {
            type filter hook output priority filter; policy drop;
            ct state invalid drop
            ct state established,related,new accept
            meta l4proto ipv6-icmp accept
        }
    }";

/// Where things are.
struct Places {
    family: Family,
    /// The frontend's address and the server's.
    addresses: [SocketAddr; 2],
    is_server_here: bool,
}

impl Places {
    fn config(&self, global: &str) -> Config {
        let [frontend, server] = self.addresses;
        let config = Config::new().global(global).path(Path::Packet);
        config.tcp("in", frontend, "out", "").backend("out", server, "")
    }

    fn lab(&self, net: Net, global: &str) -> Lab {
        let place: &Namespace = if self.is_server_here { &net.balancer } else { net.server() };
        let listener = place.listen(SERVER_PORT);
        Lab { agent: Agent::start(&net, &self.config(global)), listener, net, family: self.family }
    }

    /// A new flow from here, or from the client.
    #[track_caller]
    fn flow(&self, lab: &Lab, is_client_here: bool) -> Spliced {
        let place: &Namespace = if is_client_here { &lab.net.balancer } else { &lab.net.client };
        Spliced::from((place.connect(self.addresses[0]), lab.listener.accept()))
    }
}

/// With the balancer's own address, and the server's or once more that.
fn places(net: &Net, family: Family, is_server_here: bool) -> Places {
    let server: &Namespace = if is_server_here { &net.balancer } else { net.server() };
    let addresses = [family.of(&net.balancer, PORT), family.of(server, SERVER_PORT)];
    Places { family, addresses, is_server_here }
}

fn a_client_on_this_host_and_a_server_elsewhere(family: Family) {
    let net = Net::new(1);
    let places = places(&net, family, false);
    leaves_and_goes_on(places.lab(net, WITH_LOOPBACK), &places, true);
}

fn a_server_on_this_host_and_a_client_elsewhere(family: Family) {
    let net = Net::new(1);
    let places = places(&net, family, true);
    leaves_and_goes_on(places.lab(net, WITH_LOOPBACK), &places, false);
}

fn both_ends_on_this_host_by_an_address_of_its_own(family: Family) {
    let net = Net::new(1);
    let places = places(&net, family, true);
    leaves_and_goes_on(places.lab(net, WITH_LOOPBACK), &places, true);
}

fn both_ends_on_this_host_by_loopback_addresses(family: Family) {
    let places = by_loopback(family);
    leaves_and_goes_on(places.lab(Net::new(1), LOOPBACK_ALONE), &places, true);
}

fn by_loopback(family: Family) -> Places {
    let address: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    let addresses = [PORT, SERVER_PORT].map(|port| SocketAddr::new(address, port));
    Places { family, addresses, is_server_here: true }
}

#[track_caller]
fn leaves_and_goes_on(lab: Lab, places: &Places, is_client_here: bool) {
    let flow = places.flow(&lab, is_client_here);
    lab.until_spliced(slice::from_ref(&flow));
    let before = sent(&lab.net.balancer, "lo");
    goes_on(&lab, &flow);
    let packets = sent(&lab.net.balancer, "lo") - before;
    assert!(packets > 100, "{packets} packets went by loopback");
    lab.assert_refused(&[]);
}

fn a_killed_agent_loses_no_flow_with_ends_on_this_host(family: Family) {
    let (places, bpffs) = (by_loopback(family), Bpffs::new());
    let global = format!("{LOOPBACK_ALONE}\npacket-state = \"{}\"", bpffs.path("lb").display());
    let mut lab = places.lab(Net::new(1), &global);
    let flow = places.flow(&lab, true);
    lab.until_spliced(slice::from_ref(&flow));
    kill(&mut lab.agent);
    (0..100).for_each(|_| flow.ping());
    lab.agent = Agent::start(&lab.net, &places.config(&global));
    goes_on(&lab, &flow);
}

fn stateful_rules_that_hold_for_loopback_too_let_flows_go_on(family: Family) {
    for (is_client_here, is_server_here) in [(true, false), (false, true), (true, true)] {
        let net = Net::new(1);
        rule(&net.balancer, STATEFUL);
        let places = places(&net, family, is_server_here);
        leaves_and_goes_on(places.lab(net, WITH_LOOPBACK), &places, is_client_here);
    }
}

/// Who has not asked for it has no programs there.
fn without_programs_at_loopback_such_flows_stay_in_user_space(family: Family) {
    for is_client_here in [true, false] {
        let net = Net::new(1);
        let places = places(&net, family, !is_client_here);
        let lab = places.lab(net, "");
        lab.assert_kept(&places.flow(&lab, is_client_here), "local-peer");
    }
}
