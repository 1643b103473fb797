// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long what goes on to an end takes to be acknowledged: a stopwatch for each end.
//!
//! From the flip on one byte is timed at a time, from when it goes on to the end for the first time until the end acknowledges it. What is
//! sent again with that byte or before it ends that without a result, for nobody knows what an acknowledgement is of then (Karn's algorithm,
//! RFC 6298 section 3). So it takes no timestamps, which many ends lack; nor would they do: all segments of a tick have the same TSval, and a tick is
//! a millisecond at best (RFC 7323 section 5.4), so that an echo may be of a segment that left before.
//!
//! **What a time is made of**: both ways between balancer and end, what waits there and on this host, and how long the end waits before
//! it acknowledges: up to half a second (RFC 9293 section 3.8.6.3), with Linux 40 ms where only little comes. Each second segment of full size
//! is acknowledged at once, and what the end sends itself has the acknowledgement with it. So the shortest time is nearly that of the
//! way, and the smoothed one tells of queues, as the numbers of `ss` do.

use super::{End, TIMED, TIMESTAMP_SEEN, TIMESTAMP_SENT};
use crate::packet::sequence::{is_at_most, is_before, later};

/// Nanoseconds of a tick, in which times are kept: a power of two, so that programs shift and do not divide. 32 bits of them are 73 minutes.
pub const TICK_NS: u64 = 1 << TICK_SHIFT;

const TICK_SHIFT: u32 = 10;

/// Ticks from one beginning to the next, at least: 268 ms.
const INTERVAL_TICKS: u32 = 1 << 18;

/// A new time counts one part of so many in [`RoundTrip::smoothed`] (RFC 6298 section 2.3).
const PARTS: u32 = 8;

/// Most ticks of a time, for which [`RoundTrip::smoothed`] has room: 550 seconds. More is none: the clock of a segment is read before the lock of its flow is
/// taken, so that an end which acknowledges what it has not got yet may be in front of it.
const TICKS_MAX: u32 = u32::MAX / PARTS;

/// What was measured of an end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// The smoothed time, in eighths of a tick, as Linux has it (net/ipv4/tcp_input.c, tcp_rtt_estimator); 0: none yet.
    pub smoothed: u32,
    /// The shortest time, in ticks; 0: none yet.
    pub shortest: u32,
}

impl RoundTrip {
    /// Nothing was measured yet.
    pub const NONE: Self = Self { smoothed: 0, shortest: 0 };

    /// The smoothed time (RFC 6298 section 2) in nanoseconds; `None`: nothing was measured yet.
    pub const fn smoothed_ns(&self) -> Option<u64> {
        if self.smoothed == 0 { None } else { Some(self.smoothed as u64 * TICK_NS / PARTS as u64) }
    }

    /// The shortest time in nanoseconds, likewise.
    pub const fn shortest_ns(&self) -> Option<u64> {
        if self.shortest == 0 { None } else { Some(self.shortest as u64 * TICK_NS) }
    }

    /// Takes in a time. Less than a tick is one, so that 0 is none.
    #[inline(always)]
    const fn note(&mut self, ticks: u32) {
        let ticks = if ticks == 0 { 1 } else { ticks };
        if self.smoothed == 0 {
            (self.smoothed, self.shortest) = (ticks * PARTS, ticks);
            return;
        }
        self.smoothed = self.smoothed - self.smoothed / PARTS + ticks;
        if ticks < self.shortest {
            self.shortest = ticks;
        }
    }
}

impl End {
    /// From here on times are measured: what the flow had to know of timestamps is in its translations, and makes room.
    #[inline(always)]
    pub(super) const fn reset_stopwatch(&mut self, now_ns: u64) {
        self.marks &= !(TIMESTAMP_SEEN | TIMESTAMP_SENT | TIMED);
        self.timestamp_sent = ticks(now_ns).wrapping_sub(INTERVAL_TICKS);
    }

    /// Bytes from this number on go to the end, of which some are new, or none. To be asked before [`End::sent`] counts them.
    #[inline(always)]
    pub(super) const fn time_sent(&mut self, first: u32, is_new: bool, now_ns: u64) {
        if self.has(TIMED) || (is_new && ticks(now_ns).wrapping_sub(self.timestamp_sent) >= INTERVAL_TICKS) {
            self.start_or_spoil(first, now_ns);
        }
    }

    /// The end may have acknowledged something new.
    #[inline(always)]
    pub(super) const fn time_acknowledged(&mut self, now_ns: u64) {
        if self.has(TIMED) {
            self.stop(now_ns);
        }
    }

    // What few segments do is done in functions of their own: all ways through them come to the same for who calls, and the verifier of BPF
    // programs follows only one of them any further.

    #[inline(never)]
    const fn start_or_spoil(&mut self, first: u32, now_ns: u64) {
        if !self.has(TIMED) {
            (self.timestamp, self.timestamp_sent) = (later(first, self.sent), ticks(now_ns));
            self.marks |= TIMED;
        } else if is_at_most(first, self.timestamp) {
            self.marks &= !TIMED;
        }
    }

    #[inline(never)]
    const fn stop(&mut self, now_ns: u64) {
        if is_before(self.timestamp, self.acknowledged) {
            self.marks &= !TIMED;
            let time = ticks(now_ns).wrapping_sub(self.timestamp_sent);
            if time <= TICKS_MAX {
                self.round_trip.note(time);
            }
        }
    }
}

#[inline(always)]
const fn ticks(now_ns: u64) -> u32 {
    (now_ns >> TICK_SHIFT) as u32
}
