// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs count, of all processors together.

use std::fmt;

use aya::maps::{MapData, MapError, PerCpuArray};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::{COUNTERS, Counter, code, refused};

/// The map of counters.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
}

/// What it said at one time. Each number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts([u64; COUNTERS as usize]);

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self { map }
    }

    /// What was counted.
    ///
    /// # Errors
    /// The kernel lacks memory.
    pub fn read(&self) -> Result<Counts, MapError> {
        let mut counts = [0; COUNTERS as usize];
        for (count, index) in counts.iter_mut().zip(0..) {
            *count = self.map.get(&index, 0)?.iter().sum();
        }
        Ok(Counts(counts))
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counts {
    /// Nothing yet.
    pub const NONE: Self = Self([0; COUNTERS as usize]);

    /// Packets of one kind.
    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter.index()]
    }

    /// What was counted since an earlier time.
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|index| self.0[index].wrapping_sub(before.0[index])))
    }

    /// Packets of flows that were not translated, for one reason.
    pub fn refused(&self, reason: Untranslatable) -> u64 {
        self.0[refused(code(reason)) as usize]
    }
}
