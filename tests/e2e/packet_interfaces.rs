// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: interfaces come after the agent, go, and come again under the same name.

use std::process::Command;
use std::thread;
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::net::{Namespace, Net};
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced};
use crate::packet_links::{
    add_second_link, add_second_link_at, far, goes_on, interface_number, ip, make_again, moves_of,
    route_by_the_second, sent, stream_while, takes_of, until_taken,
};
use crate::packet_stage::{STATE, Stage, assert_bytes, has_links, kill, until_said};

on_both_families! {
    an_interface_that_comes_later_carries_flows,
    a_name_that_comes_later_carries_flows_and_no_other_does,
    an_interface_that_is_narrower_than_clients_are_told_is_spoken_of,
    a_route_by_an_interface_that_came_later_is_followed,
    an_interface_towards_the_server_may_be_made_again,
    an_interface_towards_the_client_may_be_made_again,
    an_interface_to_which_flows_are_bound_may_be_made_again,
    what_is_at_later_interfaces_outlives_the_agent,
    an_interface_that_changes_while_no_agent_runs_is_taken_by_the_next,
}

/// A server behind a link that is not there when the agent starts.
fn an_interface_that_comes_later_carries_flows(family: Family) {
    let (net, far) = (Net::new(1), far(family));
    let server = Some(far.neighbour());
    let lab = Lab::with(net, family, Lines { server, ..Lines::default() });
    add_second_link_at(&lab.agent, &lab.net, lab.net.server(), family, far);
    let flow = lab.spliced();
    let before = sent(&lab.net.balancer, "second");
    goes_on(&lab, &flow);
    let packets = sent(&lab.net.balancer, "second") - before;
    assert!(packets > 100, "{packets} packets went by the interface that came later");
}

/// One of `packet-interfaces` may be missing at the start. What is not among them is left alone, whenever it comes.
fn a_name_that_comes_later_carries_flows_and_no_other_does(family: Family) {
    let far = far(family);
    for (name, is_taken) in [("second", true), ("third", false)] {
        let global = format!("packet-interfaces = [\"client\", \"{name}\"]");
        let lines = Lines { global: &global, server: Some(far.neighbour()), ..Lines::default() };
        let lab = Lab::with(Net::new(1), family, lines);
        until_said(&lab.agent, &format!("there is no interface {name}"));
        if is_taken {
            add_second_link_at(&lab.agent, &lab.net, lab.net.server(), family, far);
            let flow = lab.spliced();
            goes_on(&lab, &flow);
        } else {
            add_second_link(&lab.net, lab.net.server(), family, far);
            lab.assert_kept(&Spliced::from(lab.pair()), "unseen");
        }
    }
}

/// Clients are told of a segment size at the start, and flows that do not fit go another way from then on.
fn an_interface_that_is_narrower_than_clients_are_told_is_spoken_of(family: Family) {
    let far = far(family);
    let lines = Lines {
        global: "packet-interfaces = [\"client\", \"second\"]",
        server: Some(far.neighbour()),
        ..Lines::default()
    };
    let lab = Lab::with(Net::new(1), family, lines);
    add_second_link_at(&lab.agent, &lab.net, lab.net.server(), family, far);
    let says = |line: &String| line.contains("takes smaller packets than clients are told of");
    assert!(!lab.agent.process.stderr().iter().any(says));
    for place in [lab.net.server(), &lab.net.balancer] {
        ip(place, &["link", "set", "second", "mtu", "1400"]);
    }
    until_said(&lab.agent, "takes smaller packets than clients are told of");
    lab.assert_kept(&Spliced::from(lab.pair()), "segment-size");
}

/// In the middle of streams both ways, a better way opens by an interface that was not there.
fn a_route_by_an_interface_that_came_later_is_followed(family: Family) {
    let (lab, far) = (Lab::start(family), far(family));
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    stream_while(&flow, || {
        add_second_link_at(&lab.agent, &lab.net, lab.net.server(), family, far);
        route_by_the_second(&lab, lab.net.server(), far, "add");
        until("the flow to be moved", || moves_of(&lab) == 1);
        until("packets to go there", || sent(&lab.net.balancer, "second") > 100);
    });
    assert_eq!(lab.bytes_beside(), beside);
    goes_on(&lab, &flow);
}

fn an_interface_towards_the_server_may_be_made_again(family: Family) {
    let lab = Lab::start(family);
    outlives_its_interface(&lab, "server0", lab.net.server());
}

fn an_interface_towards_the_client_may_be_made_again(family: Family) {
    let lab = Lab::start(family);
    outlives_its_interface(&lab, "client", &lab.net.client);
}

/// No route is asked for these: they follow the name.
fn an_interface_to_which_flows_are_bound_may_be_made_again(family: Family) {
    let lines = Lines { backend: "source-interface = \"server0\"", ..Lines::default() };
    let lab = Lab::with(Net::new(1), family, lines);
    outlives_its_interface(&lab, "server0", lab.net.server());
}

/// In the middle of streams both ways an interface goes, twice, and another one comes under its name.
#[track_caller]
fn outlives_its_interface(lab: &Lab, interface: &str, end: &Namespace) {
    let flow = lab.spliced();
    let beside = lab.bytes_beside();
    stream_while(&flow, || {
        for moves in 1..=2 {
            let number = interface_number(&lab.net.balancer, interface);
            ip(&lab.net.balancer, &["link", "del", interface]);
            thread::sleep(Duration::from_millis(300));
            let before = takes_of(&lab.agent);
            let until_taken = || until_taken(&lab.agent, before);
            make_again(&lab.net.balancer, interface, end, lab.family, until_taken);
            assert_ne!(interface_number(&lab.net.balancer, interface), number);
            until("the flow to be moved", || moves_of(lab) == moves);
            until("packets to go there", || sent(&lab.net.balancer, interface) > 100);
        }
    });
    assert_eq!(lab.bytes_beside(), beside);
    goes_on(lab, &flow);
    // The next one, too.
    let next = lab.spliced();
    next.ping();
    assert_eq!(lab.agent.scrape().count("lb_path_fallbacks_total", &[("path", "packet")]), 0);
}

/// An agent that is killed leaves programs there, too, and the next one finds them. What was at an interface that goes, goes with it.
fn what_is_at_later_interfaces_outlives_the_agent(family: Family) {
    let (stage, far) = (Stage::of(family), far(family));
    let config = stage.config_towards(far.neighbour());
    let mut first = Agent::start(&stage.net, &config);
    add_second_link_at(&first, &stage.net, stage.net.server(), family, far);
    let mut pair = stage.spliced(&first);
    let number = interface_number(&stage.net.balancer, "second");
    let links = || {
        let names = stage.bpffs.names(STATE);
        names.into_iter().filter(|name| name.ends_with(&format!("gress-{number}"))).count()
    };
    let expected = if has_links() { 2 } else { 0 };
    assert_eq!(links(), expected);
    kill(&mut first);
    (0..100).for_each(|_| pair.ping());
    let second = Agent::start(&stage.net, &config);
    pair.stream(1 << 20);
    pair.end();
    assert_bytes(&second.until_records(1)[0], pair.bytes);
    assert_eq!(links(), expected);
    ip(&stage.net.balancer, &["link", "del", "second"]);
    until("nothing of it to be kept", || links() == 0);
}

/// Nobody hears of it. Nobody says anything meanwhile either, or would be answered with a reset.
fn an_interface_that_changes_while_no_agent_runs_is_taken_by_the_next(family: Family) {
    let stage = Stage::of(family);
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    for place in [&stage.net.client, stage.net.server()] {
        until("all to be acknowledged", || has_all_acknowledged(place));
    }
    ip(&stage.net.balancer, &["link", "del", "server0"]);
    make_again(&stage.net.balancer, "server0", stage.net.server(), family, || {});
    let second = stage.agent();
    until_said(&second, "leave by another interface");
    (0..100).for_each(|_| pair.ping());
    pair.end();
    assert_bytes(&second.until_records(1)[0], pair.bytes);
    let later = stage.spliced(&second);
    later.end();
    assert_bytes(&second.until_records(2)[1], later.bytes);
}

/// Whether nothing that was sent from here is to be sent again (ss(8), Send-Q).
fn has_all_acknowledged(place: &Namespace) -> bool {
    let connections = place.run(Command::new("ss").args(["-tnH", "state", "established"]));
    let mut waiting = connections.lines().filter_map(|line| line.split_whitespace().nth(1));
    connections.lines().count() == 1 && waiting.all(|bytes| bytes == "0")
}
