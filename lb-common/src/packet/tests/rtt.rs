// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the stopwatch of each end shows, step by step. Whether it is right whatever happens is judged in [`super::flow`].

use super::transitions::{from_client, from_server, spliced};
use super::world::{Setup, Wire, World};
use crate::packet::flow::{Flow, RoundTrip, Segment, Side, TICK_NS, TIMED};
use crate::packet::tcp::{ACK, FIN};

/// Longer than from one beginning to the next.
const PAUSE_NS: u64 = 300_000_000;

const MS_NS: u64 = 1_000_000;

/// When [`spliced`] has flipped.
const FLIP_NS: u64 = 7;

/// What the server sends to the client, and what that answers: the offset behind it.
fn sends(flow: &mut Flow, offset: u32, payload: u32, at_ns: u64) {
    flow.received(Side::Server, &from_server(offset, payload, ACK), FLIP_NS + at_ns);
}

fn acknowledges(flow: &mut Flow, offset: u32, at_ns: u64) {
    let bare = from_client(0, ACK);
    let segment = Segment { acknowledgement: bare.acknowledgement + offset, ..bare };
    flow.received(Side::Client, &segment, FLIP_NS + at_ns);
}

/// Whether a time in nanoseconds is this one, but for the parts of a tick.
fn is_about(shown: Option<u64>, expected_ns: u64) -> bool {
    shown.is_some_and(|shown| shown.abs_diff(expected_ns) <= TICK_NS)
}

#[test]
fn what_goes_to_an_end_is_timed_until_it_is_acknowledged() {
    let mut flow = spliced();
    sends(&mut flow, 0, 1_000, 0);
    acknowledges(&mut flow, 0, 2 * MS_NS);
    assert_eq!(flow.client.round_trip, RoundTrip::NONE);
    acknowledges(&mut flow, 1, 5 * MS_NS);
    let shown = flow.client.round_trip;
    assert!(
        is_about(shown.shortest_ns(), 5 * MS_NS) && is_about(shown.smoothed_ns(), 5 * MS_NS),
        "{shown:?}"
    );
    assert_eq!(flow.server.round_trip, RoundTrip::NONE, "nothing went there");
    assert_eq!([RoundTrip::NONE.smoothed_ns(), RoundTrip::NONE.shortest_ns()], [None, None]);
}

#[test]
fn each_end_has_its_own() {
    let mut flow = spliced();
    sends(&mut flow, 0, 1_000, 0);
    let answer = |payload| Segment {
        acknowledgement: from_client(0, ACK).acknowledgement + 1_000,
        ..from_client(payload, ACK)
    };
    flow.received(Side::Client, &answer(10), FLIP_NS + 3 * MS_NS);
    let last = from_server(1_000, 0, ACK);
    let last = Segment { acknowledgement: last.acknowledgement + 10, ..last };
    flow.received(Side::Server, &last, FLIP_NS + 24 * MS_NS);
    assert!(is_about(flow.client.round_trip.shortest_ns(), 3 * MS_NS), "{flow:?}");
    assert!(is_about(flow.server.round_trip.shortest_ns(), 21 * MS_NS), "{flow:?}");
}

#[test]
fn one_begins_now_and_then() {
    let mut flow = spliced();
    for (at, time_ns) in [(0, 8 * MS_NS), (1, MS_NS), (2, MS_NS)] {
        sends(&mut flow, at, 1, u64::from(at) * MS_NS * 10);
        acknowledges(&mut flow, at + 1, u64::from(at) * MS_NS * 10 + time_ns);
    }
    assert!(is_about(flow.client.round_trip.shortest_ns(), 8 * MS_NS), "{flow:?}");
    sends(&mut flow, 3, 1, PAUSE_NS);
    acknowledges(&mut flow, 4, PAUSE_NS + MS_NS);
    assert!(is_about(flow.client.round_trip.shortest_ns(), MS_NS), "{flow:?}");
    // One part of eight (RFC 6298 section 2.3).
    assert!(is_about(flow.client.round_trip.smoothed_ns(), (7 * 8 + 1) * MS_NS / 8), "{flow:?}");
}

/// The acknowledgement could be of either (Karn's algorithm).
#[test]
fn what_is_sent_again_is_not_timed() {
    let check = |again: (u32, u32), is_timed: bool| {
        let mut flow = spliced();
        sends(&mut flow, 0, 1_000, 0);
        acknowledges(&mut flow, 1_000, MS_NS);
        sends(&mut flow, 1_000, 1_000, PAUSE_NS);
        sends(&mut flow, 2_000, 1_000, PAUSE_NS + 1);
        sends(&mut flow, again.0, again.1, PAUSE_NS + 10 * MS_NS);
        assert_eq!(flow.client.has(TIMED), is_timed, "{again:?}");
        acknowledges(&mut flow, 3_000, PAUSE_NS + 11 * MS_NS);
        let smoothed = if is_timed { (7 + 11) * MS_NS / 8 } else { MS_NS };
        assert!(is_about(flow.client.round_trip.smoothed_ns(), smoothed), "{again:?}: {flow:?}");
    };
    check((1_000, 1_000), false);
    check((1_000, 3_000), false);
    check((500, 500), false);
    check((500, 1_000), false);
    check((2_000, 1_000), true);
    check((3_000, 1_000), true);
}

/// What is in front of the gap has not come: an acknowledgement waits for that, and not for the way.
#[test]
fn what_fills_a_gap_ends_it() {
    let mut flow = spliced();
    sends(&mut flow, 1_000, 1_000, 0);
    assert!(flow.client.has(TIMED));
    sends(&mut flow, 0, 1_000, 50 * MS_NS);
    acknowledges(&mut flow, 2_000, 51 * MS_NS);
    assert_eq!(flow.client.round_trip, RoundTrip::NONE);
}

#[test]
fn only_new_bytes_begin() {
    let begins = |segments: &[(u32, u32, u8)]| {
        let mut flow = spliced();
        for (at, (offset, payload, flags)) in (0..).zip(segments) {
            flow.received(Side::Server, &from_server(*offset, *payload, *flags), FLIP_NS + at * PAUSE_NS);
            if at + 1 < segments.len() as u64 {
                acknowledges(&mut flow, offset + payload, at * PAUSE_NS + MS_NS);
            }
        }
        flow.client.has(TIMED)
    };
    assert!(begins(&[(0, 1, ACK)]));
    assert!(!begins(&[(0, 0, ACK)]));
    assert!(!begins(&[(0, 0, FIN | ACK)]));
    assert!(!begins(&[(0, 10, ACK), (0, 10, ACK)]));
    assert!(!begins(&[(0, 10, ACK), (9, 1, ACK)]));
    // A part of it is new, and that is what counts.
    assert!(begins(&[(0, 10, ACK), (5, 10, ACK)]));
    let mut flow = spliced();
    sends(&mut flow, 0, 10, 0);
    acknowledges(&mut flow, 10, MS_NS);
    sends(&mut flow, 5, 10, PAUSE_NS);
    acknowledges(&mut flow, 10, PAUSE_NS + MS_NS);
    assert!(flow.client.has(TIMED));
}

#[test]
fn times_have_bounds() {
    let time_of = |time_ns: u64| {
        let mut flow = spliced();
        sends(&mut flow, 0, 1, 0);
        acknowledges(&mut flow, 1, time_ns);
        flow.client.round_trip
    };
    let most = u32::MAX / 8;
    let most_ns = u64::from(most) * TICK_NS;
    // Not none, and no more than there is room for.
    assert_eq!(time_of(0), RoundTrip { smoothed: 8, shortest: 1 });
    assert_eq!(time_of(most_ns), RoundTrip { smoothed: most * 8, shortest: most });
    assert_eq!(time_of(most_ns + TICK_NS), RoundTrip::NONE);
    let mut flow = spliced();
    for at in 0..100_u32 {
        let begin = u64::from(at) * 2 * most_ns;
        sends(&mut flow, at, 1, begin);
        acknowledges(&mut flow, at + 1, begin + most_ns - u64::from(at % 2) * TICK_NS);
        assert!(flow.client.round_trip.smoothed >= (most - 1) * 8, "it does not wrap: {flow:?}");
    }
}

/// A segment that has read the clock waits until another one, of another processor, has passed that has read it later.
#[test]
fn an_acknowledgement_in_front_of_what_it_is_of_has_no_time() {
    let mut flow = spliced();
    sends(&mut flow, 0, 1, MS_NS);
    acknowledges(&mut flow, 1, 0);
    assert_eq!((flow.client.round_trip, flow.client.has(TIMED)), (RoundTrip::NONE, false));
}

/// A long conversation over wires that do nothing to it is timed again and again, and on each leg.
#[test]
fn both_ends_of_a_conversation_are_timed() {
    for step_ns in [MS_NS, 100 * MS_NS] {
        let mut world = World::new(Setup {
            syns: [u32::MAX - 5_000, 0, 7, u32::MAX],
            shifts: [7, 7, 0, 14],
            clocks: [1; 4],
            has_timestamps: step_ns == MS_NS,
            header: 28,
            step_ns,
        });
        world.settle();
        for _ in 0..500 {
            Side::ALL.into_iter().for_each(|side| say(&mut world, side));
        }
        assert!(world.is_spliced());
        assert!(world.witness.times.iter().all(|times| *times >= 5), "{:?}", world.witness.times);
    }
}

/// A message of a side, and its acknowledgement.
fn say(world: &mut World, side: Side) {
    world.end(side).written += 30;
    world.send(side, 30);
    for from in [side, side.other()] {
        world.tick();
        world.deliver(Wire::From(from), 0);
        if world.is_spliced() {
            world.deliver(Wire::To(from.other()), 0);
        }
        if from == side {
            world.acknowledge(side.other());
        }
    }
}
