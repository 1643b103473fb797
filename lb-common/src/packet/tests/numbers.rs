// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers that wrap beside numbers that do not.

extern crate std;

use proptest::prelude::*;

use super::model::{number, window_of};
use crate::packet::sequence::{end_of, is_at_most, is_before, is_between, later};
use crate::packet::tcp::{FIN, SYN, scaled_window, timestamp_add};

/// The number of a position in a stream that begins with one.
fn at(base: u32, position: u64) -> u32 {
    u32::try_from((u64::from(base) + position) % (1 << 32)).expect("32 bits")
}

proptest! {
    #[test]
    fn order_is_that_of_the_stream(base in number(), a in 0_u64..1 << 40, apart in -0x7fff_ffff_i64..0x8000_0000) {
        let Some(b) = a.checked_add_signed(apart) else { return Ok(()) };
        let (low, high) = (at(base, a), at(base, b));
        prop_assert_eq!((is_before(low, high), is_at_most(low, high)), (a < b, a <= b));
        prop_assert_eq!(later(low, high), at(base, a.max(b)));
    }

    #[test]
    fn between_is_that_of_the_stream(base in number(), low in 0_u64..1 << 40, len in 0_u64..1 << 32, offset in 0_u64..1 << 32) {
        prop_assert_eq!(is_between(at(base, low), at(base, low + offset), at(base, low + len)), offset <= len);
    }

    #[test]
    fn a_segment_ends_behind_its_payload_and_controls(base in number(), payload in 0_u32..1 << 20, flags: u8) {
        let controls = u64::from(flags & SYN != 0) + u64::from(flags & FIN != 0);
        prop_assert_eq!(end_of(base, payload, flags), at(base, u64::from(payload) + controls));
    }

    #[test]
    fn windows_are_converted(window: u16, shift_from in 0_u8..=14, shift_to in 0_u8..=14) {
        let scaled = scaled_window(window, shift_from, shift_to);
        prop_assert_eq!(scaled, window_of(window, (shift_from, shift_to)));
        prop_assert_eq!(scaled == 0, window == 0);
    }

    /// Time never goes back for the other end, whatever the two clocks say, and begins where it was.
    #[test]
    fn timestamps_do_not_go_back_at_the_flip(sent in number(), received in number(), later_by in 0_u32..0x7fff_ffff) {
        let add = timestamp_add(sent, received);
        prop_assert_eq!(received.wrapping_add(add), sent);
        prop_assert!(is_at_most(sent, received.wrapping_add(later_by).wrapping_add(add)));
    }
}

#[test]
fn windows() {
    let check = |window, from, to, expected| assert_eq!(scaled_window(window, from, to), expected);
    check(0, 14, 0, 0);
    check(1, 0, 14, 1);
    check(100, 7, 7, 100);
    check(512, 0, 7, 4);
    check(639, 0, 7, 4);
    check(4, 7, 0, 512);
    check(65_535, 14, 2, 65_535);
    check(65_535, 2, 14, 15);
    check(1, 255, 0, 16_384);
}
