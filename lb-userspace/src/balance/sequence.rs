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
    let mut turns = vec![0; members.len()];
    // The slot before which a member must have had so many turns, and in which it may have one more.
    let border = |turns: u64, position: usize| (turns * length).div_ceil(shares[position]);
    // Positions of members: by slot in which their next turn may come, and the most urgent first once it may.
    let mut coming = vec![Vec::new(); length as usize];
    coming[0].extend(0..members.len());
    let mut urgent = BinaryHeap::new();
    let mut order = Vec::with_capacity(length as usize);
    for slot in 0..length as usize {
        let released = std::mem::take(&mut coming[slot]).into_iter();
        urgent.extend(released.map(|position| Reverse((border(turns[position] + 1, position), position))));
        // Up to and including this slot more turns may come than slots have passed, so there always is one.
        let Some(Reverse((_, position))) = urgent.pop() else { break };
        order.push(members[position].index as u32);
        turns[position] += 1;
        if turns[position] < shares[position] {
            coming[border(turns[position], position) as usize].push(position);
        }
    }
    order.into_boxed_slice()
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
