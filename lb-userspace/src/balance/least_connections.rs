// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fewest open connections for the weight.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::summary::{Fold, Least, Summary};
use super::{Member, Places};

/// How often a pick starts over because another thread took or left a place on the server that it had found. After that it takes
/// the place if there still is one, though the server may no longer be the very least loaded.
const EXACT_ROUNDS: u32 = 4;

/// How often a pick looks into the tree at all. After that it looks at every server.
const ROUNDS: u32 = 16;

/// The server that would have the fewest connections for its weight with one more: the smallest `(connections + 1) / weight`, in
/// turn where several are equal.
///
/// A pick costs the logarithm of the number of servers: what servers would have stands in a tree, which follows every place that is
/// taken or given back. **As long as no other thread takes or gives back a place meanwhile, the choice is exact.** Otherwise it is
/// the least loaded server of some moment during the pick, or, of many threads that want the same one, another that was the least
/// loaded shortly before. Whatever the threads did, the tree is exact again as soon as they have done it: nothing adds up.
#[derive(Debug)]
pub struct LeastConnections {
    /// Those that take part; by position in the backend.
    weights: Box<[Option<NonZeroU16>]>,
    /// What each server would have for its weight, by position in the backend.
    tree: Summary<Least>,
    /// The position in the backend that wins among equals.
    turn: AtomicUsize,
}

impl LeastConnections {
    /// Over `members`; `turn` is the position of the first to win among equals.
    pub fn new(members: &[Member], turn: usize, places: &impl Places) -> Self {
        let mut weights = vec![None; members.iter().map(|member| member.index + 1).max().unwrap_or(0)];
        members.iter().for_each(|member| weights[member.index] = Some(member.weight));
        let tree = Summary::new(weights.len(), |index| cost_of(weights[index], index, places));
        Self { weights: weights.into(), tree, turn: AtomicUsize::new(turn) }
    }

    /// Takes a place on the least loaded server that is not among `tried`.
    pub fn pick(&self, places: &impl Places, tried: &[usize]) -> Option<usize> {
        for round in 0..ROUNDS {
            let least = self.tree.least(tried);
            if least == Least::NONE {
                break;
            }
            let from = |start| self.tree.first(start, least, tried);
            // Without a find, another thread has raised what was the least: so we look again.
            let Some(index) = from(self.turn()).or_else(|| from(0)) else { continue };
            let load = places.load(index);
            let is_taken = if round < EXACT_ROUNDS {
                load < places.limit(index) && places.take_at(index, load)
            } else {
                places.take(index)
            };
            // If it was not taken, what the tree says of it is outdated: whoever is first puts that right.
            self.settle(index, places);
            if is_taken {
                self.turn.store(index + 1, Ordering::Relaxed);
                return Some(index);
            }
        }
        self.pick_any(places, tried)
    }

    /// Takes notice of a load that has changed.
    pub fn settle(&self, index: usize, places: &impl Places) {
        if let Some(weight) = self.weights.get(index) {
            self.tree.settle(index, || cost_of(*weight, index, places));
        }
    }

    /// Takes notice of all loads.
    pub fn settle_all(&self, places: &impl Places) {
        (0..self.weights.len()).for_each(|index| self.settle(index, places));
    }

    /// Where the rotation stands.
    pub fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// Lets the rotation go on from there.
    pub fn set_turn(&self, turn: usize) {
        self.turn.store(turn, Ordering::Relaxed);
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Looks at every server, because the tree knows of no open one, or others were quicker so often. A place may have been given
    /// back of which the tree does not know everywhere yet: nobody is to be refused for that, or to be left waiting for it.
    #[cold]
    fn pick_any(&self, places: &impl Places, tried: &[usize]) -> Option<usize> {
        let cost = |index: &usize| cost_of(self.weights[*index], *index, places);
        let open = |index: &usize| cost(index) != Least::NONE && !tried.contains(index);
        let mut open: Vec<usize> = (0..self.weights.len()).filter(open).collect();
        open.sort_by_cached_key(cost);
        let index = open.into_iter().find(|index| places.take(*index))?;
        self.settle(index, places);
        self.turn.store(index + 1, Ordering::Relaxed);
        Some(index)
    }
}

/// `(connections + 1) / weight` as a number that is in the same order, or [`Fold::NONE`] for a server that is full or takes no part.
///
/// Two such fractions that differ do so by at least one over the product of their weights, which is more than 2^-32. So they differ
/// by more than 1 when multiplied with 2^32, and rounding down keeps their order.
fn cost_of(weight: Option<NonZeroU16>, index: usize, places: &impl Places) -> u64 {
    let load = places.load(index);
    match weight {
        Some(weight) if load < places.limit(index) => {
            (u64::from(load) + 1).saturating_mul(1 << 32).min(Least::NONE - 1) / u64::from(weight.get())
        }
        _ => Least::NONE,
    }
}
