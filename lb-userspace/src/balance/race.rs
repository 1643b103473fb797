// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table in which each server's slots depend on nobody else, but for whom it loses them to.
//!
//! Every server visits slots in an order of its own, as fast as its weight says, and a slot belongs to whoever is there first. Because
//! no server's run depends on the others, one that leaves loses its slots to those who come next and moves no other slot, and one
//! that comes takes slots and moves none between others. That is rendezvous hashing (D. G. Thaler, C. V. Ravishankar: Using
//! name-based mappings to increase hit rates, IEEE/ACM ToN 6, 1998), computed for all slots at once: it takes about
//! `slots * ln(slots)` steps instead of `slots * servers`, and nearly all of them are a number and a look at a bit.

use std::ops::Range;

use super::Member;
use super::bits::Bits;
use super::hash::mix;

/// Bits of the numbers of the least and of the most slots.
const BITS: std::ops::RangeInclusive<u32> = 12..=20;

/// Slots a server, at least, as long as there are no more than 4,096 servers. A server's slots are off from its share as if drawn:
/// the standard deviation is a 16th with so many.
const SLOTS_A_SERVER: usize = 256;

/// Parts of a step of a run into which the moment of an arrival is divided.
const MOMENT_BITS: u32 = 32;

/// Arrivals that are looked at together.
const BATCH: usize = 64;

/// Slots of the table for a backend with so many servers, of which only some may be eligible: a power of two, 256 to 512 a server, but
/// at least 4,096 and at most 1,048,576. A slot takes four bytes.
///
/// It does not depend on how many servers are eligible, because with the size every key would move.
pub fn slots(servers: usize) -> usize {
    let wanted = servers.saturating_mul(SLOTS_A_SERVER).clamp(1 << BITS.start(), 1 << BITS.end());
    wanted.next_power_of_two()
}

/// A table of `slots` (a power of two), as positions in `members`; it is the same whatever their order, but for the positions.
pub fn fill(members: &[Member], slots: usize) -> Box<[u32]> {
    let weights: u64 = members.iter().map(|member| u64::from(member.weight.get())).sum();
    if weights == 0 {
        return Box::default();
    }
    let mut order: Vec<u32> = (0..members.len() as u32).collect();
    order.sort_unstable_by_key(|position| (members[*position as usize].identity, *position));
    let mut race = Race::new(slots, members.len());
    let mut runs: Vec<Run> = order.iter().map(|position| Run::new(members[*position as usize])).collect();
    // Everybody runs for a while, in which there are half as many arrivals as slots, then for a while longer, until nothing is free; who
    // is first does not depend on the whiles. What they are good for: slots that were taken in earlier ones need no second look.
    let pause = (((slots as u64) << (MOMENT_BITS - 1)) / weights).max(1);
    while race.reached.len() < slots {
        for (rank, run) in runs.iter_mut().enumerate() {
            race.go_on(rank as u64, run, pause);
        }
        race.close(pause);
    }
    race.holders().map(|rank| order[rank]).collect()
}

/// One server's way through the slots: arrival `k` (from 0) is at a random moment between `k / weight` and `(k + 1) / weight`, at
/// a slot drawn from all. So the time until it is first at a slot is exponentially distributed, which makes chances proportional to
/// weights however few the servers are; going through each slot once would favour the heavy ones.
struct Run {
    identity: u64,
    weight: u64,
    /// The number of the next arrival.
    step: u64,
}

/// The slots, and who was first at them so far.
struct Race {
    /// For each slot that was reached: how long after the beginning of its while, and the rank of the server, in its lowest
    /// `rank_bits`. As the rank is the one by identity, the least of these numbers is of the first server, and of the one with the
    /// least identity among several. (Whiles last `slots * 2^31 / weights`, so this takes 53 bits at most.)
    first: Vec<u64>,
    rank_bits: u32,
    /// Slots that were not reached before this while.
    open: Bits,
    /// Slots that were reached, by while.
    reached: Vec<u32>,
    /// How many of them are not open.
    closed: usize,
    /// The end of the while before this one.
    since: u64,
}

impl Run {
    fn new(member: Member) -> Self {
        Self { identity: member.identity, weight: u64::from(member.weight.get()), step: 0 }
    }

    /// When an arrival is, times the weight; by the high bits of its number. The low ones say where.
    fn time(step: u64, number: u64) -> u64 {
        (step << MOMENT_BITS) + (number >> (u64::BITS - MOMENT_BITS))
    }
}

impl Race {
    fn new(slots: usize, servers: usize) -> Self {
        Self {
            first: vec![u64::MAX; slots],
            rank_bits: usize::BITS - servers.leading_zeros(),
            open: Bits::all(slots),
            reached: Vec::with_capacity(slots),
            closed: 0,
            since: 0,
        }
    }

    /// Lets a server arrive for so long.
    fn go_on(&mut self, rank: u64, run: &mut Run, pause: u64) {
        // The first time that is too late, and its step: no arrival of an earlier one is too late, and none of a later one is not.
        let end = (self.since + pause + 1) * run.weight;
        let last = end >> MOMENT_BITS;
        while run.step < last {
            let next = last.min(run.step + BATCH as u64);
            self.arrive(rank, run, run.step..next);
            run.step = next;
        }
        if run.step == last && Run::time(last, mix(run.identity, last)) < end {
            self.arrive(rank, run, last..last + 1);
            run.step += 1;
        }
    }

    /// A server's arrivals with these numbers, of which there are [`BATCH`] at most.
    fn arrive(&mut self, rank: u64, run: &Run, steps: Range<u64>) {
        let mask = self.first.len() - 1;
        let slot = |number: u64| number as usize & mask;
        // Those at slots that are open are gathered without a branch, as there is no telling which are.
        let mut arrivals = [(0, 0); BATCH];
        let mut count = 0;
        for step in steps {
            let number = mix(run.identity, step);
            arrivals[count % BATCH] = (step, number);
            count += usize::from(self.open.has(slot(number)));
        }
        for &(step, number) in &arrivals[..count] {
            let slot = slot(number);
            let after = Run::time(step, number) / run.weight - self.since;
            let first = &mut self.first[slot];
            if *first == u64::MAX {
                self.reached.push(slot as u32);
            }
            *first = (after << self.rank_bits | rank).min(*first);
        }
    }

    /// Ends the while: whoever comes later to a slot that was reached is not first.
    fn close(&mut self, pause: u64) {
        for slot in &self.reached[self.closed..] {
            self.open.remove(*slot as usize);
        }
        self.closed = self.reached.len();
        self.since += pause;
    }

    /// The ranks of those who were first.
    fn holders(&self) -> impl Iterator<Item = usize> {
        self.first.iter().map(|first| (first & ((1 << self.rank_bits) - 1)) as usize)
    }
}
