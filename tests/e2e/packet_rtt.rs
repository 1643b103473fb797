// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: the round trips that are shown of a flow, while it lives and when it has ended. How long they are over links that take their
//! time is in [`lossy_links`](crate::lossy_links).

use lb_tests::agent::admin;
use lb_tests::metrics::fetch;
use lb_tests::net::Net;
use lb_tests::stream::{finish, receive_all};
use lb_tests::wait::until;
use serde_json::Value;

use crate::packet_lab::{Family, Lab, Spliced};

on_both_families! {
    both_round_trips_of_a_flow_are_shown,
    no_timestamps_are_needed,
}

/// What was measured of each end, in seconds: of the client and of the server, the smoothed time and the shortest.
pub(crate) type RoundTrips = [[Option<f64>; 2]; 2];

/// Longer than any way of these tests takes on a busy machine, in seconds.
const LONG: f64 = 5.0;

/// What the agent says of its one flow.
#[track_caller]
pub(crate) fn shown(lab: &Lab) -> RoundTrips {
    let answer = fetch(&lab.net.balancer, admin(), "/api/v1/sessions", "").expect("an admin surface");
    let all: Value = serde_json::from_str(&answer.body).expect("JSON");
    let [session] = &all["sessions"].as_array().expect("a list")[..] else { panic!("not one: {all}") };
    ["client", "server"].map(|end| {
        ["rtt", "rtt_min"]
            .map(|which| session.get(format!("{end}_{which}_seconds")).expect("a field").as_f64())
    })
}

/// Talks until something was measured of both ends.
#[track_caller]
pub(crate) fn until_measured(lab: &Lab, flow: &Spliced) -> [[f64; 2]; 2] {
    until("round trips to both ends", || {
        flow.ping();
        shown(lab).iter().flatten().all(Option::is_some)
    });
    shown(lab).map(|end| end.map(|time| time.expect("it was just there")))
}

fn both_round_trips_of_a_flow_are_shown(family: Family) {
    are_shown(Net::new(1), family);
}

/// As with Windows.
fn no_timestamps_are_needed(family: Family) {
    let net = Net::new(1);
    for place in [&net.client, &*net.balancer, net.server()] {
        place.sysctl("net/ipv4/tcp_timestamps", "0");
    }
    are_shown(net, family);
}

/// While the flow lives, and when it has ended.
#[track_caller]
fn are_shown(net: Net, family: Family) {
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    let times = until_measured(&lab, &flow);
    for [smoothed, shortest] in times {
        assert!(0.0 < shortest && shortest <= smoothed && smoothed < LONG, "{times:?}");
    }
    finish(&flow.client);
    receive_all(&flow.server);
    finish(&flow.server);
    receive_all(&flow.client);
    let records = lab.agent.until_records(1);
    let scrape = lab.agent.scrape();
    for (leg, [_, shortest]) in ["client", "server"].into_iter().zip(times) {
        let told = records[0].field(&format!("{leg}_rtt_min_ms")).and_then(Value::as_f64).expect("a number");
        // What came last may have been quicker.
        assert!(0.0 < told && told <= shortest * 1e3 + 0.001, "{leg}: {told} {times:?}");
        assert_eq!(scrape.count("lb_packet_rtt_seconds_count", &[("leg", leg)]), 1);
        let sum = scrape.value("lb_packet_rtt_seconds_sum", &[("leg", leg)]);
        assert!((sum * 1e3 - told).abs() < 0.001, "{leg}: {sum} {told}");
    }
}
