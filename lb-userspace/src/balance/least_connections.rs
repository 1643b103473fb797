// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fewest open connections for the weight.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Member, Places};

/// How often a pick starts over because another thread took or left a place on the server that it had found. After that it takes
/// the place if there still is one, though the server may no longer be the very least loaded.
const EXACT_ROUNDS: u32 = 4;

/// The server that would have the fewest connections for its weight with one more: the smallest `(connections + 1) / weight`, in
/// turn where several are equal. A pick looks at every server.
#[derive(Debug)]
pub struct LeastConnections {
    members: Box<[Member]>,
    /// The position in `members` that wins among equals.
    turn: AtomicUsize,
}

impl LeastConnections {
    /// Over `members`; `turn` is the position of the first to win among equals (any number: it wraps).
    pub fn new(members: Vec<Member>, turn: usize) -> Self {
        let turn = turn.checked_rem(members.len()).unwrap_or(0);
        Self { members: members.into_boxed_slice(), turn: AtomicUsize::new(turn) }
    }

    /// Takes a place on the least loaded server.
    pub fn pick(&self, places: &impl Places) -> Option<usize> {
        let mut round = 0;
        loop {
            let (position, load) = self.least_loaded(places)?;
            let index = self.members[position].index;
            round += 1;
            let is_taken =
                if round <= EXACT_ROUNDS { places.take_at(index, load) } else { places.take(index) };
            if is_taken {
                self.turn.store(position + 1, Ordering::Relaxed);
                return Some(index);
            }
        }
    }

    /// Where the rotation stands.
    pub fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Position and load of the first least loaded server, counted from the one whose turn it is.
    fn least_loaded(&self, places: &impl Places) -> Option<(usize, u32)> {
        let (before, after) = self.members.split_at(self.turn().min(self.members.len()));
        let from_turn = (before.len()..).zip(after).chain((0..).zip(before));
        let mut least: Option<(usize, u32, u64)> = None;
        for (position, member) in from_turn {
            let Some(load) = places.load(member.index) else { continue };
            let weight = u64::from(member.weight.get());
            let is_less = least.is_none_or(|(_, least_load, least_weight)| {
                (u64::from(load) + 1) * least_weight < (u64::from(least_load) + 1) * weight
            });
            if is_less {
                least = Some((position, load, weight));
            }
        }
        least.map(|(position, load, _)| (position, load))
    }
}
