// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one direction may have waiting inside the kernel: its share of the pool.

use std::sync::Arc;

use lb_common::layout::Allowed;

use super::pool::Pool;

/// What a direction has of the pool.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) pool: Arc<Pool>,
    /// What may wait before the direction has to pause, in bytes of cost.
    pub(super) share: u64,
}

impl Grant {
    /// The share of a direction that begins.
    pub(super) fn first(pool: &Arc<Pool>) -> Option<Self> {
        Some(Self { share: pool.first_share()?, pool: Arc::clone(pool) })
    }

    /// What the program may do in a round, in which it calls for the segment with which so many bytes have been handed over.
    pub(super) fn allowed(&self, round: u64, call_at: u64) -> Allowed {
        let (pause_at, stop_at) = (self.share, self.pool.direction_max());
        Allowed { pause_at, stop_at, round, call_at, ..Allowed::default() }
    }

    /// Doubles the share; whether there was enough.
    pub(super) fn grow(&mut self) -> bool {
        let more = self.share.min(self.pool.share_max().saturating_sub(self.share));
        let is_grown = more > 0 && self.pool.take(more);
        self.share += if is_grown { more } else { 0 };
        is_grown
    }

    /// Gives back what a direction that begins would not get; whether that is anything.
    pub(super) fn shrink(&mut self) -> bool {
        let surplus = self.share.saturating_sub(self.pool.share_size());
        self.share -= surplus;
        self.pool.give_back(surplus);
        surplus > 0
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.pool.give_back(self.share);
    }
}
