// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers of TCP, which wrap: arithmetic modulo 2^32 (RFC 9293 section 3.4).

use super::tcp::{FIN, SYN};

/// Whether `a` comes before `b`, of two numbers that are less than 2^31 apart.
#[inline(always)]
pub const fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// Whether `a` does not come after `b`, likewise.
#[inline(always)]
pub const fn is_at_most(a: u32, b: u32) -> bool {
    b.wrapping_sub(a).cast_signed() >= 0
}

/// The later of two numbers, likewise.
#[inline(always)]
pub const fn later(a: u32, b: u32) -> u32 {
    if is_before(a, b) { b } else { a }
}

/// Whether a number is one of `low` to `high`, however far these are apart.
#[inline(always)]
pub const fn is_between(low: u32, number: u32, high: u32) -> bool {
    number.wrapping_sub(low) <= high.wrapping_sub(low)
}

/// The number behind a segment: of what it occupies, SYN and FIN count one each (RFC 9293 section 3.4).
#[inline(always)]
pub const fn end_of(sequence: u32, payload: u32, flags: u8) -> u32 {
    let controls = (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
    sequence.wrapping_add(payload).wrapping_add(controls)
}
