// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a direction shows of what it carries.

use lb_common::layout::Moved;

use super::{Backpressure, Lane, Sight};
use crate::net;
use crate::path::sockmap::legs::Legs;
use crate::path::sockmap::pace::Look;

impl Lane {
    /// With how many bytes that the program has handed over there is something to look for: never, where nothing would come of it.
    pub(super) fn look_at(&self) -> u64 {
        match self.backpressure {
            Backpressure::Outside => self.pace.look_at(),
            Backpressure::Inside => u64::MAX,
        }
    }

    /// How often user space has found bytes of this direction to move.
    pub(in super::super) fn takes(&self) -> u64 {
        self.pump.takes
    }

    /// What there is to see, when the program has moved so much, or a little more by now.
    pub(super) fn look(&self, legs: &Legs, moved: &Moved, sight: &Sight<'_>) -> Look {
        let receiver = self.sender.other();
        let socket = legs.socket(receiver);
        // In this order, so that whatever comes meanwhile makes nothing more of it. A socket that is gone has acknowledged all that it ever will.
        let unacknowledged = net::unacknowledged_bytes(socket).unwrap_or(0);
        let accepted = net::tcp_info(socket).map_or(u64::MAX, |info| info.accepted);
        let come = moved.redirected + self.pump.spliced;
        Look {
            bytes: moved.redirected,
            segments: moved.segments,
            answers: legs.moved(receiver).segments + sight.answers_outside,
            under_way: (come + u64::from(unacknowledged))
                .saturating_sub(accepted.wrapping_sub(self.basis.accepted)),
            now: sight.now,
        }
    }
}
