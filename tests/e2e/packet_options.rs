// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: what both ends agree on in their handshakes with the balancer. Where it is the same, or can be translated, the flow leaves;
//! where it is not, the flow stays, the metric says why, and every byte arrives all the same.

use std::net::TcpStream;
use std::process::Command;

use lb_tests::net::{Namespace, Net};
use lb_tests::size;
use lb_tests::stream::{receive_exactly, say};

use crate::packet_lab::{Family, Lab, Spliced};
use crate::support::{PORT, SERVER_PORT, stream_both_ways};

on_both_families! {
    options_that_are_the_same_are_no_obstacle,
    timestamps_of_one_end_alone_are_an_obstacle,
    selective_acknowledgements_of_one_end_alone_are_an_obstacle,
    congestion_notification_of_one_end_alone_is_an_obstacle,
    windows_are_scaled_from_any_to_any,
    packets_of_any_size_on_both_legs_are_no_obstacle,
    a_smaller_segment_size_on_one_leg_is_an_obstacle,
}

/// A part of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Client,
    Balancer,
    Server,
}
use Place::{Balancer, Client, Server};

impl Place {
    fn of(self, net: &Net) -> &Namespace {
        match self {
            Client => &net.client,
            Balancer => &net.balancer,
            Server => net.server(),
        }
    }
}

const TIMESTAMPS: &str = "tcp_timestamps";
const SACK: &str = "tcp_sack";
const SCALING: &str = "tcp_window_scaling";
const ECN: &str = "tcp_ecn";

/// A setting of a place (ip-sysctl.rst).
type Setting<'a> = (Place, &'a str, &'a str);

fn network(settings: &[Setting<'_>]) -> Net {
    let net = Net::new(1);
    for (place, key, value) in settings {
        place.of(&net).sysctl(&format!("net/ipv4/{key}"), value);
    }
    net
}

/// With these settings, a flow leaves the agent and is exact.
#[track_caller]
fn leaves(family: Family, settings: &[Setting<'_>]) {
    leaves_on(network(settings), family, settings);
}

#[track_caller]
fn leaves_on(net: Net, family: Family, what: impl std::fmt::Debug) {
    println!("{family:?}: {what:?}");
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    converse(&flow.client, &flow.server);
    lab.assert_ended(1, "finished");
    lab.assert_refused("no-port", 0);
    assert_eq!(lab.bytes_beside(), beside, "bytes that came after the flow had left");
}

/// With these settings, a flow stays, for this reason alone, and is exact.
#[track_caller]
fn stays(family: Family, settings: &[Setting<'_>], reason: &str) {
    stays_on(network(settings), family, settings, reason);
}

#[track_caller]
fn stays_on(net: Net, family: Family, what: impl std::fmt::Debug, reason: &str) {
    println!("{family:?}: {what:?}");
    let lab = Lab::over(net, family);
    let flow = Spliced::from(lab.pair());
    // The path is asked for between bytes.
    flow.ping();
    converse(&flow.client, &flow.server);
    let records = lab.agent.until_records(1);
    assert_eq!(records[0].close(), "finished");
    assert_ne!(records[0].text("path"), "packet");
    lab.assert_refused(reason, 1);
    let all = lab.agent.scrape().count("lb_path_bytes_total", &[]);
    assert_eq!((lab.bytes_beside(), all), (all, 2 + 2 * bytes()));
}

/// Short messages, then streams.
#[track_caller]
fn converse(client: &TcpStream, server: &TcpStream) {
    for number in 0..50_u32 {
        for (from, to) in [(client, server), (server, client)] {
            say(from, &number.to_be_bytes());
            assert_eq!(receive_exactly(to, 4), number.to_be_bytes());
        }
    }
    stream_both_ways(client, server, bytes() - 200, bytes() - 200);
}

/// What goes each way.
fn bytes() -> u64 {
    size(6 << 20, 256 << 20)
}

fn options_that_are_the_same_are_no_obstacle(family: Family) {
    leaves(family, &[(Balancer, TIMESTAMPS, "0")]);
    leaves(family, &[(Client, TIMESTAMPS, "0"), (Server, TIMESTAMPS, "0")]);
    leaves(family, &[(Balancer, SACK, "0")]);
    leaves(family, &[(Client, SACK, "0"), (Server, SACK, "0")]);
    leaves(family, &[(Balancer, SCALING, "0")]);
    leaves(family, &[(Client, SCALING, "0"), (Server, SCALING, "0")]);
    leaves(family, &[(Client, TIMESTAMPS, "0"), (Balancer, SACK, "0"), (Server, TIMESTAMPS, "0")]);
    leaves(family, &[(Client, ECN, "1"), (Balancer, ECN, "1"), (Server, ECN, "1")]);
}

fn timestamps_of_one_end_alone_are_an_obstacle(family: Family) {
    stays(family, &[(Client, TIMESTAMPS, "0")], "timestamps-differ");
    stays(family, &[(Server, TIMESTAMPS, "0")], "timestamps-differ");
}

fn selective_acknowledgements_of_one_end_alone_are_an_obstacle(family: Family) {
    stays(family, &[(Client, SACK, "0")], "sack-differs");
    stays(family, &[(Server, SACK, "0")], "sack-differs");
}

fn congestion_notification_of_one_end_alone_is_an_obstacle(family: Family) {
    stays(family, &[(Client, ECN, "1")], "ecn-differs");
    stays(family, &[(Balancer, ECN, "1")], "ecn-differs");
}

/// A shift follows from how much a socket may receive, and from the window that its route allows (net/ipv4/tcp_output.c,
/// tcp_select_initial_window).
fn windows_are_scaled_from_any_to_any(family: Family) {
    for place in [Client, Server] {
        leaves(family, &[(place, SCALING, "0")]);
    }
    for (narrow, wide, expected) in [(Client, Server, (2, 14)), (Server, Client, (14, 2))] {
        let net = network(&[(wide, "tcp_rmem", "4096 131072 536870912")]);
        // What is nearer than the default route is the link to the balancer.
        let (of_link, mut command) = (link(&net, family, narrow), Command::new("ip"));
        command.args([family.flag(), "route", "add", &of_link, "dev", "uplink", "window", "131072"]);
        narrow.of(&net).run(&mut command);
        let lab = Lab::over(net, family);
        let flow = lab.spliced();
        let found = (shift(&lab.net.client, "dport", PORT), shift(lab.net.server(), "sport", SERVER_PORT));
        assert_eq!(found, expected);
        converse(&flow.client, &flow.server);
        lab.assert_ended(1, "finished");
    }
}

/// The balancer's address on the link to an end.
fn link(net: &Net, family: Family, end: Place) -> String {
    let own = family.of(end.of(net), 0).ip().to_string();
    // Of a client and of a server it is the one before theirs.
    format!("{}1", own.strip_suffix('2').expect("an end's address"))
}

/// The shift of the only connection from a port or to it: the second that `ss` tells, which is of the windows that its own end announces.
fn shift(place: &Namespace, direction: &str, port: u16) -> u32 {
    let mut command = Command::new("ss");
    let said = place.run(command.args(["-tinH", direction, "=", &format!(":{port}")]));
    let shifts = said.split_whitespace().find_map(|word| word.strip_prefix("wscale:"));
    let own = shifts.and_then(|shifts| shifts.split_once(',')?.1.parse().ok());
    own.unwrap_or_else(|| panic!("no shift in: {said}"))
}

/// Both ends of a link take packets of so many bytes.
fn resize(net: &Net, end: Place, mtu: u16) {
    let (place, here) = match end {
        Client => (&net.client, "client"),
        Balancer | Server => (net.server(), "server0"),
    };
    for (place, interface) in [(place, "uplink"), (&*net.balancer, here)] {
        place.run(Command::new("ip").args(["link", "set", interface, "mtu", &mtu.to_string()]));
    }
}

fn packets_of_any_size_on_both_legs_are_no_obstacle(family: Family) {
    for mtu in [1280, 1400, 9000] {
        let net = Net::new(1);
        [Client, Server].into_iter().for_each(|end| resize(&net, end, mtu));
        leaves_on(net, family, mtu);
    }
}

/// One end may send what does not fit on the other's link; nobody tells it yet to send less.
fn a_smaller_segment_size_on_one_leg_is_an_obstacle(family: Family) {
    for end in [Client, Server] {
        let net = Net::new(1);
        resize(&net, end, 1400);
        stays_on(net, family, (end, 1400), "segment-size");
    }
}
