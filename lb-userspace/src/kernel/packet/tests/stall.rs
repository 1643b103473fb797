// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that cannot be translated, of a flow that stands still: which of them count, and that user space is called in the end.

use lb_common::packet::flow::{End, Phase, Side};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::{Record, STALLED};
use rustix::time::{ClockId, clock_gettime};

use super::bench::{Bench, CLIENT, Family, Fate, record, shape, shape_to};
use super::model::Shape;
use super::refusals::misfits_of;

/// What both ends send next, and what was sent to them.
const NEXT: u32 = 0xffff_fff0;
const SENT: u32 = 0x7fff_fffe;

const PAYLOAD: usize = 32;

/// A flow whose ends have acknowledged everything.
fn resting(family: Family) -> Record {
    let mut record = record(family, Phase::Spliced);
    for end in [&mut record.flow.client, &mut record.flow.server] {
        *end = End {
            reached: NEXT,
            confirmed: NEXT,
            sent: SENT,
            acknowledged: SENT,
            allowed: NEXT.wrapping_add(60_000),
            ..End::default()
        };
    }
    record
}

/// The next bytes of an end, off by so many.
fn next(family: Family, from: Side, off: u32) -> Shape {
    let bare = shape(family, from);
    let sequence = NEXT.wrapping_add(off);
    Shape { sequence, acknowledgement: SENT, payload: vec![7; PAYLOAD], ..bare }
}

/// A packet as this one that cannot be translated, with the reason. Where the numbers and the end are of one whose header is broken, nobody knows.
fn readable(family: Family, shape: &Shape) -> Vec<(Untranslatable, Vec<u8>)> {
    let mut all = misfits_of(family, shape);
    all.retain(|(reason, _)| *reason != Untranslatable::MalformedHeader);
    all
}

fn now_ms() -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec.cast_unsigned() * 1_000 + now.tv_nsec.cast_unsigned() / 1_000_000) as u32
}

#[test]
fn an_ends_own_packet_is_noted() {
    Bench::at_each_place(resting, |bench| {
        let (family, link) = (bench.family, bench.link);
        for (reason, packet) in
            Side::ALL.into_iter().flat_map(|side| readable(family, &next(family, side, 0)))
        {
            bench.begin(resting(family));
            let (before, begun_ms) = (bench.slot.edit(|record| *record), now_ms());
            assert_eq!(bench.comes_in(&packet), Fate::Dropped, "{reason} {link:?}");
            let after = bench.slot.edit(|record| *record);
            assert_ne!(after.stalled_ms, 0, "{reason} {link:?}");
            assert!(after.stalled_ms.wrapping_sub(begun_ms) < 30_000, "{reason}: the clock of programs");
            assert_eq!(Record { stalled_ms: 0, ..after }, before, "{reason} {link:?}");
            assert!(!bench.has_called());
        }
    });
}

#[test]
fn what_is_not_an_ends_own_changes_nothing() {
    Bench::at_each_place(resting, |bench| {
        let (family, link) = (bench.family, bench.link);
        let before = bench.slot.edit(|record| *record);
        let mut packets: Vec<Vec<u8>> = Vec::new();
        for off in [1, 1_u32.wrapping_neg(), 1 << 31] {
            packets
                .extend(readable(family, &next(family, CLIENT, off)).into_iter().map(|(_, packet)| packet));
        }
        let unsent = Shape { acknowledgement: SENT.wrapping_add(1), ..next(family, CLIENT, 0) };
        let reset = Shape { flags: 4, ..next(family, CLIENT, 0) };
        // Nothing is at stake.
        let bare = Shape { payload: Vec::new(), ..next(family, CLIENT, 0) };
        for shape in [unsent, reset, bare] {
            packets.extend(readable(family, &shape).into_iter().map(|(_, packet)| packet));
        }
        for packet in packets {
            assert_eq!(bench.comes_in(&packet), Fate::Dropped, "{link:?}");
            assert_eq!(bench.slot.edit(|record| *record), before, "{link:?} {packet:?}");
        }
        // Numbers that are an end's say nothing of what a socket of the balancer sends to it.
        let sent = Shape {
            sequence: NEXT,
            acknowledgement: SENT,
            payload: vec![7; PAYLOAD],
            ..shape_to(family, CLIENT)
        };
        for (reason, packet) in readable(family, &sent) {
            assert_eq!(bench.goes_out(&packet), Fate::Dropped, "{reason} {link:?}");
            assert_eq!(bench.slot.edit(|record| *record), before, "{reason} {link:?}");
        }
        assert!(!bench.has_called());
    });
}

/// The first fragment may have less than a header: of that nobody knows whose it is.
#[test]
fn a_header_in_pieces_says_nothing() {
    Bench::at_each_place(resting, |bench| {
        let family = bench.family;
        let before = bench.slot.edit(|record| *record);
        let all = readable(family, &next(family, CLIENT, 0)).into_iter();
        for (_, packet) in all.filter(|(reason, _)| *reason == Untranslatable::Fragment) {
            // As short as the kernel takes for an IP packet behind what it takes for a link header.
            for missing in 1..=PAYLOAD + 6 {
                let mut packet = packet[..packet.len() - missing].to_vec();
                let (at, len) = if family == Family::V4 { (2, packet.len()) } else { (4, packet.len() - 40) };
                packet[at..at + 2].copy_from_slice(&u16::try_from(len).expect("short").to_be_bytes());
                // What is shorter than both headers goes on, with IPv4, to where it is put together; its answer goes nowhere.
                let is_seen = family == Family::V6 || missing <= PAYLOAD;
                assert_eq!(bench.comes_in(&packet) == Fate::Dropped, is_seen, "{missing}");
                let is_whole = missing < PAYLOAD;
                assert_eq!(bench.slot.edit(|record| *record) != before, is_whole, "{missing}");
                bench.begin(resting(family));
                bench.slot.edit(|record| record.generation = before.generation);
            }
        }
    });
}

#[test]
fn user_space_is_called_for_a_flow_that_has_stood_still_for_long_enough() {
    Bench::at_each_place(resting, |bench| {
        let family = bench.family;
        for (reason, packet) in readable(family, &next(family, CLIENT, 0)) {
            for (ago_ms, calls) in [(1_000, false), (6_000, true)] {
                let since_ms = now_ms().wrapping_sub(ago_ms);
                bench.begin(Record { stalled_ms: since_ms, ..resting(family) });
                assert_eq!(bench.comes_in(&packet), Fate::Dropped);
                assert_eq!(bench.has_called(), calls, "{reason} {ago_ms}");
                let flags = bench.slot.edit(|record| record.flags);
                assert_eq!(flags & STALLED != 0, calls, "{reason} {ago_ms}");
            }
        }
    });
}
