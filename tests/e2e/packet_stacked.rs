// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet` over interfaces that stand on others: bridges, bonds, VLANs, macvlan and ipvlan. The upper one has the addresses. Where programs are at
//! both, those at the lower one see packets first that come in, and last those that go out.
//!
//! Not every kernel has VLANs, ipvlan and bonds: see `xtask/src/test/links.rs`.

use lb_tests::config::Path;
use lb_tests::net::{Namespace, Net};
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_all, reset};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced, until_nothing_left};
use crate::packet_links::{add_address, first_address, goes_on, ip, join, sent, stream_while, with_bits};
use crate::support::{stream_both_ways, stream_whole};

/// Makes tests of scenarios that take a kind of interface and a family: one in module `v4` and one in module `v6`.
macro_rules! over {
    ($kind:ident: $($scenario:ident,)+) => {
        mod v4 { $(#[test] fn $scenario() { super::super::$scenario(super::Kind::$kind, super::Family::V4); })+ }
        mod v6 { $(#[test] fn $scenario() { super::super::$scenario(super::Kind::$kind, super::Family::V6); })+ }
    };
}

/// The same in a module for each kind.
macro_rules! over_all {
    ($scenarios:tt $($module:ident: $kind:ident,)+) => {
        $(mod $module { use super::{Family, Kind}; over_one! { $kind $scenarios } })+
    };
}

/// Those of one kind.
macro_rules! over_one {
    ($kind:ident { $($scenario:ident,)+ }) => { over! { $kind: $($scenario,)+ } };
}

over_all! {
    {
        flows_leave_and_end,
        flows_leave_where_the_upper_interfaces_alone_are_named,
        flows_stay_in_user_space_where_the_lower_interfaces_alone_are_named,
        bytes_that_never_cease_leave_too,
    }
    bridge: Bridge,
    macvlan: Macvlan,
    vlan: Vlan,
    ipvlan: Ipvlan,
}

mod bond {
    use super::{Family, Kind};

    over! { Bond:
        flows_leave_and_end,
        flows_leave_where_the_upper_interfaces_alone_are_named,
        flows_stay_in_user_space_where_the_lower_interfaces_alone_are_named,
        bytes_that_never_cease_leave_too,
        a_cable_that_is_pulled_in_the_midst_of_streams_loses_nothing,
    }
}

/// What stands on an interface of the balancer's (ip-link(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bridge,
    Macvlan,
    /// At both ends of the link.
    Vlan,
    Ipvlan,
    /// Of two links, of which one is used at a time; both end in a bridge.
    Bond,
}

/// The balancer's interfaces, and what stands on them.
const LOWER: [&str; 2] = ["client", "server0"];
const UPPER: [&str; 2] = ["on-client", "on-server0"];

/// The second links of bonds.
const SPARE: [&str; 2] = ["spare-client", "spare-server0"];

/// What stands on the interface of an end, where that takes something.
const END: &str = "on-uplink";

/// A network whose links have something on them.
fn stacked(kind: Kind, family: Family) -> Net {
    let net = Net::new(1);
    for (index, end) in [&net.client, net.server()].into_iter().enumerate() {
        let (lower, upper) = (LOWER[index], UPPER[index]);
        if kind == Kind::Bond {
            join(&net.balancer, SPARE[index], end, "spare");
        }
        match kind {
            Kind::Bridge => gather(&net.balancer, upper, &["bridge"], &[lower]),
            Kind::Macvlan => {
                stand(&net.balancer, upper, lower, &["macvlan", "mode", "bridge"]);
                // Or else the lower one answers for the other's address, with its own on the link (ip-sysctl.rst).
                net.balancer.sysctl(&format!("net/ipv4/conf/{lower}/arp_ignore"), "1");
            }
            Kind::Ipvlan => stand(&net.balancer, upper, lower, &["ipvlan", "mode", "l2"]),
            Kind::Vlan => {
                stand(&net.balancer, upper, lower, &["vlan", "id", "5"]);
                stand(end, END, "uplink", &["vlan", "id", "5"]);
            }
            Kind::Bond => {
                let backup = ["bond", "mode", "active-backup", "miimon", "50"];
                gather(&net.balancer, upper, &backup, &[lower, SPARE[index]]);
                gather(end, END, &["bridge"], &["uplink", "spare"]);
            }
        }
        move_addresses(&net.balancer, (lower, upper), end, kind, family);
    }
    net
}

/// An interface on another.
#[track_caller]
fn stand(place: &Namespace, upper: &str, lower: &str, kind: &[&str]) {
    ip(place, &[&["link", "add", "link", lower, "name", upper, "type"], kind].concat());
    ip(place, &["link", "set", upper, "up"]);
}

/// An interface of which others are ports. A bond takes none that is up.
#[track_caller]
fn gather(place: &Namespace, upper: &str, kind: &[&str], ports: &[&str]) {
    ip(place, &[&["link", "add", upper, "type"], kind].concat());
    for port in ports {
        ip(place, &["link", "set", port, "down"]);
        ip(place, &["link", "set", port, "master", upper]);
        ip(place, &["link", "set", port, "up"]);
    }
    ip(place, &["link", "set", upper, "up"]);
}

/// The addresses of a link are on what stands on it.
#[track_caller]
fn move_addresses(
    balancer: &Namespace,
    (lower, upper): (&str, &str),
    end: &Namespace,
    kind: Kind,
    family: Family,
) {
    let address = family.of(end, 0).ip();
    let (own, bits) = (first_address(address), if family == Family::V4 { "/24" } else { "/64" });
    ip(balancer, &["address", "flush", "dev", lower]);
    add_address(balancer, upper, family, &with_bits(&own, bits));
    if matches!(kind, Kind::Vlan | Kind::Bond) {
        ip(end, &["address", "flush", "dev", "uplink"]);
        add_address(end, END, family, &with_bits(&address.to_string(), bits));
        ip(end, &[family.flag(), "route", "replace", "default", "via", &own]);
    }
}

/// A lab whose programs are at all interfaces, or at these alone.
fn lab(kind: Kind, family: Family, interfaces: Option<[&str; 2]>) -> Lab {
    let global = interfaces.map(|[one, other]| format!("packet-interfaces = [\"{one}\", \"{other}\"]"));
    let lines = Lines { global: global.as_deref().unwrap_or_default(), ..Lines::default() };
    Lab::with(stacked(kind, family), family, lines)
}

/// Packets that the balancer has sent by what stands on its interfaces.
fn sent_above(lab: &Lab) -> [u64; 2] {
    UPPER.map(|interface| sent(&lab.net.balancer, interface))
}

fn flows_leave_and_end(kind: Kind, family: Family) {
    leave_and_end(&lab(kind, family, None));
}

fn flows_leave_where_the_upper_interfaces_alone_are_named(kind: Kind, family: Family) {
    leave_and_end(&lab(kind, family, Some(UPPER)));
}

/// Every byte and every end gets across, and nothing is left.
#[track_caller]
fn leave_and_end(lab: &Lab) {
    let flows: [Spliced; 3] = lab.spliced_flows();
    let (beside, before) = (lab.bytes_beside(), sent_above(lab));
    (0..100).for_each(|_| flows.iter().for_each(Spliced::ping));
    let bytes = size(16 << 20, 1 << 30);
    let [first, one, other] = flows;
    stream_both_ways(&first.client, &first.server, bytes, bytes);
    for (from, to) in [(one.client, one.server), (other.server, other.client)] {
        reset(from);
        assert_eq!(receive_all(&to), (Vec::new(), End::Reset));
    }
    lab.assert_closes(&["finished", "client-reset", "server-reset"]);
    assert_eq!(lab.bytes_beside(), beside);
    for (after, before) in sent_above(lab).into_iter().zip(before) {
        assert!(after - before > 300, "{} packets went by an upper interface", after - before);
    }
    lab.assert_refused(&[]);
    until_nothing_left(&lab.agent);
}

/// There packets with tags are none of the programs', and by others no route leads.
fn flows_stay_in_user_space_where_the_lower_interfaces_alone_are_named(kind: Kind, family: Family) {
    let lab = lab(kind, family, Some(LOWER));
    let reason = if kind == Kind::Vlan { "unseen" } else { "unrouted" };
    lab.assert_kept(&Spliced::from(lab.pair()), reason);
}

/// A window that was closed on its way out is opened again, whoever else sees that.
fn bytes_that_never_cease_leave_too(kind: Kind, family: Family) {
    for is_upwards in [true, false] {
        let lab = lab(kind, family, None);
        let flow = Spliced::from(lab.pair());
        let (from, to) = flow.towards(is_upwards);
        let bytes = size(256 << 20, 5 << 30);
        stream_whole(from, to, 1, bytes);
        finish(to);
        lab.assert_closed(1, "finished");
        lab.agent.assert_share(Path::Packet, 80);
    }
}

/// One of the two links goes on both sides, then the other, which is the only one by then.
fn a_cable_that_is_pulled_in_the_midst_of_streams_loses_nothing(kind: Kind, family: Family) {
    let lab = lab(kind, family, None);
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    let ends = [&lab.net.client, lab.net.server()];
    stream_while(&flow, || {
        for (pulled, plugged, remaining) in [("uplink", "spare", SPARE), ("spare", "uplink", LOWER)] {
            let before = remaining.map(|interface| sent(&lab.net.balancer, interface));
            for end in ends {
                ip(end, &["link", "set", plugged, "up"]);
                ip(end, &["link", "set", pulled, "down"]);
            }
            until("packets to go by the other links", || {
                let now = remaining.map(|interface| sent(&lab.net.balancer, interface));
                now.into_iter().zip(before).all(|(now, before)| now > before + 100)
            });
        }
    });
    assert_eq!(lab.bytes_beside(), beside);
    goes_on(&lab, &flow);
}
