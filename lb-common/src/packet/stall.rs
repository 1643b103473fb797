// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows that stand still because what an end sends cannot be translated. After the flip there is no socket for such a packet: it is dropped, and its end
//! sends again. Most send others then; one that does not would wait until it gives up. So the agent ends the flow with resets once a packet was dropped
//! that is an end's own, another one [`PATIENCE_MS`] later or after that, and nothing of the flow has moved in between.
//!
//! **Whose a packet is.** Anybody can send one with the addresses and ports of a flow. So it counts only with exactly the number of the end's next byte, or of the
//! first that was not acknowledged, and with an acknowledgement of what was sent. Whoever knows these can reset the flow as well, with one segment
//! (RFC 5961 section 3.2, [`End::is_reset`](super::flow::End::is_reset)), and on one that moves they are others before the time has passed. A later fragment has no numbers.
//! The checksum is not looked at, for a fragment has only a part of what it is over: what was damaged twice, as long as nothing else gets through, was sent in vain anyway.
//!
//! **What is at stake.** Only payload and FIN that the end has sent, or its answer to those of the other end. Answers to questions whether somebody is there (keepalive) end nothing:
//! whoever asks gives up by himself.
//!
//! **What moves** is the flow: bytes or an end of either direction. While one goes on, the other may stand still.

use super::flow::{Segment, Side};
use super::record::{Record, STALLED};

/// How long a flow may stand still after a packet of an end's own was dropped, in milliseconds: Linux sends again after 0.2 seconds, 0.6, 1.4, 3 and
/// 6.2, others after 1, 3 and 7 (RFC 6298 section 2).
pub const PATIENCE_MS: u32 = 5_000;

impl Record {
    /// Notes a packet that came from a side after the flip and is dropped; whether user space has to be called, because the flow has stalled.
    #[inline(always)]
    pub(super) const fn note_dropped(&mut self, from: Side, segment: &Segment, now_ns: u64) -> bool {
        if !self.is_own(from, segment) {
            return false;
        }
        if !self.stands_still(now_ns) {
            let now_ms = milliseconds(now_ns) as u32;
            self.stalled_ms = if now_ms == 0 { 1 } else { now_ms };
            self.flags &= !STALLED;
            return false;
        }
        // Once is enough.
        if self.flags & STALLED != 0 || self.still_ms(now_ns) < PATIENCE_MS {
            return false;
        }
        self.flags |= STALLED;
        self.call()
    }

    /// Whether the flow has stalled, and nothing has moved it since; at a time of the programs' clock.
    pub const fn is_stalled(&self, now_ns: u64) -> bool {
        self.flags & STALLED != 0 && self.stands_still(now_ns)
    }

    /// Whether a segment is the end's, as far as numbers can say, and something is at stake.
    #[inline(always)]
    const fn is_own(&self, from: Side, segment: &Segment) -> bool {
        let (end, other) = (self.flow.end(from), self.flow.end(from.other()));
        end.is_acceptable(segment, self.translation(from).shift_from)
            && end.is_edge(segment.sequence)
            && (segment.is_occupied() || other.is_waiting())
            && !self.flow.is_over()
    }

    /// Whether nothing has moved since [`Record::stalled_ms`]. What has in the same millisecond may have come later.
    #[inline(always)]
    const fn stands_still(&self, now_ns: u64) -> bool {
        let unmoved_ms = milliseconds(now_ns).saturating_sub(milliseconds(self.flow.seen_ns));
        self.stalled_ms != 0 && (self.still_ms(now_ns) as u64) < unmoved_ms
    }

    /// Milliseconds since then. They are others after 49 days: so long ago nobody has dropped anything of a flow that stands still, for it was cut.
    #[inline(always)]
    const fn still_ms(&self, now_ns: u64) -> u32 {
        (milliseconds(now_ns) as u32).wrapping_sub(self.stalled_ms)
    }
}

#[inline(always)]
const fn milliseconds(ns: u64) -> u64 {
    ns / 1_000_000
}
