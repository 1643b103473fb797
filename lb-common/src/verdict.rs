// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs of path `sockmap` decide of a segment. Pure, so that the host can test it.
//!
//! The kernel neither counts nor bounds what waits for a socket that takes nothing (net/core/skmsg.c, sk_psock_skb_redirect). So
//! the program counts: what it has handed over, less what the target has put into its send queue, waits. Beyond one mark it calls
//! user space, which takes the sender's socket out of its hands until the receiver has caught up. Beyond a second one, a filter on the
//! sender's socket turns segments away before TCP has seen them: nothing is lost, for the sender has to send them again. So it does with
//! what would wait beyond the first mark once all directions together have used up what there is for that: else each of thousands that had
//! nothing waiting could bring a segment, and what TCP holds. So the bound holds whenever user space comes, and never costs a connection.
//!
//! The program never leaves a segment to user space (SK_PASS): the kernel bounds what it passes only as long as the socket has nothing to
//! send (sk_psock_verdict_apply), and a socket that has passed something cannot be taken out of the map any more without a loss.

use crate::layout::{Allowed, Moved};

/// What a segment costs besides its payload, in bytes: the kernel holds so much for a single byte, and for a full frame what this and
/// the payload make together (sk_buff, headers, the rounding of its head).
pub const CHARGE_OVERHEAD: u64 = 1024;

/// A direction looks what its target has accepted once this part of what may wait seems to do so, or this many bytes of cost: each look
/// takes the target by its reference count.
const LOOK_PART: u64 = 4;
const LOOK_MAX: u64 = 256 << 10;

/// What so many bytes cost that came in so many segments, as the kernel has counted them.
#[inline(always)]
pub const fn charge(len: u32, segments: u32) -> u64 {
    len as u64 + CHARGE_OVERHEAD * counted(segments)
}

/// How many bytes at the head of a segment that begins with number `seq` have been taken already, when the next byte to take has number
/// `copied_seq`; `None`: bytes are missing in front of it.
///
/// TCP queues what overlaps with what it has as it came (net/ipv4/tcp_input.c, tcp_data_queue and tcp_ofo_queue), and whoever reads skips the
/// head. The kernel hands whole segments to the program (net/ipv4/tcp.c, tcp_read_skb), so that the program has to skip it.
#[inline(always)]
pub const fn taken(copied_seq: u32, seq: u32) -> Option<u32> {
    let taken = copied_seq.wrapping_sub(seq);
    if taken > u32::MAX / 2 { None } else { Some(taken) }
}

/// How many segments these are; 0: the kernel has not counted them, because there was one.
#[inline(always)]
pub const fn counted(segments: u32) -> u64 {
    if segments == 0 { 1 } else { segments as u64 }
}

/// Whether the program must look what the target has accepted before it counts on.
#[inline(always)]
pub const fn must_look(moved: &Moved, allowed: &Allowed) -> bool {
    let part = allowed.pause_at / LOOK_PART;
    moved.redirected == 0 || moved.inside() >= if part < LOOK_MAX { part } else { LOOK_MAX }
}

/// Whether user space has to be called.
#[inline(always)]
pub const fn rings(moved: &Moved, allowed: &Allowed) -> bool {
    (moved.redirected >= allowed.call_at || moved.inside() >= allowed.pause_at) && moved.rung != allowed.round
}

/// What the direction has waiting beyond its share.
#[inline(always)]
pub const fn overdraft(moved: &Moved, allowed: &Allowed) -> u64 {
    moved.inside().saturating_sub(allowed.pause_at)
}

/// What the direction's part of the overdraft is short of that; wraps when it is less. User space takes back at any time what no segment
/// will, and if both count at the same moment, the next one sets it right.
#[inline(always)]
pub const fn draws(moved: &Moved, allowed: &Allowed) -> u64 {
    overdraft(moved, allowed).wrapping_sub(moved.overdrawn.wrapping_sub(allowed.taken_back))
}

/// Whether further segments have to be turned away, when all directions together have `overdraft` waiting beyond their shares and may have
/// `overdraft_max`. Only of who has called: its call ends it.
#[inline(always)]
pub const fn stops(moved: &Moved, allowed: &Allowed, overdraft: i64, overdraft_max: i64) -> bool {
    moved.rung == allowed.round
        && (moved.inside() >= allowed.stop_at
            || (moved.inside() > allowed.pause_at && overdraft >= overdraft_max))
}

/// Whether TCP may have a segment with so much payload. In round 0 it may not.
#[inline(always)]
pub const fn admits(stopped: u64, allowed: &Allowed, payload: u32) -> bool {
    payload == 0 || (allowed.round != 0 && stopped != allowed.round)
}

/// Whether a segment with so much payload, which came in so many, would wait beyond the direction's share, as far as can be told without a
/// look at the target. Then it depends on what others have waiting whether TCP may have it.
#[inline(always)]
pub const fn overdraws(charged: u64, released: u64, allowed: &Allowed, payload: u32, segments: u32) -> bool {
    let free = if released > allowed.freed { released } else { allowed.freed };
    charged.saturating_sub(free) + charge(payload, segments) > allowed.pause_at
}

impl Moved {
    /// Takes in the target's `write_seq`, the number of the next byte that it will accept (struct tcp_sock, include/linux/tcp.h), of which
    /// user space has made it accept so many itself ([`Allowed::outside`]).
    ///
    /// What waits is known in bytes, its cost is not. So there is a mark: once all bytes up to it have been accepted, what they cost
    /// is free, and the mark moves to what has been handed over by then.
    #[inline(always)]
    pub const fn look(&mut self, write_seq: u32, outside: u64) {
        let write_seq = write_seq.wrapping_sub(outside as u32);
        if self.redirected == 0 {
            self.base = write_seq as u64;
        }
        let waiting = (self.base as u32).wrapping_add(self.redirected as u32).wrapping_sub(write_seq);
        // More than half of all numbers: it has accepted what is not of this direction, such as its FIN.
        let waiting = if waiting > u32::MAX / 2 { 0 } else { waiting };
        self.accepted = self.redirected.saturating_sub(waiting as u64);
        self.released = self.released_by(self.accepted);
        if self.accepted >= self.mark_redirected {
            self.mark_redirected = self.redirected;
            self.mark_charged = self.charged;
        }
    }

    /// Counts what has been handed to the target.
    #[inline(always)]
    pub const fn add(&mut self, len: u32, segments: u32) {
        self.charged += charge(len, segments);
        self.redirected += len as u64;
        self.segments += 1;
    }

    /// The most that may be waiting, in bytes of cost.
    #[inline(always)]
    pub const fn inside(&self) -> u64 {
        self.charged.saturating_sub(self.released)
    }

    /// The same when the target has accepted so many bytes.
    pub const fn inside_after(&self, accepted: u64) -> u64 {
        self.charged.saturating_sub(self.released_by(accepted))
    }

    #[inline(always)]
    const fn released_by(&self, accepted: u64) -> u64 {
        if accepted >= self.redirected {
            self.charged
        } else if accepted >= self.mark_redirected && self.mark_charged > self.released {
            self.mark_charged
        } else {
            self.released
        }
    }
}

#[cfg(test)]
mod tests;
