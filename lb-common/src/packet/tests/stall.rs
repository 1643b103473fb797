// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that cannot be translated, of a flow that has flipped: which of them are an end's own, and when they end it.

extern crate std;

use proptest::prelude::*;

use super::model::number;
use super::record::record;
use super::transitions::{from_client, from_server, over, spliced};
use crate::packet::flow::{FIN_SEEN, FIN_TAKEN, Flow, Misfit, Segment, Side};
use crate::packet::reason::Untranslatable;
use crate::packet::record::{RUNG, Record, STALLED, code};
use crate::packet::stall::PATIENCE_MS;
use crate::packet::tcp::{ACK, FIN, RST, SYN};

/// Of the programs' clock, at which the flow has stood still for long.
const BEGIN_MS: u64 = 1_000_000;

const SHORT_OF_IT: u64 = PATIENCE_MS as u64 - 1;

/// Drops a segment at a time after the beginning; whether user space is called.
fn drops(record: &mut Record, from: Side, segment: Segment, after_ms: u64) -> bool {
    let unfit = record.misfit_of_end(from, &segment, code(Untranslatable::Fragment), at(after_ms));
    assert_eq!(unfit.misfit, Misfit::Dropped);
    unfit.calls
}

fn at(after_ms: u64) -> u64 {
    (BEGIN_MS + after_ms) * 1_000_000
}

fn payload(len: u32) -> Segment {
    from_client(len, ACK)
}

#[test]
fn what_is_dropped_again_and_again_stalls_a_flow() {
    let mut record = record(spliced());
    let client = |record: &mut Record, after_ms| drops(record, Side::Client, payload(10), after_ms);
    let calls = [0, 200, SHORT_OF_IT].map(|after_ms| client(&mut record, after_ms));
    assert!(calls == [false; 3] && !record.is_stalled(at(SHORT_OF_IT)));
    let now = u64::from(PATIENCE_MS);
    assert!(client(&mut record, now) && record.is_stalled(at(now)));
    // User space is called once, also when it has looked.
    assert!(!client(&mut record, now + 1));
    record.flags &= !RUNG;
    assert!(!client(&mut record, now + 2) && record.is_stalled(at(now + 2)));
}

#[test]
fn each_end_has_its_numbers() {
    for (side, own, others) in [
        (Side::Client, payload(1), from_server(0, 1, ACK)),
        (Side::Server, from_server(0, 1, ACK), payload(1)),
    ] {
        let mut record = record(spliced());
        let before = record;
        drops(&mut record, side, others, 0);
        assert_eq!(record, before);
        drops(&mut record, side, own, 0);
        assert_eq!(u64::from(record.stalled_ms), BEGIN_MS);
        // The other end's are of the same flow, which stands still.
        let (other, segment) = (side.other(), others);
        assert!(drops(&mut record, other, segment, PATIENCE_MS.into()));
    }
}

#[test]
fn one_packet_stalls_nothing_however_long_ago_it_was() {
    let mut record = record(spliced());
    assert!(!drops(&mut record, Side::Client, payload(10), 0));
    assert!(!record.is_stalled(at(1_000_000)));
}

#[test]
fn what_moves_begins_anew() {
    let mut record = record(spliced());
    let moves = |record: &mut Record, from, segment, after_ms| {
        record.received(from, &segment, 1, at(after_ms));
    };
    drops(&mut record, Side::Client, payload(10), 0);
    moves(&mut record, Side::Server, from_server(0, 5, ACK), 3_000);
    assert!(!drops(&mut record, Side::Client, payload(10), 6_000));
    assert!(!drops(&mut record, Side::Client, payload(10), 6_000 + SHORT_OF_IT));
    assert!(drops(&mut record, Side::Client, payload(10), 6_000 + u64::from(PATIENCE_MS)));
    assert!(record.is_stalled(at(20_000)));
    // Before user space has looked: so it must not end what goes on.
    moves(&mut record, Side::Server, from_server(5, 5, ACK), 21_000);
    assert!(!record.is_stalled(at(22_000)));
    assert!(!drops(&mut record, Side::Client, payload(10), 23_000));
    assert!(record.flags & STALLED == 0 && !record.is_stalled(at(23_000)));
    // What moves nothing, ends nothing: a question whether somebody is there, and the answer.
    let question = from_server(9, 0, ACK);
    moves(&mut record, Side::Server, question, 24_000);
    record.flags &= !RUNG;
    assert!(drops(&mut record, Side::Client, payload(10), 23_000 + u64::from(PATIENCE_MS)));
}

/// What has moved it in the millisecond of the packet may have come after that.
#[test]
fn a_millisecond_in_which_something_moves_does_not_count() {
    let mut record = record(spliced());
    record.received(Side::Server, &from_server(0, 5, ACK), 1, at(0) + 100);
    drops(&mut record, Side::Client, payload(10), 0);
    assert!(!drops(&mut record, Side::Client, payload(10), u64::from(PATIENCE_MS)));
    assert!(drops(&mut record, Side::Client, payload(10), 2 * u64::from(PATIENCE_MS)));
}

#[test]
fn only_an_ends_own_packets_count() {
    let right = payload(10);
    let check = |flow: Flow, segment: Segment, counts: bool| {
        let mut record = record(flow);
        let before = record;
        drops(&mut record, Side::Client, segment, 0);
        assert_eq!(record != before, counts, "{segment:?}");
        assert_eq!(Record { stalled_ms: before.stalled_ms, ..record }, before, "{segment:?}");
    };
    check(spliced(), right, true);
    check(spliced(), from_client(0, FIN | ACK), true);
    for off in [1, 10, 1 << 30, 1 << 31, u32::MAX] {
        check(spliced(), Segment { sequence: right.sequence.wrapping_add(off), ..right }, false);
    }
    // What it acknowledges was never sent, or more than a window ago.
    for off in [1, 1 << 30, 1 << 31, (1_u32 << 16).wrapping_neg()] {
        let acknowledgement = right.acknowledgement.wrapping_add(off);
        check(spliced(), Segment { acknowledgement, ..right }, false);
    }
    for flags in [0, FIN, RST, RST | ACK, SYN, SYN | ACK] {
        check(spliced(), Segment { flags, ..right }, false);
    }
    check(over(), right, false);
}

/// The first byte that was not acknowledged, and the next; its FIN, and what comes after that.
#[test]
fn numbers_are_those_of_what_is_sent_again_and_of_what_comes_next() {
    let check = |[in_flight, marks]: [u32; 2], off: u32, payload: u32, counts| {
        let mut flow = spliced();
        flow.client.reached += in_flight;
        flow.client.confirmed += if marks & FIN_TAKEN == 0 { 0 } else { in_flight + 1 };
        flow.client.marks |= marks;
        let mut record = record(flow);
        let segment = from_client(payload, ACK);
        let segment = Segment { sequence: segment.sequence + off, ..segment };
        drops(&mut record, Side::Client, segment, 0);
        assert_eq!(record.stalled_ms != 0, counts, "{in_flight} {marks} {off} {payload}");
    };
    for (off, counts) in [(0, true), (1, false), (99, false), (100, true), (101, false)] {
        check([100, 0], off, 10, counts);
        check([100, FIN_SEEN], off, 10, counts || off == 101);
    }
    // It has sent its last byte, and answers.
    check([100, FIN_SEEN | FIN_TAKEN], 101, 0, false);
}

#[test]
fn an_answer_counts_while_the_other_end_waits_for_one() {
    let bare = from_client(0, ACK);
    let after = |segments: &[Segment]| {
        let mut record = record(spliced());
        for segment in segments {
            record.received(Side::Server, segment, 1, at(0));
        }
        drops(&mut record, Side::Client, bare, 10);
        record.stalled_ms != 0
    };
    assert!(!after(&[]));
    assert!(!after(&[from_server(0, 0, ACK)]));
    assert!(after(&[from_server(0, 1, ACK)]));
    assert!(after(&[from_server(0, 0, FIN | ACK)]));
}

/// The clock is cut to 32 bits, where 0 means that nothing was dropped.
#[test]
fn the_clock_may_begin_anew() {
    const AROUND_MS: u64 = 1 << 32;
    for first_ms in [AROUND_MS - 2_000, AROUND_MS - 1, AROUND_MS, AROUND_MS + 1] {
        let mut record = record(spliced());
        let after = |later_ms: u64| first_ms + later_ms - BEGIN_MS;
        assert!(!drops(&mut record, Side::Client, payload(10), after(0)));
        assert_ne!(record.stalled_ms, 0);
        assert!(!drops(&mut record, Side::Client, payload(10), after(SHORT_OF_IT - 1)));
        assert!(drops(&mut record, Side::Client, payload(10), after(u64::from(PATIENCE_MS) + 1)));
    }
}

proptest! {
    /// Whatever a packet says that has not exactly the number of a byte that its end sends next, or first again, it changes nothing.
    #[test]
    fn a_stranger_changes_nothing(
        [confirmed, acknowledged, sequence, acknowledgement] in [number(), number(), number(), number()],
        (in_flight, sent, len) in (0_u32..100_000, 0_u32..100_000, 0_u32..2_000),
        (flags, marks, stalled_ms) in (any::<u8>(), 0_u32..8, any::<u32>()),
        is_clients in any::<bool>(),
    ) {
        let side = if is_clients { Side::Client } else { Side::Server };
        let mut record = record(spliced());
        for end in [&mut record.flow.client, &mut record.flow.server] {
            (end.confirmed, end.reached) = (confirmed, confirmed.wrapping_add(in_flight));
            (end.acknowledged, end.sent) = (acknowledged, acknowledged.wrapping_add(sent));
            (end.allowed, end.marks) = (end.reached.wrapping_add(65_535), marks);
        }
        record.stalled_ms = stalled_ms;
        let off = sequence.wrapping_sub(confirmed);
        prop_assume!(off != 0 && off != in_flight && off != in_flight + 1);
        let segment = Segment { sequence, acknowledgement, payload: len, flags, ..Segment::default() };
        let before = record;
        prop_assert!(!drops(&mut record, side, segment, 0));
        prop_assert_eq!(record, before);
    }

    /// Whoever has it right and goes on and on is heard, whatever the numbers are.
    #[test]
    fn an_end_is_heard_wherever_its_numbers_are(
        [confirmed, acknowledged] in [number(), number()],
        (in_flight, len, is_again) in (0_u32..60_000, 1_u32..1_400, any::<bool>()),
        pauses_ms in prop::collection::vec(1_u64..10_000, 2..20),
    ) {
        let mut record = record(spliced());
        let client = &mut record.flow.client;
        (client.confirmed, client.reached) = (confirmed, confirmed.wrapping_add(in_flight));
        (client.acknowledged, client.sent) = (acknowledged, acknowledged);
        client.allowed = client.reached.wrapping_add(65_535);
        let sequence = if is_again { client.confirmed } else { client.reached };
        let segment = Segment { sequence, acknowledgement: acknowledged, ..payload(len) };
        let mut calls = 0;
        let mut now_ms = 0;
        for pause_ms in &pauses_ms {
            calls += usize::from(drops(&mut record, Side::Client, segment, now_ms));
            now_ms += pause_ms;
        }
        let waited_ms: u64 = pauses_ms[..pauses_ms.len() - 1].iter().sum();
        prop_assert_eq!(calls == 1, waited_ms >= u64::from(PATIENCE_MS), "after {} ms", waited_ms);
        prop_assert_eq!(record.is_stalled(at(now_ms)), calls == 1);
    }
}
