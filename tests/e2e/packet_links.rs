// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of path `packet` set up that change links and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::net::{Namespace, Net};
use lb_tests::process::Process;
use lb_tests::size;
use lb_tests::stream::{End, receive_at_most, send_in_pieces};
use lb_tests::wait::until;
use serde_json::Value;

use crate::packet_lab::{Family, Lab, Spliced};
use crate::support::{SERVER_PORT, assert_received, stream_both_ways};

pub(crate) fn ip(place: &Namespace, arguments: &[&str]) {
    place.run(Command::new("ip").args(arguments));
}

/// Goes on with short messages and some megabytes each way, and ends the flow.
#[track_caller]
pub(crate) fn goes_on(lab: &Lab, flow: &Spliced) {
    let beside = lab.bytes_beside();
    (0..20).for_each(|_| flow.ping());
    stream_both_ways(&flow.client, &flow.server, 4 << 20, 4 << 20);
    lab.assert_ended(1, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

/// Bytes go both ways, slowly, while something happens.
#[track_caller]
pub(crate) fn stream_while(flow: &Spliced, happens: impl FnOnce()) {
    let bytes = size(256 << 20, 2 << 30);
    thread::scope(|scope| {
        let (client, server) = (&flow.client, &flow.server);
        for (from, to, seed) in [(client, server, 1), (server, client, 2)] {
            scope.spawn(move || {
                send_in_pieces(from, seed, bytes, slowly(Duration::from_millis(20))).expect("a reader")
            });
            scope.spawn(move || assert_received(&receive_at_most(to, seed, bytes), bytes, End::Silent));
        }
        thread::sleep(Duration::from_millis(100));
        happens();
    });
}

/// So slow that what is to happen in the middle does: with a pause after each MiB.
pub(crate) fn slowly(pause: Duration) -> impl FnMut() -> usize {
    let mut pieces = 0_u64;
    move || {
        pieces += 1;
        if pieces.is_multiple_of(16) {
            thread::sleep(pause);
        }
        1 << 16
    }
}

/// Addresses of networks behind others.
#[derive(Clone, Copy)]
pub(crate) struct Far {
    /// A network, its router's address in it and that of whoever is behind.
    pub(crate) network: &'static str,
    pub(crate) router: &'static str,
    pub(crate) end: &'static str,
    /// Bits of a prefix, as text.
    pub(crate) bits: &'static str,
    /// Of one address alone.
    pub(crate) all_bits: &'static str,
    /// Networks between balancer and router: both addresses.
    pub(crate) first: [&'static str; 2],
    pub(crate) second: [&'static str; 2],
}

impl Far {
    /// A server at the other end of the second network.
    pub(crate) fn neighbour(self) -> SocketAddr {
        SocketAddr::new(self.second[1].parse().expect("an address"), SERVER_PORT)
    }

    /// A server behind the router.
    pub(crate) fn server(self) -> SocketAddr {
        SocketAddr::new(self.end.parse().expect("an address"), SERVER_PORT)
    }
}

pub(crate) fn far(family: Family) -> Far {
    match family {
        Family::V4 => Far {
            network: "10.9.0.0/24",
            router: "10.9.0.1",
            end: "10.9.0.2",
            bits: "/24",
            all_bits: "/32",
            first: ["10.7.0.1", "10.7.0.2"],
            second: ["10.8.0.1", "10.8.0.2"],
        },
        Family::V6 => Far {
            network: "fd09::/64",
            router: "fd09::1",
            end: "fd09::2",
            bits: "/64",
            all_bits: "/128",
            first: ["fd07::1", "fd07::2"],
            second: ["fd08::1", "fd08::2"],
        },
    }
}

pub(crate) fn with_bits(address: &str, bits: &str) -> String {
    format!("{address}{bits}")
}

/// Joins balancer and end by a second link, which has the second of the networks.
pub(crate) fn add_second_link(net: &Net, end: &Namespace, family: Family, far: Far) {
    join(&net.balancer, "second", end, "second");
    add_address(&net.balancer, "second", family, &with_bits(far.second[0], far.bits));
    add_address(end, "second", family, &with_bits(far.second[1], far.bits));
}

/// Does so while an agent runs, and waits until its programs are there.
#[track_caller]
pub(crate) fn add_second_link_at(agent: &Agent, net: &Net, end: &Namespace, family: Family, far: Far) {
    let before = takes_of(agent);
    add_second_link(net, end, family, far);
    until_taken(agent, before);
}

/// How often an agent has taken an interface that has come.
pub(crate) fn takes_of(agent: &Agent) -> usize {
    agent.process.stderr().iter().filter(|line| line.contains("takes an interface that has come")).count()
}

/// Waits until an agent has taken one more than before.
#[track_caller]
pub(crate) fn until_taken(agent: &Agent, before: usize) {
    until("programs to be at the interface that has come", || takes_of(agent) > before);
}

/// Joins the balancer and an end by a new pair of interfaces as the network's own was, which is gone, with the same name and addresses. These it gets
/// once an agent, if one runs, is ready for packets.
pub(crate) fn make_again(
    balancer: &Namespace,
    interface: &str,
    end: &Namespace,
    family: Family,
    until_ready: impl FnOnce(),
) {
    join(balancer, interface, end, "uplink");
    until_ready();
    let (bits, ends) = match family {
        Family::V4 => ("/24", end.address(0).ip()),
        Family::V6 => ("/64", end.address6(0).ip()),
    };
    let own = first_address(ends);
    add_address(balancer, interface, family, &with_bits(&own, bits));
    add_address(end, "uplink", family, &with_bits(&ends.to_string(), bits));
    ip(end, &[family.flag(), "route", "add", "default", "via", &own]);
}

/// The first address of the network of another: the balancer's.
pub(crate) fn first_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Addr::new(a, b, c, 1).to_string()
        }
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !0xffff | 1).to_string(),
    }
}

/// The number of an interface.
pub(crate) fn interface_number(place: &Namespace, interface: &str) -> u64 {
    shown(place, interface)["ifindex"].as_u64().expect("a number")
}

/// Packets that an interface has sent (ip-link(8), -statistics).
pub(crate) fn sent(place: &Namespace, interface: &str) -> u64 {
    shown(place, interface)["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

/// What ip(8) says of an interface.
fn shown(place: &Namespace, interface: &str) -> Value {
    let said = place.run(Command::new("ip").args(["-json", "-stats", "link", "show", interface]));
    let said: Value = serde_json::from_str(&said).expect("JSON");
    said[0].clone()
}

/// How often the agent has had flows leave by another interface.
pub(crate) fn moves_of(lab: &Lab) -> usize {
    lab.agent.process.stderr().iter().filter(|line| line.contains("leave by another interface")).count()
}

/// Adds or deletes a route to an end by the second of two links.
pub(crate) fn route_by_the_second(lab: &Lab, end: &Namespace, far: Far, verb: &str) {
    let to_end = with_bits(&lab.family.of(end, 0).ip().to_string(), far.all_bits);
    let arguments = [lab.family.flag(), "route", verb, &to_end, "via", far.second[1], "dev", "second"];
    ip(&lab.net.balancer, &arguments);
}

/// Joins two namespaces by a pair of interfaces.
pub(crate) fn join(here: &Namespace, name: &str, there: &Namespace, its_name: &str) {
    let holder: Process = there.spawn(Command::new("sleep").arg("60"));
    let pid = holder.pid().to_string();
    ip(here, &["link", "add", name, "type", "veth", "peer", "name", its_name, "netns", &pid]);
    ip(here, &["link", "set", name, "up"]);
    ip(there, &["link", "set", its_name, "up"]);
}

pub(crate) fn add_address(place: &Namespace, interface: &str, family: Family, address: &str) {
    let mut arguments = vec![family.flag(), "address", "add", address, "dev", interface];
    if family == Family::V6 {
        // Or else it is tried whether somebody has it, for a second.
        arguments.push("nodad");
    }
    ip(place, &arguments);
}
