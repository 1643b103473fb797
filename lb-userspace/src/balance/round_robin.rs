// SPDX-License-Identifier: MIT OR Apache-2.0
//! Weighted round-robin over a precomputed cycle.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Member, Places, sequence};

/// Turns beyond one a server that are looked at for one that lets itself be taken, before weights are left out of account.
/// Bounds the cost of a pick when nearly every server is full and weights differ much.
const WALK_MAX: usize = 512;

/// Servers in turn, as often as their weights say, as evenly as [`sequence`] makes it. A pick is one atomic addition.
pub struct RoundRobin {
    cycle: Box<[u32]>,
    /// Each server once.
    servers: Box<[u32]>,
    turn: AtomicUsize,
    /// The rotation of connections that failed elsewhere.
    again: AtomicUsize,
    /// Where the search without weights goes on, as a position in `servers`.
    overflow: AtomicUsize,
}

impl RoundRobin {
    /// Over `members`; `turn` is the position in the cycle that is next (any number: it wraps).
    pub fn new(members: &[Member], turn: usize) -> Self {
        Self {
            cycle: sequence(members),
            servers: members.iter().map(|member| member.index as u32).collect(),
            turn: AtomicUsize::new(turn),
            again: AtomicUsize::new(0),
            overflow: AtomicUsize::new(0),
        }
    }

    /// Takes a place on the server whose turn it is, or on the next that lets itself be taken.
    pub fn pick(&self, places: &impl Places) -> Option<usize> {
        if self.cycle.is_empty() {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let server = self.server_at(turn);
        if places.take(server) { Some(server) } else { self.pick_after(turn, places) }
    }

    /// Takes a place for a connection whose turn led to a server that failed. These have a rotation of their own: in the common one
    /// they would keep in step with the failing server, so that every connection meets it, or hand all its turns to the next.
    pub fn pick_again(&self, places: &impl Places, tried: &[usize]) -> Option<usize> {
        if self.cycle.is_empty() {
            return None;
        }
        let turn = self.again.load(Ordering::Relaxed);
        for step in 0..self.steps() {
            let server = self.server_at(turn.wrapping_add(step));
            if !tried.contains(&server) && places.take(server) {
                self.again.store(turn.wrapping_add(step + 1), Ordering::Relaxed);
                return Some(server);
            }
        }
        if self.steps() == self.cycle.len() { None } else { self.pick_any(places, tried) }
    }

    /// Turns that are looked at.
    fn steps(&self) -> usize {
        self.cycle.len().min(self.servers.len() + WALK_MAX)
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
        self.cycle.is_empty()
    }

    fn server_at(&self, turn: usize) -> usize {
        self.cycle[turn % self.cycle.len()] as usize
    }

    /// Goes on in the cycle after `turn`, whose server was full.
    #[cold]
    fn pick_after(&self, turn: usize, places: &impl Places) -> Option<usize> {
        let steps = self.steps();
        for step in 1..steps {
            let server = self.server_at(turn.wrapping_add(step));
            if places.take(server) {
                self.skip(turn, step);
                return Some(server);
            }
        }
        if steps == self.cycle.len() { None } else { self.pick_any(places, &[]) }
    }

    /// Uses up the turns that were passed over. Otherwise the server that comes next in the cycle would get all the turns of a full
    /// one. If another thread has moved on meanwhile, its position is as good.
    fn skip(&self, turn: usize, steps: usize) {
        let next = turn.wrapping_add(1);
        let _ =
            self.turn.compare_exchange(next, next.wrapping_add(steps), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// In turn without weights, each server once.
    fn pick_any(&self, places: &impl Places, tried: &[usize]) -> Option<usize> {
        let count = self.servers.len();
        let start = self.overflow.load(Ordering::Relaxed);
        let is_taken = |server: usize| !tried.contains(&server) && places.take(server);
        let position = (start..start + count)
            .map(|position| position % count)
            .find(|position| is_taken(self.servers[*position] as usize))?;
        self.overflow.store(position + 1, Ordering::Relaxed);
        Some(self.servers[position] as usize)
    }
}

impl fmt::Debug for RoundRobin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A cycle may have tens of thousands of turns.
        f.debug_struct("RoundRobin")
            .field("servers", &self.servers.len())
            .field("cycle", &self.cycle.len())
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}
