// SPDX-License-Identifier: MIT OR Apache-2.0
//! The order of turns in one cycle of a weighted round-robin, as even as it can be.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Member;

/// Most turns of a cycle, as long as there are no more servers than that: a cycle takes at most 256 KiB. Weights that add up to more
/// are scaled down and rounded to whole turns, at least one.
pub const SEQUENCE_MAX: usize = 65_536;

/// One cycle of turns, each the position of a server in its backend ([`Member::index`]).
///
/// After any number of turns every server has had its share, rounded down or up: it is off by less than one turn. (That is the quota
/// condition of the chairman assignment problem: R. Tijdeman, Discrete Mathematics 32, 1980.) Earliest deadline first achieves it:
/// turn `k` (from 0) of a server with `share` turns in a cycle of `length` must come in a slot from
/// `ceil(k * length / share)` up to but without `ceil((k + 1) * length / share)`. No stretch of slots has more such windows
/// inside it than slots, so that order meets every deadline.
pub fn sequence(members: &[Member]) -> Box<[u32]> {
    let shares = shares(members);
    let length: u64 = shares.iter().sum();
    if length == members.len() as u64 {
        return members.iter().map(|member| member.index as u32).collect();
    }
    let turn = |position: usize, k: u64| Turn {
        release: (k * length).div_ceil(shares[position]),
        deadline: ((k + 1) * length).div_ceil(shares[position]),
        position,
        k,
    };
    let mut ready: BinaryHeap<Reverse<(u64, usize, u64)>> =
        (0..members.len()).map(|position| Reverse(turn(position, 0).urgency())).collect();
    let mut waiting: BinaryHeap<Reverse<Turn>> = BinaryHeap::new();
    let mut order = Vec::with_capacity(length as usize);
    for slot in 0..length {
        while waiting.peek().is_some_and(|Reverse(turn)| turn.release <= slot) {
            ready.extend(waiting.pop().map(|Reverse(turn)| Reverse(turn.urgency())));
        }
        // Up to and including this slot more turns are released than slots have passed, so there always is one.
        let Some(Reverse((_, position, k))) = ready.pop() else { break };
        order.push(members[position].index as u32);
        if k + 1 < shares[position] {
            waiting.push(Reverse(turn(position, k + 1)));
        }
    }
    order.into_boxed_slice()
}

/// One turn of one server, ordered by its release.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// The first slot that it may have.
    release: u64,
    /// The slot before which it must come.
    deadline: u64,
    /// Whose turn it is, as a position among the members.
    position: usize,
    /// Which of its turns, from 0.
    k: u64,
}

impl Turn {
    /// What the next turn is chosen by: the smallest goes first.
    fn urgency(self) -> (u64, usize, u64) {
        (self.deadline, self.position, self.k)
    }
}

/// Turns of each member in one cycle: the weights in their lowest terms, scaled to [`SEQUENCE_MAX`] if they add up to more.
fn shares(members: &[Member]) -> Vec<u64> {
    let weights = || members.iter().map(|member| u64::from(member.weight.get()));
    let divisor = weights().fold(0, gcd).max(1);
    let total: u64 = weights().sum::<u64>() / divisor;
    if total <= SEQUENCE_MAX as u64 {
        return weights().map(|weight| weight / divisor).collect();
    }
    // Raising a share to 1 adds less than one turn a member: room for that is kept, so the sum stays within the bound.
    let room = (SEQUENCE_MAX as u64).saturating_sub(members.len() as u64);
    let total = total * divisor;
    weights().map(|weight| ((weight * room + total / 2) / total).max(1)).collect()
}

/// Greatest common divisor (Euclid); `gcd(0, b)` is `b`.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
