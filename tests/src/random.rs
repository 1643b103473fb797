// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reproducible pseudo-random numbers: the same seed gives the same test.

use std::time::SystemTime;

/// The generator xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for any seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("usize has at most 64 bits");
        usize::try_from((self.number() >> 16) % bound).expect("below a usize")
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.number().to_be_bytes()[0]
    }

    /// That many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.byte()).take(count).collect()
    }
}

/// A seed for a test that draws anew each time and prints it: from the environment variable `LB_TEST_SEED`, or else from the clock.
///
/// # Panics
/// If the variable holds something else than a number.
pub fn drawn_seed() -> u64 {
    match std::env::var("LB_TEST_SEED") {
        Ok(text) => text.parse().expect("LB_TEST_SEED must be a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            u64::from(now.subsec_nanos()) << 16 ^ now.as_secs()
        }
    }
}
