// SPDX-License-Identifier: MIT OR Apache-2.0
//! Maglev hashing (D. E. Eisenbud et al.: Maglev: A Fast and Reliable Software Network Load Balancer, NSDI 2016, section 3.4).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Member;
use super::bits::Bits;
use super::hash::{below, mix};

/// Sizes of tables, each good for a hundredth as many servers: the first primes above powers of two. Few and far between, because
/// all keys move when a backend outgrows its size.
const SIZES: [usize; 5] = [2_053, 16_411, 131_101, 1_048_583, 8_388_617];

/// Slots of the table for a backend with so many servers, of which only some may be eligible: a prime above a hundred times as many,
/// as long as there are no more than 83,886. A slot takes four bytes.
///
/// It does not depend on how many servers are eligible, because with the size every key would move.
pub fn slots(servers: usize) -> usize {
    SIZES.into_iter().find(|size| *size > servers.saturating_mul(100)).unwrap_or(SIZES[SIZES.len() - 1])
}

/// A table of `slots` (a prime), as positions in `members`; it is the same whatever their order, but for the positions.
///
/// Every member prefers slots in an order of its own, and takes the first free one when it is its turn. Turns come in proportion to
/// weights: turn `k` (from 0) of a member is at the time `k / weight`, so that everyone has a slot (if there are enough), at most one
/// more than its share, and less than its share by at most the hundredth part.
pub fn fill(members: &[Member], slots: usize) -> Box<[u32]> {
    let mut table = vec![u32::MAX; if members.is_empty() { 0 } else { slots }];
    let mut preferences: Vec<Preference> =
        members.iter().map(|member| Preference::new(member.identity, slots)).collect();
    let mut free = Bits::all(slots);
    let mut left = table.len();
    let mut turns = Turns::new(members);
    while left > 0 {
        let round = turns.next_round(members);
        for position in round.iter().take(left) {
            let slot =
                preferences[*position as usize].next_slot(slots as u32, |slot| free.has(slot as usize));
            free.remove(slot as usize);
            table[slot as usize] = *position;
        }
        left -= round.len().min(left);
    }
    table.into()
}

/// The order of turns: by time, and by identity among those at the same time.
///
/// Members of the same weight always have their turns at the same time. So it is classes of weights that wait for each other, and
/// each keeps its members in order.
struct Turns {
    classes: Vec<Class>,
    /// When it is the turn of a class, and its position in `classes`.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    /// Positions of members whose turn it is.
    round: Vec<u32>,
}

/// Members of one weight.
struct Class {
    weight: u16,
    /// Positions of members, by identity.
    members: Vec<u32>,
    /// How many turns each has had.
    turns: u64,
}

impl Turns {
    fn new(members: &[Member]) -> Self {
        let mut order: Vec<u32> = (0..members.len() as u32).collect();
        let by = |position: &u32| (members[*position as usize].weight, rank(members, *position));
        order.sort_unstable_by_key(by);
        let weight = |position: u32| members[position as usize].weight;
        let classes: Vec<Class> = order
            .chunk_by(|one, other| weight(*one) == weight(*other))
            .map(|class| Class { weight: weight(class[0]).get(), members: class.into(), turns: 0 })
            .collect();
        let due = (0..classes.len()).map(|class| Reverse((0, class))).collect();
        Self { classes, due, round: Vec::new() }
    }

    /// Positions of all members whose turn comes next, at the same time. None only if there are no members.
    fn next_round(&mut self, members: &[Member]) -> &[u32] {
        self.round.clear();
        let mut now = None;
        let mut classes = 0;
        while let Some(mut first) = self.due.peek_mut() {
            let Reverse((time, class)) = &mut *first;
            if *now.get_or_insert(*time) != *time {
                break;
            }
            let class = &mut self.classes[*class];
            class.turns += 1;
            *time = due(class.turns, class.weight);
            self.round.extend(&class.members);
            classes += 1;
        }
        if classes > 1 {
            // Not the unstable one: this one makes use of the order that each class is in.
            self.round.sort_by_key(|position| rank(members, *position));
        }
        &self.round
    }
}

/// What goes first among members whose turn comes at the same time.
fn rank(members: &[Member], position: u32) -> (u64, u32) {
    (members[position as usize].identity, position)
}

/// When a turn comes, as a number in the order of `turn / weight`: times of different weights that differ do so by more than 2^-32.
fn due(turn: u64, weight: u16) -> u64 {
    (turn << 32) / u64::from(weight)
}

/// The order in which a member prefers slots: every `skip`th, from an offset on. As their number is prime, that leads to all.
struct Preference {
    slot: u32,
    skip: u32,
}

impl Preference {
    fn new(identity: u64, slots: usize) -> Self {
        let [slot, skip] = [below(mix(identity, 1), slots), 1 + below(mix(identity, 2), slots - 1)];
        Self { slot: slot as u32, skip: skip as u32 }
    }

    /// The next slot that is free; there must be one.
    fn next_slot(&mut self, slots: u32, is_free: impl Fn(u32) -> bool) -> u32 {
        loop {
            let slot = self.slot;
            self.slot = if slot + self.skip < slots { slot + self.skip } else { slot + self.skip - slots };
            if is_free(slot) {
                return slot;
            }
        }
    }
}
