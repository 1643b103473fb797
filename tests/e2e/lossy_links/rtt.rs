// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: the round trips that are shown are those of the legs, each for itself.

use lb_tests::net::Net;
use lb_tests::wait::until;

use super::{hurry, interfaces, spoil_one};
use crate::packet_lab::{Family, Lab};
use crate::packet_rtt::{shown, until_measured};

on_both_families! {
    a_long_way_to_the_client_is_on_its_leg_alone,
    a_long_way_to_the_server_is_on_its_leg_alone,
}

/// How long what the far end sends is on its way, as tc(8) wants it and in seconds.
const DELAY: &str = "50ms";
const DELAY_SECONDS: f64 = 0.05;

fn a_long_way_to_the_client_is_on_its_leg_alone(family: Family) {
    one_leg_is_long(family, 0);
}

fn a_long_way_to_the_server_is_on_its_leg_alone(family: Family) {
    one_leg_is_long(family, 1);
}

/// The leg of one end takes its time, in one direction.
fn one_leg_is_long(family: Family, far: usize) {
    let net = Net::new(1);
    let [client, _, _, server] = interfaces(&net);
    let ends = [client, server];
    spoil_one(ends[far].0, ends[far].1, &["delay", DELAY]);
    // Both are to acknowledge at once.
    ends.into_iter().for_each(|(place, interface)| hurry(place, interface));
    let lab = Lab::over(net, family);
    let flow = lab.spliced();
    until_measured(&lab, &flow);
    // The shortest of several, for this machine may have something else to do.
    until("a short way to the near end", || {
        flow.ping();
        shown(&lab)[1 - far][1].is_some_and(|shortest| shortest < DELAY_SECONDS / 2.0)
    });
    let [smoothed, shortest] = shown(&lab)[far].map(|time| time.expect("measured"));
    assert!(DELAY_SECONDS <= shortest && shortest <= smoothed, "{shortest} {smoothed}");
    assert!(shortest < 20.0 * DELAY_SECONDS, "{shortest}");
}
