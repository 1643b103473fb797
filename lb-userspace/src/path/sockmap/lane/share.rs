// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the program may do with a direction, and what of the memory the direction has for that.

use lb_common::layout::{Allowed, Moved};

use super::Lane;
use crate::path::sockmap::legs::Legs;

impl Lane {
    /// Whether it cannot go on with the share that it has: as much waits, or a segment was turned away because nothing is left beyond the
    /// shares, or it has none and moves more than one segment before it rests. Who moves again has what a direction has that begins, if there is so
    /// much.
    pub(super) fn is_short(&mut self, legs: &Legs, moved: &Moved, inside: u64) -> bool {
        let is_called = moved.rung == self.round;
        if is_called && self.is_dozing {
            self.grant.begin();
        }
        let is_moving = inside > 0 || is_called && !self.is_dozing;
        is_moving && inside >= self.grant.share || legs.crowded_out(self.sender) == self.round
    }

    /// Begins a round: tells the program what it may do from here on.
    pub(super) fn answer(&mut self, legs: &Legs) {
        self.begin_round(legs, self.allowed());
    }

    /// Begins a round in which the program is not called: the receive buffer bounds what comes, whatever others have waiting.
    pub(super) fn open(&mut self, legs: &Legs) {
        self.begin_round(legs, Allowed { pause_at: u64::MAX, ..self.allowed() });
    }

    /// Begins a round in which the program calls for the next segment.
    pub(super) fn call_next(&mut self, legs: &Legs) {
        self.begin_round(legs, Allowed { call_at: 0, ..self.allowed() });
        self.is_dozing = true;
    }

    fn begin_round(&mut self, legs: &Legs, allowed: Allowed) {
        self.round += 1;
        self.is_dozing = false;
        legs.allow(self.sender, &Allowed { round: self.round, ..allowed });
    }

    fn allowed(&self) -> Allowed {
        let granted = self.grant.allowed(self.round, self.look_at());
        Allowed { outside: self.pump.spliced, freed: self.freed, ..granted }
    }
}
