// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links that lose, delay, reorder and double what they carry, and an agent whose sockets can send little at a time. Nothing of that
//! reaches the ends.
//!
//! The kernel must have netem (tc-netem(8), CONFIG_NET_SCH_NETEM). `cargo xtask test` says so where it has not; `cargo xtask vm` runs
//! these tests in kernels that do.

mod evidence;
mod faults;
mod packet;
mod rtt;

use std::process::Command;

use lb_tests::config::Path;
use lb_tests::net::{Namespace, Net};
use lb_tests::size;
use lb_tests::stream::{End, finish_both, receive_at_most, send};

use self::evidence::assert_spoilt;
use self::faults::{
    Carrier, a_long_way, a_long_way_that_loses_one_packet_in_a_hundred, one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five, packets_that_come_twice, packets_that_overtake,
};
use crate::support::{Relay, assert_received, required};

on_both_paths! {
    one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five,
    a_long_way,
    a_long_way_that_loses_one_packet_in_a_hundred,
    packets_that_overtake,
    packets_that_come_twice,
}

inside_the_kernel! {
    one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five,
    a_long_way,
    a_long_way_that_loses_one_packet_in_a_hundred,
    packets_that_overtake,
    packets_that_come_twice,
}

impl Carrier for Path {
    fn brings_everything(self, fault: &[&str]) {
        is_exact(self, fault);
    }
}

/// Sends both ways at once over links with this fault.
fn is_exact(path: Path, fault: &[&str]) {
    let net = Net::new(1);
    // What the agent's sockets may send at a time, so that writes into them are cut in many places.
    net.balancer.sysctl("net/ipv4/tcp_wmem", "4096 16384 16384");
    spoil(&net, fault);
    let relay = Relay::over(net, path, required(path));
    let (client, server) = relay.handed_over(path);
    let bytes = size(8 << 20, 64 << 20);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| send(&client, 1, bytes).expect("the server reads"));
        let down = scope.spawn(|| send(&server, 2, bytes).expect("the client reads"));
        let at_client = scope.spawn(|| receive_at_most(&client, 2, bytes));
        let at_server = receive_at_most(&server, 1, bytes);
        let at_client = at_client.join().expect("no panic");
        assert_received(&at_server, bytes, End::Silent);
        assert_received(&at_client, bytes, End::Silent);
        assert_eq!(at_server.sha256, up.join().expect("no panic"));
        assert_eq!(at_client.sha256, down.join().expect("no panic"));
    });
    // The ends come last: what a socket holds that has begun to close is not carried inside the kernel.
    finish_both(&client, &server);
    assert_eq!(relay.close_reason(), "finished");
    assert_eq!(relay.agent.assert_own_path(path, 1), 2 * bytes + 2);
    if path == Path::Sockmap {
        relay.agent.assert_inside(99);
    }
    let net = &relay.net;
    assert_spoilt(net, fault, &[&net.client, &net.balancer, net.server()]);
}

/// Where packets leave, in both directions of both links.
fn interfaces(net: &Net) -> [(&Namespace, &str); 4] {
    [(&net.client, "uplink"), (&net.balancer, "client"), (&net.balancer, "server0"), (net.server(), "uplink")]
}

/// Where packets are spoilt: wherever they leave. They are damaged only where the ends send them, so that nobody damages them a second time: what
/// two do may cancel out in the sum of 16 bits (RFC 1071), and then nobody can notice.
fn spoilt<'a>(net: &'a Net, fault: &[&str]) -> Vec<(&'a Namespace, &'a str)> {
    let is_ends = |(_, interface): &(&Namespace, &str)| *interface == "uplink";
    let is_damage = fault.contains(&"corrupt");
    interfaces(net).into_iter().filter(|place| !is_damage || is_ends(place)).collect()
}

/// Gives links this fault.
fn spoil(net: &Net, fault: &[&str]) {
    spoilt(net, fault).into_iter().for_each(|(place, interface)| spoil_one(place, interface, fault));
    interfaces(net).into_iter().for_each(|(place, interface)| hurry(place, interface));
}

/// Gives what leaves by one interface this fault.
fn spoil_one(place: &Namespace, interface: &str, fault: &[&str]) {
    place.run(Command::new("tc").args(["qdisc", "add", "dev", interface, "root", "netem"]).args(fault));
}

/// Whoever misses an answer asks again after 10 ms and not 200, and whoever gets a segment says so at once and not after 40 ms (ip-route(8), rto_min
/// and quickack): with so little under way the test would wait most of its time.
fn hurry(place: &Namespace, interface: &str) {
    for family in ["-4", "-6"] {
        let mut routes = Command::new("ip");
        let shown = place.run(routes.args([family, "route", "show", "dev", interface, "proto", "kernel"]));
        // The other one is for addresses of the link alone.
        let route = shown.lines().find(|route| !route.starts_with("fe80")).expect("it has an address");
        let mut change = Command::new("ip");
        change.args([family, "route", "change"]).args(route.split_whitespace());
        change.args(["proto", "kernel", "dev", interface, "rto_min", "10ms", "quickack", "1"]);
        place.run(&mut change);
    }
}
