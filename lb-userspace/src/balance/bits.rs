// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of small numbers, one bit each: an eighth of a table's size in bytes at most, so that it stays in a core's cache.

/// The set.
pub(super) struct Bits(Box<[u64]>);

impl Bits {
    /// All numbers below `count`.
    pub(super) fn all(count: usize) -> Self {
        Self(vec![u64::MAX; count.div_ceil(64)].into())
    }

    /// Whether it is in the set.
    pub(super) fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    /// Takes it out.
    pub(super) fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }
}
