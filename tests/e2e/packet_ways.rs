// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: links go down and come back, and ways get narrower while a flow goes over them. It is the ends that notice,
//! and mend it; the balancer only has to let them know.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::slice;
use std::thread;
use std::time::Duration;

use lb_tests::net::{Namespace, Net, canonical};
use lb_tests::size;
use lb_tests::stream::{
    End, finish, receive_all, receive_at_most, receive_exactly, receive_in_pieces, say, send, send_in_pieces,
};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::packet_links::{Far, add_address, far, goes_on, ip, join, slowly, with_bits};
use crate::support::assert_received;

on_both_families! {
    an_interface_that_was_down_for_a_while_carries_on,
    a_way_to_the_server_that_gets_narrower_is_told,
    a_way_to_the_client_that_gets_narrower_is_told,
    an_own_link_to_the_server_that_gets_narrower_is_told,
    an_own_link_to_the_client_that_gets_narrower_is_told,
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
            scope.spawn(move || {
                send_in_pieces(from, seed, bytes, slowly(Duration::from_millis(5))).expect("a reader")
            });
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
pub(crate) fn settle_behind(router: &Namespace, end: &Namespace, far: Far, family: Family) {
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
