// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: links go down and come back, routes change, and ways get narrower while a flow goes over them. It is the ends that notice,
//! and mend it; the balancer only has to let them know.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::slice;
use std::thread;
use std::time::Duration;

use lb_tests::net::{Namespace, Net, canonical};
use lb_tests::process::Process;
use lb_tests::size;
use lb_tests::stream::{
    End, Pattern, finish, receive_all, receive_at_most, receive_exactly, receive_in_pieces, say, send,
    send_in_pieces,
};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::support::{SERVER_PORT, assert_received, stream_both_ways};

on_both_families! {
    an_interface_that_was_down_for_a_while_carries_on,
    another_gateway_is_followed,
    packets_may_come_by_any_interface,
    a_route_by_another_interface_is_waited_out,
    a_way_to_the_server_that_gets_narrower_is_told,
    a_way_to_the_client_that_gets_narrower_is_told,
    an_own_link_to_the_server_that_gets_narrower_is_told,
    an_own_link_to_the_client_that_gets_narrower_is_told,
}

fn ip(place: &Namespace, arguments: &[&str]) {
    place.run(Command::new("ip").args(arguments));
}

/// Goes on with short messages and some megabytes each way, and ends the flow.
#[track_caller]
fn goes_on(lab: &Lab, flow: &Spliced) {
    let beside = lab.bytes_beside();
    (0..20).for_each(|_| flow.ping());
    stream_both_ways(&flow.client, &flow.server, 4 << 20, 4 << 20);
    lab.assert_ended(1, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

/// In the middle of streams both ways; what was lost is sent again by the ends.
fn an_interface_that_was_down_for_a_while_carries_on(family: Family) {
    let (net, interfaces) = (Net::new(1), ["client", "server0"]);
    for interface in interfaces {
        // Or else its addresses of IPv6 are gone with it (ip-sysctl.rst).
        net.balancer.sysctl(&format!("net/ipv6/conf/{interface}/keep_addr_on_down"), "1");
    }
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    let bytes = size(64 << 20, 1 << 30);
    thread::scope(|scope| {
        let (client, server) = (&flow.client, &flow.server);
        for (from, to, seed) in [(client, server, 1), (server, client, 2)] {
            scope.spawn(move || send_in_pieces(from, seed, bytes, slowly()).expect("a reader"));
            scope.spawn(move || assert_received(&receive_at_most(to, seed, bytes), bytes, End::Silent));
        }
        for interface in interfaces.into_iter().cycle().take(4) {
            thread::sleep(Duration::from_millis(100));
            ip(&lab.net.balancer, &["link", "set", interface, "down"]);
            thread::sleep(Duration::from_millis(100));
            ip(&lab.net.balancer, &["link", "set", interface, "up"]);
        }
    });
    assert_eq!(lab.bytes_beside(), beside);
    goes_on(&lab, &flow);
}

/// So slow that what is to happen in the middle does.
fn slowly() -> impl FnMut() -> usize {
    let mut pieces = 0_u64;
    move || {
        pieces += 1;
        if pieces.is_multiple_of(16) {
            thread::sleep(Duration::from_millis(5));
        }
        1 << 16
    }
}

/// Addresses of networks behind others.
#[derive(Clone, Copy)]
struct Far {
    /// A network, its router's address in it and that of whoever is behind.
    network: &'static str,
    router: &'static str,
    end: &'static str,
    /// Bits of a prefix, as text.
    bits: &'static str,
    /// Of one address alone.
    all_bits: &'static str,
    /// Networks between balancer and router: both addresses.
    first: [&'static str; 2],
    second: [&'static str; 2],
}

impl Far {
    /// A server behind the router.
    fn server(self) -> SocketAddr {
        SocketAddr::new(self.end.parse().expect("an address"), SERVER_PORT)
    }
}

fn far(family: Family) -> Far {
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

fn with_bits(address: &str, bits: &str) -> String {
    format!("{address}{bits}")
}

/// The server's address is not on the link: two gateways lead to it, of which the first goes away.
fn another_gateway_is_followed(family: Family) {
    let (net, far, flag) = (Net::new(1), far(family), family.flag());
    for [balancer, server] in [far.first, far.second] {
        add_address(&net.balancer, "server0", family, &with_bits(balancer, far.bits));
        add_address(net.server(), "uplink", family, &with_bits(server, far.bits));
    }
    add_address(net.server(), "lo", family, &with_bits(far.end, far.all_bits));
    ip(&net.balancer, &[flag, "route", "add", far.network, "via", far.first[1]]);
    let server = Some(far.server());
    let lab = Lab::with(net, family, Lines { server, ..Lines::default() });
    let flow = lab.spliced();
    // Who was asked by the balancer's own address on the first network still has a way back.
    let back = with_bits(far.first[0], far.all_bits);
    ip(lab.net.server(), &[flag, "route", "add", &back, "dev", "uplink", "src", far.end]);
    ip(lab.net.server(), &[flag, "address", "del", &with_bits(far.first[1], far.bits), "dev", "uplink"]);
    ip(&lab.net.balancer, &[flag, "neighbour", "flush", "dev", "server0"]);
    say(&flow.client, b"over there");
    until("the gateway to be missed", || {
        let asked = lab.net.balancer.run(Command::new("ip").args([flag, "neighbour", "show", far.first[1]]));
        asked.contains("FAILED") || asked.contains("INCOMPLETE")
    });
    ip(&lab.net.balancer, &[flag, "route", "change", far.network, "via", far.second[1]]);
    assert_eq!(receive_exactly(&flow.server, 10), b"over there");
    goes_on(&lab, &flow);
}

/// Two links join balancer and server. What comes by another one than the first is the flow's, too.
fn packets_may_come_by_any_interface(family: Family) {
    let (lab, flow, far) = over_two_links(family);
    let peer = canonical(flow.server.peer_addr().expect("connected")).ip().to_string();
    let to_balancer = with_bits(&peer, far.all_bits);
    ip(
        lab.net.server(),
        &[family.flag(), "route", "add", &to_balancer, "via", far.second[0], "dev", "second"],
    );
    let before = sent(lab.net.server(), "second");
    goes_on(&lab, &flow);
    let packets = sent(lab.net.server(), "second") - before;
    assert!(packets > 100, "{packets} packets went by the other interface");
}

/// Packets leave by the interface by which they left before. While the routes lead by another one, they may get nowhere; nothing is lost.
fn a_route_by_another_interface_is_waited_out(family: Family) {
    let (lab, flow, far) = over_two_links(family);
    let to_server = with_bits(&family.of(lab.net.server(), 0).ip().to_string(), far.all_bits);
    let route = |verb: &str| {
        ip(
            &lab.net.balancer,
            &[family.flag(), "route", verb, &to_server, "via", far.second[1], "dev", "second"],
        );
    };
    let before = sent(&lab.net.balancer, "second");
    route("add");
    let words = Pattern::beginning(3, 8_000);
    say(&flow.client, &words);
    thread::sleep(Duration::from_millis(300));
    route("del");
    assert!(receive_exactly(&flow.server, words.len()) == words, "bytes changed on their way");
    goes_on(&lab, &flow);
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets < 20, "{packets} packets went by the other interface");
}

/// A flow by the first of two links, of which the second has the second of the networks.
fn over_two_links(family: Family) -> (Lab, Spliced, Far) {
    let (net, far) = (Net::new(1), far(family));
    join(&net.balancer, "second", net.server(), "second");
    add_address(&net.balancer, "second", family, &with_bits(far.second[0], far.bits));
    add_address(net.server(), "second", family, &with_bits(far.second[1], far.bits));
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    (lab, flow, far)
}

/// Packets that an interface has sent (ip-link(8), -statistics).
fn sent(place: &Namespace, interface: &str) -> u64 {
    let shown = place.run(Command::new("ip").args(["-json", "-stats", "link", "show", interface]));
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    shown[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

/// The server is behind a router whose way to it becomes narrow in the middle of an upload.
fn a_way_to_the_server_that_gets_narrower_is_told(family: Family) {
    let (net, far) = (Net::new(2), far(family));
    let (router, end) = (&net.servers[0], &net.servers[1]);
    settle_behind(router, end, far, family);
    let gateway = family.of(router, 0).ip().to_string();
    ip(&net.balancer, &[family.flag(), "route", "add", far.network, "via", &gateway]);
    let server = Some(far.server());
    let lab = Lab::with(net, family, Lines { server, ..Lines::default() });
    let flow = lab.spliced();
    narrows(&lab, &flow, [(&lab.net.servers[0], "inner"), (&lab.net.servers[1], "outer")], true);
}

/// The same with a client, in the middle of a download.
fn a_way_to_the_client_that_gets_narrower_is_told(family: Family) {
    let (net, far) = (Net::new(2), far(family));
    let (router, end) = (&net.client, &net.servers[1]);
    settle_behind(router, end, far, family);
    let gateway = family.of(router, 0).ip().to_string();
    ip(&net.balancer, &[family.flag(), "route", "add", far.network, "via", &gateway]);
    let lab = Lab::over(net, family);
    let client = lab.net.servers[1].connect(lab.address());
    let flow = Spliced { client, server: lab.listener.accept() };
    lab.until_spliced(slice::from_ref(&flow));
    narrows(&lab, &flow, [(&lab.net.client, "inner"), (&lab.net.servers[1], "outer")], false);
}

/// No router is there that could tell: the balancer has to.
fn an_own_link_to_the_server_that_gets_narrower_is_told(family: Family) {
    let lab = Lab::start(family);
    let flow = lab.spliced();
    narrows(&lab, &flow, [(&lab.net.balancer, "server0"), (lab.net.server(), "uplink")], true);
}

/// The same towards the client, in the middle of a download.
fn an_own_link_to_the_client_that_gets_narrower_is_told(family: Family) {
    let lab = Lab::start(family);
    let flow = lab.spliced();
    narrows(&lab, &flow, [(&lab.net.balancer, "client"), (&lab.net.client, "uplink")], false);
}

/// A link takes less, given by its two interfaces, while bytes go over it; they arrive, and those that come then, in segments of their own or
/// many at once.
#[track_caller]
fn narrows(lab: &Lab, flow: &Spliced, link: [(&Namespace, &str); 2], is_upwards: bool) {
    let beside = lab.bytes_beside();
    let (from, to) = flow.towards(is_upwards);
    let bytes = size(32 << 20, 1 << 30);
    thread::scope(|scope| {
        let sent = scope.spawn(|| send(from, 1, bytes).expect("a reader"));
        let mut reads = 0_u64;
        let received = receive_in_pieces(to, 1, bytes, || {
            reads += 1;
            if reads == 50 {
                for (place, interface) in link {
                    ip(place, &["link", "set", interface, "mtu", "1300"]);
                }
            }
            1 << 16
        });
        assert_received(&received, bytes, End::Silent);
        assert_eq!(received.sha256, sent.join().expect("no panic"));
    });
    assert_eq!(path_mtu(lab, flow, is_upwards), 1_300, "what the sender knows of the way");
    for _ in 0..20 {
        say(from, &[7; 1_400]);
        assert_eq!(receive_exactly(to, 1_400), [7; 1_400]);
        say(to, b"thanks");
        assert_eq!(receive_exactly(from, 6), b"thanks");
    }
    finish(from);
    assert_eq!(receive_all(to), (Vec::new(), End::Finished));
    finish(to);
    assert_eq!(receive_all(from), (Vec::new(), End::Finished));
    lab.assert_ended(1, "finished");
    assert_eq!(lab.bytes_beside(), beside);
}

/// What an end knows of the way to the balancer, in bytes (ip-route(8), the cache of exceptions).
fn path_mtu(lab: &Lab, flow: &Spliced, is_clients: bool) -> u64 {
    let (stream, place) =
        if is_clients { (&flow.client, &lab.net.client) } else { (&flow.server, lab.net.server()) };
    let peer = canonical(stream.peer_addr().expect("connected")).ip().to_string();
    let said = place.run(Command::new("ip").args([lab.family.flag(), "route", "get", &peer]));
    let mtu = said.split("mtu ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    mtu.unwrap_or_else(|| panic!("no MTU in: {said}"))
}

/// Joins an end to a router: it has an address of a network behind it, and everything else is behind the router.
fn settle_behind(router: &Namespace, end: &Namespace, far: Far, family: Family) {
    join(router, "inner", end, "outer");
    add_address(router, "inner", family, &with_bits(far.router, far.bits));
    add_address(end, "outer", family, &with_bits(far.end, far.bits));
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    // The harness has given it a link to the balancer, too.
    ip(end, &["link", "set", "uplink", "down"]);
    ip(end, &[family.flag(), "route", "replace", "default", "via", far.router, "dev", "outer"]);
    let nobody = SocketAddr::new(far.router.parse().expect("an address"), 1);
    until("the router to answer", || {
        end.try_connect(nobody).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

/// Joins two namespaces by a pair of interfaces.
fn join(here: &Namespace, name: &str, there: &Namespace, its_name: &str) {
    let holder: Process = there.spawn(Command::new("sleep").arg("60"));
    let pid = holder.pid().to_string();
    ip(here, &["link", "add", name, "type", "veth", "peer", "name", its_name, "netns", &pid]);
    ip(here, &["link", "set", name, "up"]);
    ip(there, &["link", "set", its_name, "up"]);
}

fn add_address(place: &Namespace, interface: &str, family: Family, address: &str) {
    let mut arguments = vec![family.flag(), "address", "add", address, "dev", interface];
    if family == Family::V6 {
        // Or else it is tried whether somebody has it, for a second.
        arguments.push("nodad");
    }
    ip(place, &arguments);
}
