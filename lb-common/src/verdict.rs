// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the program of path `sockmap` decides of a segment. Pure, so that the host can test it.
//!
//! The kernel neither counts nor bounds what waits for a socket that takes nothing (net/core/skmsg.c, sk_psock_skb_redirect). So
//! the program counts what it hands over, and calls user space in time, which takes the socket out of its hands until the receiver has
//! caught up. Should user space not come, the program stops at a limit.
//!
//! It never leaves a segment to user space (SK_PASS): the kernel bounds what it passes only as long as the socket has nothing to send
//! (sk_psock_verdict_apply), and a socket that has passed something cannot be taken out of the map any more without a loss.

use crate::layout::{Allowed, Moved};

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the target.
    Redirect,
    /// It is thrown away, and the flow with it: user space has not come, and memory is bounded.
    Break,
}

/// What a segment costs besides its payload, in bytes: the kernel holds so much for a single byte, and for a full frame what this and
/// the payload make together (sk_buff, headers, the rounding of its head).
pub const CHARGE_OVERHEAD: u64 = 1024;

/// What a segment of so many bytes costs.
#[inline(always)]
pub const fn charge(len: u32) -> u64 {
    len as u64 + CHARGE_OVERHEAD
}

/// Judges a segment with payload. Nothing may arrive behind what is missing.
#[inline(always)]
pub const fn judge(moved: &Moved, allowed: &Allowed) -> Verdict {
    if moved.dropped == 0 && moved.charged < allowed.limit { Verdict::Redirect } else { Verdict::Break }
}

/// Whether user space wants to hear that so much has been handed to the target.
#[inline(always)]
pub const fn rings(moved: &Moved, allowed: &Allowed) -> bool {
    moved.charged >= allowed.bell && moved.rung != allowed.bell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(charged: u64, dropped: u64, expected: Verdict) {
        let moved = Moved { charged, dropped, ..Moved::default() };
        let allowed = Allowed { limit: 100, ..Allowed::default() };
        assert_eq!(judge(&moved, &allowed), expected, "{moved:?} {allowed:?}");
    }

    #[test]
    fn a_segment_goes_to_the_target_below_the_limit() {
        check(0, 0, Verdict::Redirect);
        check(99, 0, Verdict::Redirect);
        check(100, 0, Verdict::Break);
        check(u64::MAX, 0, Verdict::Break);
    }

    #[test]
    fn nothing_follows_what_is_lost() {
        check(0, 1, Verdict::Break);
    }

    #[test]
    fn a_slot_that_nobody_has_set_up_takes_nothing() {
        assert_eq!(judge(&Moved::default(), &Allowed::default()), Verdict::Break);
    }

    #[test]
    fn a_segment_costs_what_the_kernel_holds_for_it() {
        assert_eq!([1, 1448, 65_536].map(charge), [1025, 2472, 66_560]);
    }

    /// Whatever segments come, no more is under way than the limit and one segment.
    #[test]
    fn what_is_under_way_stays_within_the_limit() {
        let (mut moved, allowed) = (Moved::default(), Allowed { limit: 1 << 20, ..Allowed::default() });
        let mut seed = 1_u64;
        loop {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match judge(&moved, &allowed) {
                Verdict::Redirect => moved.charged += charge((seed >> 48) as u32 + 1),
                Verdict::Break => break,
            }
        }
        assert!(moved.charged < (1 << 20) + charge(65_536), "{moved:?}");
    }

    #[test]
    fn the_bell_rings_once_a_mark() {
        let allowed = Allowed { bell: 10, ..Allowed::default() };
        let ring = |charged, rung| rings(&Moved { charged, rung, ..Moved::default() }, &allowed);
        assert_eq!([ring(9, 0), ring(10, 0), ring(11, 10)], [false, true, false]);
    }
}
