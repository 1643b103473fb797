// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the links do, each fault once (tc-netem(8)); whoever carries flows brings everything over all the same.

/// What carries flows: a path, or path `packet` with one family of addresses.
pub(super) trait Carrier {
    /// Runs flows over links with this fault, and asserts that everything arrives.
    fn brings_everything(self, fault: &[&str]);
}

pub(super) fn one_lost_packet_in_a_hundred(carrier: impl Carrier) {
    carrier.brings_everything(&["loss", "1%"]);
}

pub(super) fn one_lost_packet_in_twenty_five(carrier: impl Carrier) {
    carrier.brings_everything(&["loss", "4%"]);
}

pub(super) fn a_long_way(carrier: impl Carrier) {
    carrier.brings_everything(&["delay", "3ms"]);
}

pub(super) fn a_long_way_that_loses_one_packet_in_a_hundred(carrier: impl Carrier) {
    carrier.brings_everything(&["delay", "3ms", "loss", "1%"]);
}

pub(super) fn packets_that_overtake(carrier: impl Carrier) {
    carrier.brings_everything(&["delay", "3ms", "reorder", "25%", "50%"]);
}

pub(super) fn packets_that_come_twice(carrier: impl Carrier) {
    carrier.brings_everything(&["duplicate", "5%"]);
}

pub(super) fn packets_that_are_damaged(carrier: impl Carrier) {
    carrier.brings_everything(&["corrupt", "2%"]);
}
