// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: where its first flows get nowhere, it is off for others, and on again once one of them does.

use std::thread;
use std::time::Duration;

use lb_tests::net::Namespace;
use lb_tests::stream::say;
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Spliced};
use crate::support::stream_both_ways;

on_both_families! {
    first_flows_that_get_nowhere_turn_the_path_off_until_one_gets_on,
    one_flow_that_gets_nowhere_turns_nothing_off,
}

/// How far packets of a namespace go: with one hop to the balancer's sockets, and not beyond, once the programs pass them on as a router would.
fn set_hops(place: &Namespace, family: Family, hops: &str) {
    let key = match family {
        Family::V4 => "net/ipv4/ip_default_ttl",
        Family::V6 => "net/ipv6/conf/uplink/hop_limit",
    };
    place.sysctl(key, hops);
}

/// Flows that leave the agent, and whose client is heard no further. They count only once a byte of them has got on, but their sockets are gone.
fn stuck<const N: usize>(lab: &Lab) -> [Spliced; N] {
    let flows = [(); N].map(|()| Spliced::from(lab.pair()));
    until("the flows to leave the agent", || {
        flows.iter().for_each(|flow| say(&flow.client, b"?"));
        thread::sleep(Duration::from_millis(50));
        let ports = flows.each_ref().map(|flow| flow.server.peer_addr().expect("connected").port());
        ports.into_iter().all(|port| lab.sockets(port) == 0)
    });
    flows
}

/// Whether the path is on, for this reason.
fn stands(lab: &Lab, reason: &str) -> Option<bool> {
    let scrape = lab.agent.scrape();
    let labels = [("path", "packet"), ("reason", reason)];
    let is_there = scrape.samples.iter().any(|sample| {
        sample.name == "lb_path_available" && labels.iter().all(|(key, value)| sample.labels[*key] == *value)
    });
    is_there.then(|| scrape.count("lb_path_available", &labels) == 1)
}

fn first_flows_that_get_nowhere_turn_the_path_off_until_one_gets_on(family: Family) {
    let lab = Lab::start(family);
    set_hops(&lab.net.client, family, "1");
    let _flows: [_; 3] = stuck(&lab);
    assert_eq!(stands(&lab, "available"), Some(true));
    until("the path to be off", || stands(&lab, "no-progress") == Some(false));
    assert_eq!(stands(&lab, "available"), None);
    let beside = Spliced::from(lab.pair());
    let before = lab.bytes_beside();
    stream_both_ways(&beside.client, &beside.server, 1 << 20, 1 << 20);
    lab.agent.until_records(1);
    assert_eq!(lab.bytes_beside() - before, 2 << 20);
    lab.assert_refused(&[("unavailable", 1)]);
    // What is sent again gets through, and later flows leave as ever.
    set_hops(&lab.net.client, family, "64");
    until("the path to be on", || stands(&lab, "available") == Some(true));
    assert_eq!(stands(&lab, "no-progress"), None);
    let flow = lab.spliced();
    stream_both_ways(&flow.client, &flow.server, 1 << 20, 1 << 20);
}

fn one_flow_that_gets_nowhere_turns_nothing_off(family: Family) {
    let lab = Lab::start(family);
    set_hops(&lab.net.client, family, "1");
    let [_lost] = stuck(&lab);
    thread::sleep(Duration::from_secs(7));
    assert_eq!(stands(&lab, "available"), Some(true));
    set_hops(&lab.net.client, family, "64");
    let flow = lab.spliced();
    stream_both_ways(&flow.client, &flow.server, 1 << 20, 1 << 20);
    lab.assert_refused(&[]);
}
