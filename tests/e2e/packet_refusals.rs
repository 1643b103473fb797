// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: packets that cannot be translated. Before a flow has left, they keep it in user space, and the metric says why; after it they
//! are lost, each is counted, and the flow goes on once its ends send others. What becomes of one whose ends do not is in [`stalled`].

mod stalled;

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use lb_tests::net::{Namespace, Net};
use lb_tests::stream::{receive_exactly, say};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::packet_links::{far, ip};
use crate::packet_ways::settle_behind;
use crate::support::stream_both_ways;

/// Debian's own.
const PYTHON: &str = "/usr/bin/python3";

/// Sets an option of the socket that is standard input; without a value, takes it back.
const SET_OPTION: &str = "import socket, sys
level, name = int(sys.argv[1]), int(sys.argv[2])
socket.socket(fileno=0).setsockopt(level, name, bytes.fromhex(sys.argv[3]))";

/// More than the narrow link takes, and less than the wide one.
const MESSAGE: [u8; 1_400] = [7; 1_400];

/// An option of a socket that puts something into each packet that it sends.
#[derive(Clone, Copy)]
struct Habit<'a> {
    level: i32,
    name: i32,
    on: &'a str,
    off: &'a str,
}

/// IP_OPTIONS (ip(7)), with nothing but padding (RFC 791 section 3.1): what a router would not notice.
const IP_OPTIONS: Habit<'_> = Habit { level: 0, name: 4, on: "01010100", off: "" };

impl Habit<'_> {
    #[track_caller]
    fn begin(self, end: &TcpStream) {
        self.set(end, self.on);
    }

    #[track_caller]
    fn cease(self, end: &TcpStream) {
        self.set(end, self.off);
    }

    #[track_caller]
    fn set(self, end: &TcpStream, value: &str) {
        let socket = OwnedFd::from(end.try_clone().expect("descriptors"));
        let mut command = Command::new(PYTHON);
        command.args(["-c", SET_OPTION, &self.level.to_string(), &self.name.to_string(), value]);
        let status = command.stdin(Stdio::from(socket)).status().expect("python3 must be installed");
        assert!(status.success(), "the option is not set");
    }
}

/// TCP_MD5SIG (tcp(7); linux/tcp.h, struct tcp_md5sig): a key of six bytes for the peer, and none.
fn md5_signature(peer: SocketAddr) -> (String, String) {
    const SECRET: &[u8] = b"secret";
    let (family, address) = match peer.ip() {
        std::net::IpAddr::V4(address) => (2_u16, [vec![0; 2], address.octets().to_vec()].concat()),
        std::net::IpAddr::V6(address) => (10, [vec![0; 6], address.octets().to_vec()].concat()),
    };
    let with = |key: &[u8]| {
        let mut bytes = [family.to_ne_bytes().to_vec(), address.clone()].concat();
        bytes.resize(128, 0);
        bytes.extend([0, 0]);
        bytes.extend((key.len() as u16).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(key);
        bytes.resize(128 + 8 + 80, 0);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    (with(SECRET), with(&[]))
}

/// Packets that were dropped after their flow had left, for a reason.
fn dropped(lab: &Lab, reason: &str) -> u64 {
    lab.agent.scrape().count("lb_packet_dropped_total", &[("reason", reason)])
}

/// An end of a flow that has not left yet begins to do something; the flow stays for this reason, and is exact.
#[track_caller]
fn keeps(lab: &Lab, is_clients: bool, habit: Habit<'_>, reason: &str) {
    let flow = Spliced::from(lab.pair());
    let (end, _) = flow.towards(is_clients);
    habit.begin(end);
    lab.assert_kept(&flow, reason);
    assert_eq!(dropped(lab, reason), 0, "the sockets got all");
}

/// An end of a flow that has left begins to do something: nothing of it arrives, and each packet is counted. Then it ceases.
#[track_caller]
fn interrupts(lab: &Lab, is_clients: bool, habit: Habit<'_>, reason: &str) {
    let flow = lab.spliced();
    let (end, other) = flow.towards(is_clients);
    let before = dropped(lab, reason);
    habit.begin(end);
    say(end, &MESSAGE);
    until("packets to be dropped", || dropped(lab, reason) > before + 1);
    habit.cease(end);
    assert_eq!(receive_exactly(other, MESSAGE.len()), MESSAGE);
    stream_both_ways(&flow.client, &flow.server, 1 << 20, 1 << 20);
    lab.assert_refused(&[]);
}

#[test]
fn ip_options_keep_a_flow_in_user_space() {
    for is_clients in [true, false] {
        keeps(&Lab::start(Family::V4), is_clients, IP_OPTIONS, "ip-options");
    }
}

#[test]
fn ip_options_of_a_flow_that_has_left_are_lost_and_counted() {
    let lab = Lab::start(Family::V4);
    for is_clients in [true, false] {
        interrupts(&lab, is_clients, IP_OPTIONS, "ip-options");
    }
    lab.assert_ended(2, "finished");
}

on_both_families! {
    signed_segments_keep_a_flow_in_user_space,
    signed_segments_of_a_flow_that_has_left_are_lost_and_counted,
}

/// A client's habit of signing what goes to the balancer.
#[track_caller]
fn sign(lab: &Lab, try_it: impl FnOnce(Habit<'_>)) {
    let (on, off) = md5_signature(lab.address());
    try_it(Habit { level: 6, name: 14, on: &on, off: &off });
}

/// The balancer's sockets have no key, so they take nothing that is signed (RFC 2385 section 2.0).
fn signed_segments_keep_a_flow_in_user_space(family: Family) {
    let lab = Lab::start(family);
    let flow = Spliced::from(lab.pair());
    sign(&lab, |habit| {
        habit.begin(&flow.client);
        say(&flow.client, b"!");
        lab.agent.until_count("lb_path_fallbacks_total", &[("reason", "md5-signature")], 1);
        habit.cease(&flow.client);
    });
    assert_eq!(receive_exactly(&flow.server, 1), b"!");
    stream_both_ways(&flow.client, &flow.server, 1 << 20, 1 << 20);
    let records = lab.agent.until_records(1);
    assert!(records[0].close() == "finished" && records[0].text("path") != "packet", "{records:?}");
    lab.assert_refused(&[("md5-signature", 1)]);
}

fn signed_segments_of_a_flow_that_has_left_are_lost_and_counted(family: Family) {
    let lab = Lab::start(family);
    sign(&lab, |habit| interrupts(&lab, true, habit, "md5-signature"));
    lab.assert_ended(1, "finished");
}

/// A client behind a router, which may cut what the client sends: it forbids nothing (ip-sysctl.rst).
fn behind_a_router() -> (Lab, impl Fn(&Lab, u16)) {
    let (net, far) = (Net::new(2), far(Family::V4));
    net.servers[1].sysctl("net/ipv4/ip_no_pmtu_disc", "1");
    settle_behind(&net.client, &net.servers[1], far, Family::V4);
    let gateway = net.client.v4.to_string();
    ip(&net.balancer, &["-4", "route", "add", far.network, "via", &gateway]);
    let narrow = |lab: &Lab, mtu: u16| ip(router(lab), &["link", "set", "uplink", "mtu", &mtu.to_string()]);
    (Lab::with(net, Family::V4, Lines::default()), narrow)
}

fn router(lab: &Lab) -> &Namespace {
    &lab.net.client
}

fn far_pair(lab: &Lab) -> Spliced {
    let client = lab.net.servers[1].connect(lab.address());
    Spliced { client, server: lab.listener.accept() }
}

#[test]
fn fragments_keep_a_flow_in_user_space() {
    let (lab, narrow) = behind_a_router();
    let flow = far_pair(&lab);
    narrow(&lab, 1_000);
    say(&flow.client, &MESSAGE);
    assert_eq!(receive_exactly(&flow.server, MESSAGE.len()), MESSAGE);
    lab.agent.until_count("lb_path_fallbacks_total", &[("reason", "fragment")], 1);
    narrow(&lab, 1_500);
    stream_both_ways(&flow.client, &flow.server, 1 << 20, 1 << 20);
    let records = lab.agent.until_records(1);
    assert!(records[0].close() == "finished" && records[0].text("path") != "packet", "{records:?}");
    lab.assert_refused(&[("fragment", 1)]);
    assert_eq!(dropped(&lab, "fragment"), 0, "the sockets got all");
}

#[test]
fn fragments_of_a_flow_that_has_left_are_lost_and_counted() {
    let (lab, narrow) = behind_a_router();
    let flow = far_pair(&lab);
    lab.until_spliced(std::slice::from_ref(&flow));
    narrow(&lab, 1_000);
    say(&flow.client, &MESSAGE);
    until("fragments to be dropped", || dropped(&lab, "fragment") > 1);
    narrow(&lab, 1_500);
    assert_eq!(receive_exactly(&flow.server, MESSAGE.len()), MESSAGE);
    stream_both_ways(&flow.client, &flow.server, 1 << 20, 1 << 20);
    lab.assert_ended(1, "finished");
    lab.assert_refused(&[]);
}

/// Whoever has set that hears of it before anything is lost, and then no more. Of what is set later the kernel tells with the next change of the interface
/// (net/core/rtnetlink.c, do_setlink: DO_SETLINK_MODIFIED).
#[test]
fn interfaces_that_make_too_large_packets_are_warned_of_once() {
    let net = Net::new(1);
    let set = |place: &Namespace, interface: &str, what: [&str; 2]| {
        ip(place, &[&["link", "set", interface], &what[..]].concat());
    };
    set(&net.balancer, "client", ["gro_max_size", "131072"]);
    let lab = Lab::over(net, Family::V6);
    let warnings = |interface: &str| {
        let is_about = |line: &String| {
            line.contains("gro_max_size to 65536") && line.contains(&format!("interface=\"{interface}\""))
        };
        lab.agent.process.stderr().into_iter().filter(is_about).count()
    };
    until("a warning", || warnings("client") == 1);
    assert_eq!(warnings("server0"), 0);
    set(&lab.net.balancer, "server0", ["gro_max_size", "131072"]);
    // The agent hears of these in this order.
    for (interface, mtu) in [("client", "1400"), ("client", "1500"), ("server0", "1400"), ("server0", "1500")]
    {
        set(&lab.net.balancer, interface, ["mtu", mtu]);
    }
    until("another warning", || warnings("server0") == 1);
    assert_eq!(warnings("client"), 1);
}
