// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a direction in which nothing moves: the program has it again.

use super::{Entry, Lane, State};
use crate::net;
use crate::path::sockmap::legs::Legs;

impl Lane {
    /// Nothing moves, and neither side has ended: leaves the direction to the program again; whether there is something new to look at.
    pub(in super::super) fn rejoin(&mut self, legs: &Legs) -> bool {
        if self.state != State::Withdrawn || self.backlog > 0 || self.pump.is_holding() {
            return false;
        }
        let socket = legs.socket(self.sender);
        // In this order: what comes in between is in the queue.
        let received = net::tcp_info(socket).map_or(0, |info| info.received.wrapping_sub(self.basis.taken));
        let is_empty = net::received_memory(socket).is_ok_and(|bytes| bytes == 0);
        let moved = legs.moved(self.sender).redirected + self.pump.spliced;
        // A FIN counts as one.
        self.has_lost = is_empty && received > moved + 1;
        if is_empty && !self.has_lost && self.enter(legs) != Entry::Inside {
            self.grant.end();
        }
        self.has_lost || self.state == State::Hooked
    }

    /// Nothing moves: gives back what an idle direction does not need, and has the program call for the next segment. So a flow that
    /// moves again is looked at, and counted, however little waits.
    pub(in super::super) fn doze(&mut self, legs: &Legs) {
        if self.state == State::Hooked && self.backlog == 0 && !self.is_dozing {
            self.grant.rest();
            self.call_next(legs);
        }
    }
}
