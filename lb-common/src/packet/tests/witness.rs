// SPDX-License-Identifier: MIT OR Apache-2.0
//! Remembers what went on to each end, and judges every time that the flow shows: it has to be that of a byte that was sent once.

extern crate std;

use std::vec::Vec;

use crate::packet::flow::{End, Side, TICK_NS};

/// What went on to an end: when, and the numbers of its first byte and behind its last, in that end's connection.
#[derive(Clone, Copy, Debug)]
struct Passage {
    at_ns: u64,
    first: u32,
    behind: u32,
}

/// What it has seen.
#[derive(Debug, Default)]
pub struct Witness {
    passages: [Vec<Passage>; 2],
    /// How many times were shown, by end.
    pub times: [usize; 2],
}

impl Witness {
    /// Payload goes on to an end, with these numbers.
    pub fn note(&mut self, to: Side, at_ns: u64, first: u32, payload: u32) {
        if payload > 0 {
            let behind = first.wrapping_add(payload);
            self.passages[to.index()].push(Passage { at_ns, first, behind });
        }
    }

    /// Judges what an end shows that showed nothing before a segment.
    pub fn judge(&mut self, side: Side, before: &End, after: &End, now_ns: u64) {
        let Some(shown_ns) = after.round_trip.shortest_ns() else { return };
        self.times[side.index()] += 1;
        let passages = &self.passages[side.index()];
        let acknowledged = after.acknowledged.wrapping_sub(before.acknowledged);
        // One that begins to be timed is the first of a segment, or the first that was not in the one before.
        let bytes = passages.iter().flat_map(|passage| [passage.first, passage.behind]);
        let mut new = bytes.filter(|byte| byte.wrapping_sub(before.acknowledged) < acknowledged);
        let is_its_time = new.any(|byte| {
            let mut sent = passages.iter().filter(|passage| passage.has(byte));
            let (first, again) = (sent.next(), sent.next());
            again.is_none() && first.is_some_and(|passage| passage.until(now_ns) == shown_ns)
        });
        assert!(is_its_time, "{shown_ns} ns at {now_ns} is the time of no byte: {passages:?}");
    }
}

impl Passage {
    fn has(&self, byte: u32) -> bool {
        byte.wrapping_sub(self.first) < self.behind.wrapping_sub(self.first)
    }

    /// How long it has been on its way, as a flow shows it.
    fn until(&self, now_ns: u64) -> u64 {
        (now_ns / TICK_NS - self.at_ns / TICK_NS).max(1) * TICK_NS
    }
}
