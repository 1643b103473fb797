// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the program of path `sockmap` decides of a segment. Pure, so that the host can test it.
//!
//! The kernel neither counts nor bounds what waits for a socket that takes nothing (net/core/skmsg.c, sk_psock_skb_redirect). So
//! user space grants each direction a *credit*, and raises it as bytes go out. A direction that has used it up is passed to user
//! space, in order, until user space has delivered all of it.

use crate::layout::{Allowed, Moved};

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the target.
    Redirect,
    /// It waits in the socket's own queue for user space.
    Pass,
    /// It is thrown away, and the flow with it: user space has not come for more than memory may hold.
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

/// Judges a segment with payload.
#[inline(always)]
pub const fn judge(moved: &Moved, allowed: &Allowed) -> Verdict {
    let held = moved.passed.wrapping_sub(allowed.consumed);
    if held == 0 && moved.charged < allowed.credit {
        return Verdict::Redirect;
    }
    if held < allowed.held_max { Verdict::Pass } else { Verdict::Break }
}

/// Whether user space wants to hear that so much has been handed to the target.
#[inline(always)]
pub const fn rings(moved: &Moved, allowed: &Allowed) -> bool {
    moved.charged >= allowed.bell && moved.rung != allowed.bell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(charged: u64, passed: u64, consumed: u64, expected: Verdict) {
        let moved = Moved { charged, passed, ..Moved::default() };
        let allowed = Allowed { credit: 100, consumed, held_max: 50, ..Allowed::default() };
        assert_eq!(judge(&moved, &allowed), expected, "{moved:?} {allowed:?}");
    }

    #[test]
    fn a_segment_goes_to_the_target_within_the_credit() {
        check(0, 0, 0, Verdict::Redirect);
        check(99, 0, 0, Verdict::Redirect);
        check(100, 0, 0, Verdict::Pass);
        check(u64::MAX, 0, 0, Verdict::Pass);
    }

    #[test]
    fn nothing_overtakes_what_user_space_has_not_delivered() {
        check(0, 1, 0, Verdict::Pass);
        check(0, 49, 0, Verdict::Pass);
        check(0, 49, 49, Verdict::Redirect);
    }

    #[test]
    fn memory_is_bounded_without_user_space() {
        check(0, 50, 0, Verdict::Break);
        check(100, 80, 30, Verdict::Break);
        check(100, 80, 31, Verdict::Pass);
    }

    #[test]
    fn a_slot_that_nobody_has_set_up_takes_nothing() {
        assert_eq!(judge(&Moved::default(), &Allowed::default()), Verdict::Break);
    }

    #[test]
    fn one_byte_costs_what_the_kernel_holds_for_it() {
        assert_eq!([1, 1448, 65_536].map(charge), [1025, 2472, 66_560]);
    }

    /// Whatever segments come, no more is under way than the credit and one segment.
    #[test]
    fn what_is_under_way_stays_within_the_credit() {
        let (mut moved, allowed) =
            (Moved::default(), Allowed { credit: 1 << 20, held_max: 1 << 16, ..Allowed::default() });
        let (mut seed, mut sent) = (1_u64, 0);
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = (seed >> 48) as u32 + 1;
            match judge(&moved, &allowed) {
                Verdict::Redirect => moved.charged += charge(len),
                Verdict::Pass => moved.passed += u64::from(len),
                Verdict::Break => break,
            }
            sent += 1;
        }
        assert!(moved.charged < (1 << 20) + charge(65_536), "{moved:?}");
        assert!(moved.passed < (1 << 16) + 65_536 && sent < 100_000, "{moved:?}");
    }

    #[test]
    fn the_bell_rings_once_a_mark() {
        let allowed = Allowed { bell: 10, ..Allowed::default() };
        let ring = |charged, rung| rings(&Moved { charged, rung, ..Moved::default() }, &allowed);
        assert_eq!([ring(9, 0), ring(10, 0), ring(11, 10)], [false, true, false]);
    }
}
