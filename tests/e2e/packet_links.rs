// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of path `packet` set up that change links and routes.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lb_tests::net::{Namespace, Net};
use lb_tests::process::Process;

use crate::packet_lab::{Family, Lab, Spliced};
use crate::support::{SERVER_PORT, stream_both_ways};

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

/// Packets that an interface has sent (ip-link(8), -statistics).
pub(crate) fn sent(place: &Namespace, interface: &str) -> u64 {
    let shown = place.run(Command::new("ip").args(["-json", "-stats", "link", "show", interface]));
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    shown[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
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
