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
    /// The share of a direction that begins when so many bytes wait beyond the shares.
    pub(super) fn first(pool: &Arc<Pool>, overdraft: u64) -> Option<Self> {
        Some(Self { share: pool.first_share(overdraft)?, pool: Arc::clone(pool) })
    }

    /// What the program may do in a round, in which it calls for the segment with which so many bytes have been handed over.
    pub(super) fn allowed(&self, round: u64, call_at: u64) -> Allowed {
        let (pause_at, stop_at) = (self.share, self.pool.direction_max());
        Allowed { pause_at, stop_at, round, call_at, ..Allowed::default() }
    }

    /// Makes it what a direction has that begins, if it is less, or else twice as much; whether there was enough.
    pub(super) fn grow(&mut self) -> bool {
        let more = self.missing().max(self.share);
        self.take(more.min(self.pool.share_max().saturating_sub(self.share)))
    }

    /// Makes it what a direction has that begins, if it is less and there is enough.
    pub(super) fn begin(&mut self) {
        self.take(self.missing());
    }

    /// Gives back what a direction does not need that rests.
    pub(super) fn rest(&mut self) {
        self.shrink_to(self.pool.resting_share());
    }

    /// Gives back all of it: nothing of the direction is inside the kernel.
    pub(super) fn end(&mut self) {
        self.shrink_to(0);
    }

    fn missing(&self) -> u64 {
        self.pool.share_size().saturating_sub(self.share)
    }

    fn take(&mut self, more: u64) -> bool {
        let is_taken = more > 0 && self.pool.take(more);
        self.share += if is_taken { more } else { 0 };
        is_taken
    }

    fn shrink_to(&mut self, most: u64) {
        let surplus = self.share.saturating_sub(most);
        self.share -= surplus;
        self.pool.give_back(surplus);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.pool.give_back(self.share);
    }
}
