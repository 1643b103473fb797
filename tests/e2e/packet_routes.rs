// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: routes change while flows go by them, to another gateway or another interface. A balancer need not forward packets, and this
//! one does not.

use std::process::Command;
use std::thread;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::bpffs::Bpffs;
use lb_tests::net::{Namespace, Net, canonical};
use lb_tests::size;
use lb_tests::stream::{End, Pattern, receive_at_most, receive_exactly, say, send_in_pieces};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::packet_links::{
    Far, add_address, add_second_link, far, goes_on, ip, moves_of, route_by_the_second, sent, slowly,
    with_bits,
};
use crate::packet_stage::kill;
use crate::support::{SERVER_PORT, assert_received};

on_both_families! {
    another_gateway_is_followed,
    packets_may_come_by_any_interface,
    a_route_to_the_server_by_another_interface_is_followed,
    a_route_to_the_client_by_another_interface_is_followed,
    a_link_that_is_lost_for_good_is_left_for_the_other,
    a_route_that_changes_while_no_agent_runs_is_followed_by_the_next,
    a_route_by_an_interface_without_programs_is_waited_out,
    what_is_bound_to_an_interface_stays_there,
    what_leaves_by_another_interface_for_its_mark_stays_in_user_space,
}

/// As many hosts are that balance.
fn net_that_forwards_nothing() -> Net {
    let net = Net::new(1);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        net.balancer.sysctl(key, "0");
    }
    net
}

/// The server's address is not on the link: two gateways lead to it, of which the first goes away.
fn another_gateway_is_followed(family: Family) {
    let (net, far, flag) = (net_that_forwards_nothing(), far(family), family.flag());
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

/// In the middle of streams both ways, and back again.
fn a_route_to_the_server_by_another_interface_is_followed(family: Family) {
    let (lab, flow, far) = over_two_links(family);
    let place = lab.net.server();
    follows(&lab, &flow, place, far);
}

/// The same towards the client.
fn a_route_to_the_client_by_another_interface_is_followed(family: Family) {
    let (net, far) = (net_that_forwards_nothing(), far(family));
    add_second_link(&net, &net.client, family, far);
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    follows(&lab, &flow, &lab.net.client, far);
}

/// After each MiB that an end sends, which are 256 at least: so streams take some seconds.
const PAUSE: Duration = Duration::from_millis(20);

/// The route to an end changes while bytes go both ways, to a second link and back.
#[track_caller]
fn follows(lab: &Lab, flow: &Spliced, end: &Namespace, far: Far) {
    let beside = lab.bytes_beside();
    let bytes = size(256 << 20, 2 << 30);
    let before = sent(&lab.net.balancer, "second");
    thread::scope(|scope| {
        let (client, server) = (&flow.client, &flow.server);
        for (from, to, seed) in [(client, server, 1), (server, client, 2)] {
            scope.spawn(move || send_in_pieces(from, seed, bytes, slowly(PAUSE)).expect("a reader"));
            scope.spawn(move || assert_received(&receive_at_most(to, seed, bytes), bytes, End::Silent));
        }
        for (moves, verb) in (1..).zip(["add", "del"]) {
            thread::sleep(Duration::from_millis(100));
            route_by_the_second(lab, end, far, verb);
            until("the flow to be moved", || moves_of(lab) == moves);
            // It may take a while until the neighbour is found there.
            until("packets to go there", || sent(&lab.net.balancer, "second") > before + 100);
        }
    });
    // And when nothing else moves.
    route_by_the_second(lab, end, far, "add");
    until("the flow to be moved once more", || moves_of(lab) == 3);
    let before = sent(&lab.net.balancer, "second");
    (0..20).for_each(|_| flow.ping());
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets >= 20, "{packets} packets went by the other interface");
    assert_eq!(lab.bytes_beside(), beside);
    goes_on(lab, flow);
}

/// There is a second way all the time, and the first is the better one. When its link goes down the kernel tells of the link, not of every route.
fn a_link_that_is_lost_for_good_is_left_for_the_other(family: Family) {
    let (lab, flow, far) = over_two_links(family);
    let network = network_of(&lab, lab.net.server());
    let flag = family.flag();
    let second = [flag, "route", "add", &network, "via", far.second[1], "dev", "second", "metric", "5000"];
    ip(&lab.net.balancer, &second);
    let own = canonical(flow.server.peer_addr().expect("connected")).ip().to_string();
    let back = with_bits(&own, far.all_bits);
    ip(lab.net.server(), &[flag, "route", "add", &back, "via", far.second[0], "dev", "second"]);
    let beside = lab.bytes_beside();
    ip(&lab.net.balancer, &["link", "set", "server0", "down"]);
    let words = Pattern::beginning(4, 100_000);
    say(&flow.client, &words);
    assert!(receive_exactly(&flow.server, words.len()) == words, "bytes changed on their way");
    assert_eq!(lab.bytes_beside(), beside);
    goes_on(&lab, &flow);
}

/// The network in which a place has its first address, as its routes have it.
fn network_of(lab: &Lab, place: &Namespace) -> String {
    let address = lab.family.of(place, 0).ip().to_string();
    let mut command = Command::new("ip");
    let shown = lab.net.balancer.run(command.args([lab.family.flag(), "route", "show", "match", &address]));
    let route = shown.lines().find(|line| line.contains("dev server0")).expect("a route");
    route.split_whitespace().next().expect("a network").to_owned()
}

/// Until there is one, packets leave by the interface by which they left before, and may get nowhere.
fn a_route_that_changes_while_no_agent_runs_is_followed_by_the_next(family: Family) {
    let (net, far, bpffs) = (net_that_forwards_nothing(), far(family), Bpffs::new());
    add_second_link(&net, net.server(), family, far);
    let global = format!("packet-state = \"{}\"", bpffs.path("lb").display());
    let lines = Lines { global: &global, ..Lines::default() };
    let mut lab = Lab::with(net, family, lines);
    let flow = lab.spliced();
    kill(&mut lab.agent);
    let before = sent(&lab.net.balancer, "second");
    route_by_the_second(&lab, lab.net.server(), far, "add");
    let words = Pattern::beginning(3, 8_000);
    say(&flow.client, &words);
    thread::sleep(Duration::from_millis(300));
    lab.agent = Agent::start(&lab.net, &Lab::config(&lab.net, family, lines));
    assert!(receive_exactly(&flow.server, words.len()) == words, "bytes changed on their way");
    until("the flow to be moved", || moves_of(&lab) == 1);
    (0..20).for_each(|_| flow.ping());
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets >= 20, "{packets} packets went by the other interface");
    goes_on(&lab, &flow);
}

/// What would come back by it is not seen, so packets leave as before. While the routes lead there, they may get nowhere; nothing is lost.
fn a_route_by_an_interface_without_programs_is_waited_out(family: Family) {
    let (net, far) = (net_that_forwards_nothing(), far(family));
    add_second_link(&net, net.server(), family, far);
    let global = "packet-interfaces = [\"client\", \"server0\"]";
    let lab = Lab::with(net, family, Lines { global, ..Lines::default() });
    let flow = lab.spliced();
    let before = sent(&lab.net.balancer, "second");
    route_by_the_second(&lab, lab.net.server(), far, "add");
    let words = Pattern::beginning(3, 8_000);
    say(&flow.client, &words);
    thread::sleep(Duration::from_millis(300));
    route_by_the_second(&lab, lab.net.server(), far, "del");
    assert!(receive_exactly(&flow.server, words.len()) == words, "bytes changed on their way");
    goes_on(&lab, &flow);
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets < 20, "{packets} packets went by the other interface");
    assert_eq!(moves_of(&lab), 0);
}

/// Whoever has written `source-interface` means it.
fn what_is_bound_to_an_interface_stays_there(family: Family) {
    let (net, far) = (net_that_forwards_nothing(), far(family));
    add_second_link(&net, net.server(), family, far);
    let lines = Lines { backend: "source-interface = \"server0\"", ..Lines::default() };
    let lab = Lab::with(net, family, lines);
    let flow = lab.spliced();
    let before = sent(&lab.net.balancer, "second");
    route_by_the_second(&lab, lab.net.server(), far, "add");
    thread::sleep(Duration::from_millis(300));
    route_by_the_second(&lab, lab.net.server(), far, "del");
    goes_on(&lab, &flow);
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets < 20, "{packets} packets went by the other interface");
    assert_eq!(moves_of(&lab), 0);
}

/// A rule for marks chooses the second of two links. What is redirected has no mark, and would not find its next hop there.
fn what_leaves_by_another_interface_for_its_mark_stays_in_user_space(family: Family) {
    let (net, far, flag) = (net_that_forwards_nothing(), far(family), family.flag());
    add_second_link(&net, net.server(), family, far);
    mark(&net.balancer, SERVER_PORT);
    ip(&net.balancer, &[flag, "rule", "add", "fwmark", "1", "table", "100"]);
    let to_server = with_bits(&family.of(net.server(), 0).ip().to_string(), far.all_bits);
    let route = [to_server.as_str(), "via", far.second[1], "dev", "second", "table", "100"];
    ip(&net.balancer, &[&[flag, "route", "add"], &route[..]].concat());
    let lab = Lab::over(net, family);
    let before = sent(&lab.net.balancer, "second");
    lab.assert_kept(&Spliced::from(lab.pair()), "unrouted");
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets >= 20, "{packets} packets went by the interface that the mark chooses");
}

/// Gives what this host sends to a port a mark, before its route is looked for once more (nft(8), chains of type route).
fn mark(place: &Namespace, port: u16) {
    for words in [
        "add table inet marks".to_owned(),
        "add chain inet marks output { type route hook output priority mangle ; }".to_owned(),
        format!("add rule inet marks output tcp dport {port} meta mark set 1"),
    ] {
        place.run(Command::new("nft").arg(words));
    }
}

/// A flow by the first of two links to the server.
fn over_two_links(family: Family) -> (Lab, Spliced, Far) {
    let (net, far) = (net_that_forwards_nothing(), far(family));
    add_second_link(&net, net.server(), family, far);
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    (lab, flow, far)
}
