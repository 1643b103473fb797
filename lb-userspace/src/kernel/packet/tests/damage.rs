// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments with a wrong checksum: they go where others go, and count nowhere.

use lb_common::packet::flow::Phase;
use lb_common::packet::record::{Counter, Record};

use super::bench::{Bench, Family, Fate, SERVER};
use super::life::{at_each_place, expected, flipping, from, is_sent_on, until_sent};

const ACK: u8 = 0x10;

/// What the server has acknowledged when the flow flips.
const ALL: u32 = 128;

/// Bytes of payload, on both sides of where programs go from one chunk to the next, and odd ones.
const LENGTHS: [usize; 12] = [0, 1, 2, 3, 4, 479, 480, 491, 492, 1_004, 1_005, 1_460];

fn record(bench: &Bench) -> Record {
    bench.slot.edit(|record| *record)
}

/// Up to where the next acknowledgement flips; whatever was called for before is over.
fn begin(bench: &mut Bench) {
    bench.has_called();
    until_sent(bench);
}

/// A packet of which a bit has changed, by its number from the TCP header on.
fn damaged(family: Family, packet: &[u8], bit: usize) -> Vec<u8> {
    let at = if family == Family::V4 { 20 } else { 40 } + bit / 8;
    let mut damaged = packet.to_vec();
    damaged[at] ^= 0x80 >> (bit % 8);
    damaged
}

/// Bits of a TCP header that flow and programs look at: numbers, flags, window, checksum. Ports would make it another's, and what a wrong length
/// of the header leaves is mostly not understood.
fn bits() -> impl Iterator<Item = usize> {
    (32..96).chain(104..144)
}

#[test]
fn a_damaged_acknowledgement_does_not_flip_and_the_right_one_does() {
    at_each_place(|bench| {
        let family = bench.family;
        let packet = flipping(family).packet();
        for bit in bits() {
            begin(bench);
            let (before, damaged) = (record(bench), damaged(family, &packet, bit));
            assert_eq!(bench.comes_in(&damaged), Fate::Passed(damaged), "bit {bit}");
            let after = record(bench);
            // One that has become a FIN disarms; nothing else has changed.
            let is_occupied = bit == 111;
            let phase = if is_occupied { Phase::Track } else { Phase::Armed };
            assert_eq!(after.flow.phase(), phase, "bit {bit}");
            assert_eq!(after.flow.server, before.flow.server, "bit {bit}");
            if !is_occupied {
                is_sent_on(bench, SERVER, &flipping(family));
            }
        }
        assert_eq!(bench.counts().of(Counter::Corrupt), bits().count() as u64);
    });
}

#[test]
fn segments_of_every_length_are_summed_to_their_last_byte() {
    at_each_place(|bench| {
        let family = bench.family;
        for len in LENGTHS {
            begin(bench);
            let segment = from(family, SERVER, 0, ALL, ACK, len);
            let packet = segment.packet();
            for bit in [packet.len() * 8 - 1, packet.len() * 8 - 32] {
                let bit = bit - if family == Family::V4 { 160 } else { 320 };
                let damaged = damaged(family, &packet, bit);
                assert_eq!(bench.comes_in(&damaged), Fate::Passed(damaged), "{len} bytes");
            }
            begin(bench);
            assert_eq!(bench.comes_in(&packet), expected(family, SERVER, &segment), "{len} bytes");
        }
        assert_eq!(bench.counts().of(Counter::Corrupt), 2 * LENGTHS.len() as u64);
    });
}

#[test]
fn nothing_damaged_counts_after_the_flip_and_all_of_it_is_sent_on() {
    at_each_place(|bench| {
        let family = bench.family;
        begin(bench);
        is_sent_on(bench, SERVER, &flipping(family));
        let before = record(bench).flow;
        let packet = from(family, SERVER, 0, ALL, ACK, 1_000).packet();
        for bit in bits() {
            let fate = bench.comes_in(&damaged(family, &packet, bit));
            assert!(matches!(fate, Fate::Sent(_)), "bit {bit}: {fate:?}");
        }
        assert_eq!(record(bench).flow, before);
        assert_eq!(bench.counts().of(Counter::Corrupt), bits().count() as u64);
    });
}
