// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arithmetic beside a queue that really holds what waits.

extern crate std;

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const ALLOWED: Allowed = Allowed {
    pause_at: 1 << 20,
    stop_at: 4 << 20,
    round: 1,
    taken_back: 0,
    call_at: u64::MAX,
    outside: 0,
    freed: 0,
    spare: 0,
};

/// A direction with so much inside.
fn moved(inside: u64) -> Moved {
    Moved { charged: 1000 + inside, released: 1000, redirected: 1, ..Moved::default() }
}

#[test]
fn a_segment_costs_what_the_kernel_holds_for_it() {
    assert_eq!([1, 1448, 65_536].map(|len| charge(len, 0)), [1025, 2472, 66_560]);
    assert_eq!(charge(64, 64), 64 * 1025);
}

#[test]
fn what_was_taken_of_a_segment_is_known_by_numbers() {
    assert_eq!(
        [(7, 7), (9, 7), (1, u32::MAX)].map(|(copied, seq)| taken(copied, seq)),
        [Some(0), Some(2), Some(2)]
    );
    assert_eq!([(7, 8), (u32::MAX, 0)].map(|(copied, seq)| taken(copied, seq)), [None, None]);
}

#[test]
fn the_bell_rings_once_a_round() {
    let ring = |inside, rung| rings(&Moved { rung, ..moved(inside) }, &ALLOWED);
    let at_once = Allowed { call_at: 0, ..ALLOWED };
    assert_eq!([0, 1].map(|rung| rings(&Moved { rung, ..moved(1) }, &at_once)), [true, false]);
    let later = Allowed { call_at: 100, ..ALLOWED };
    assert_eq!([99, 100].map(|redirected| rings(&Moved { redirected, ..moved(1) }, &later)), [false, true]);
    assert_eq!([ring((1 << 20) - 1, 0), ring(1 << 20, 0), ring(2 << 20, 1)], [false, true, false]);
}

#[test]
fn only_who_has_called_is_stopped() {
    let stop = |inside, rung| stops(&Moved { rung, ..moved(inside) }, &ALLOWED, 0, 1);
    assert_eq!([stop((4 << 20) - 1, 1), stop(4 << 20, 1), stop(4 << 20, 0)], [false, true, false]);
}

#[test]
fn when_the_overdraft_is_used_up_who_is_beyond_its_share_is_stopped() {
    let stop = |inside, total| stops(&Moved { rung: 1, ..moved(inside) }, &ALLOWED, total, 100);
    assert_eq!([stop(1 << 20, 100), stop(2 << 20, 99), stop(2 << 20, 100)], [false, false, true]);
    assert_eq!([0, 1 << 20, 3 << 20].map(|inside| overdraft(&moved(inside), &ALLOWED)), [0, 0, 2 << 20]);
}

#[test]
fn what_user_space_takes_back_is_drawn_again_when_it_is_needed() {
    let draw = |inside, overdrawn, taken_back| {
        draws(&Moved { overdrawn, ..moved(inside) }, &Allowed { taken_back, ..ALLOWED }).cast_signed()
    };
    assert_eq!(
        [draw(3 << 20, 0, 0), draw(3 << 20, 2 << 20, 0), draw(0, 2 << 20, 0)],
        [2 << 20, 0, -(2 << 20)]
    );
    assert_eq!([draw(0, 2 << 20, 2 << 20), draw(3 << 20, 2 << 20, 1 << 20)], [0, 1 << 20]);
}

#[test]
fn a_stop_lasts_for_its_round_and_spares_what_has_no_payload() {
    let next = Allowed { round: 2, ..ALLOWED };
    assert_eq!(
        [(1, 1), (1, 0), (0, 1)].map(|(stopped, payload)| admits(stopped, &ALLOWED, payload)),
        [false, true, true]
    );
    assert!(admits(1, &next, 1));
}

#[test]
fn who_would_wait_beyond_its_share_depends_on_others() {
    let resting = Allowed { pause_at: 4096, ..ALLOWED };
    let beyond = |charged, released, freed, payload| {
        overdraws(charged, released, &Allowed { freed, ..resting }, payload, 0)
    };
    // A message of one segment, and one more than the share holds.
    assert_eq!([1448, 3072, 3073].map(|payload| beyond(9000, 9000, 0, payload)), [false, false, true]);
    // What is known to be free, to whomever, is not in the way.
    assert_eq!(
        [(0, 0), (9000, 0), (0, 9000)].map(|(released, freed)| beyond(9000, released, freed, 1)),
        [true, false, false]
    );
    let none = Allowed { pause_at: 0, ..ALLOWED };
    assert!(overdraws(0, 0, &none, 1, 1));
    assert!(!overdraws(u64::MAX / 2, 0, &Allowed { pause_at: u64::MAX, ..ALLOWED }, u32::MAX, 1));
}

#[test]
fn a_slot_that_nobody_has_set_up_takes_nothing() {
    assert!(!admits(Moved::default().stopped, &Allowed::default(), 1));
}

#[test]
fn the_first_segment_and_those_beyond_a_part_of_the_share_make_it_look() {
    assert!(must_look(&Moved::default(), &ALLOWED));
    assert_eq!([(1 << 18) - 1, 1 << 18].map(|inside| must_look(&moved(inside), &ALLOWED)), [false, true]);
}

#[test]
fn what_the_target_has_beyond_this_direction_is_no_backlog() {
    let mut moved = Moved::default();
    moved.look(u32::MAX, 0);
    moved.add(10, 1);
    // All of it, and a FIN.
    moved.look(10, 0);
    assert_eq!((moved.accepted, moved.inside()), (10, 0));
}

#[test]
fn what_user_space_has_moved_is_not_taken_for_what_the_program_has() {
    let mut moved = Moved::default();
    moved.look(u32::MAX - 5, 3);
    moved.add(100, 1);
    moved.look(u32::MAX - 5 + 4, 3);
    assert_eq!(moved.accepted, 4);
    moved.look(u32::MAX.wrapping_add(95 + 1000), 1003);
    assert_eq!((moved.accepted, moved.inside()), (100, 0));
}

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    /// A segment of so many bytes that came in so many.
    Segment(u32, u32),
    /// The target accepts so many bytes.
    Accept(u32),
    /// User space moves so many bytes itself, once nothing waits.
    Outside(u32),
}

fn events() -> impl Strategy<Value = std::vec::Vec<Event>> {
    let event = prop_oneof![
        (1_u32..70_000, 0_u32..64).prop_map(|(len, segments)| Event::Segment(len, segments)),
        (1_u32..8, 0_u32..2).prop_map(|(len, segments)| Event::Segment(len, segments)),
        (1_u32..140_000).prop_map(Event::Accept),
        any::<u32>().prop_map(Event::Outside),
    ];
    prop::collection::vec(event, 1..600)
}

/// A target with its queue: bytes and cost of each segment.
#[derive(Debug)]
struct Target {
    write_seq: u32,
    queue: VecDeque<(u32, u64)>,
}

impl Target {
    /// Accepts bytes; a segment's cost is free when its last byte has gone.
    fn accept(&mut self, mut bytes: u32) {
        while bytes > 0
            && let Some((left, _)) = self.queue.front_mut()
        {
            let taken = bytes.min(*left);
            (*left, bytes, self.write_seq) =
                (*left - taken, bytes - taken, self.write_seq.wrapping_add(taken));
            if *left == 0 {
                self.queue.pop_front();
            }
        }
    }

    fn cost(&self) -> u64 {
        self.queue.iter().map(|(_, cost)| cost).sum()
    }

    fn waiting(&self) -> u64 {
        self.queue.iter().map(|(left, _)| u64::from(*left)).sum()
    }
}

proptest! {
    /// Whatever comes, whenever the program looks and wherever the numbers begin: no more waits than it counts, and it does not count much
    /// more either.
    #[test]
    fn what_is_taken_for_waiting_bounds_what_waits(events in events(), base: u32) {
        let (mut moved, mut target) = (Moved::default(), Target { write_seq: base, queue: VecDeque::new() });
        let mut outside = 0;
        for event in events {
            match event {
                Event::Segment(len, segments) => {
                    if must_look(&moved, &ALLOWED) {
                        moved.look(target.write_seq, outside);
                    }
                    moved.add(len, segments);
                    target.queue.push_back((len, charge(len, segments)));
                }
                Event::Accept(bytes) => target.accept(bytes),
                Event::Outside(bytes) => {
                    target.accept(u32::MAX);
                    target.write_seq = target.write_seq.wrapping_add(bytes);
                    outside += u64::from(bytes);
                }
            }
            prop_assert!(target.cost() <= moved.inside(), "{} in {moved:?}", target.cost());
            let accepted = moved.redirected - target.waiting();
            prop_assert!(target.cost() <= moved.inside_after(accepted), "{accepted} of {moved:?}");
        }
        target.accept(u32::MAX);
        prop_assert_eq!(moved.inside_after(moved.redirected), 0);
        moved.look(target.write_seq, outside);
        prop_assert_eq!((moved.inside(), moved.accepted), (0, moved.redirected));
    }

    /// A target that keeps up is never taken for one that does not.
    #[test]
    fn a_direction_that_runs_rings_no_bell(lens in prop::collection::vec(1_u32..65_536, 1..2_000), base: u32) {
        let (mut moved, mut target) = (Moved::default(), Target { write_seq: base, queue: VecDeque::new() });
        for len in lens {
            if must_look(&moved, &ALLOWED) {
                moved.look(target.write_seq, 0);
            }
            moved.add(len, 0);
            target.queue.push_back((len, charge(len, 0)));
            prop_assert!(!rings(&moved, &ALLOWED), "{moved:?}");
            // All but the last.
            target.accept(u32::try_from(target.waiting()).expect("little") - len);
        }
    }
}
