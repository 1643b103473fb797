// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that all flows on this path may hold inside the kernel. What may wait of one before it has to pause is taken from here, and
//! the program counts what waits beyond that: so the bound holds whatever all of them do at the same moment.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// Least share of a direction that moves something, in bytes: a short message, also where the last one is not known to be delivered. One
/// that rests may have none.
const SHARE_MIN: u64 = 4 << 10;

/// Most that waits before a direction pauses: enough for a fast one when the kernel's worker is late.
const SHARE_MAX: u64 = 4 << 20;

/// A direction's share is at most this part of what it may have: while user space is on its way, more comes.
const SHARE_OF_DIRECTION: u64 = 4;

/// A direction that begins gets one part in so many of what is free. It grows when it needs to.
const FIRST_SHARE_OF_FREE: u64 = 4096;

/// Directions that rest keep their least share as long as no more than this part of all shares is taken: then what comes finds memory whatever
/// others have waiting.
const RESTING_PART: u64 = 2;

/// Whoever begins when no share is left does so without one, as long as no more than this part of what may wait beyond the shares does wait.
const BEGINNING_PART: u64 = 2;

/// This part of the memory is for what waits beyond the shares, whoever's it is.
const OVERDRAFT_PART: u64 = 2;

/// Where the kernel says how much memory TCP may take, as three numbers of pages (tcp(7), tcp_mem).
const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";

/// Taken where that cannot be read.
const DEFAULT_BYTES: u64 = 64 << 20;

/// A share of the TCP memory limit.
const TCP_MEM_SHARE: u64 = 4;

/// The memory: the shares of directions, and a rest that the program grants to whoever comes.
#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    taken: AtomicU64,
    /// What is about to wait beyond the shares, and does not yet count there.
    coming: AtomicU64,
    gauge: Gauge,
}

/// Bytes that are on their way to where the program counts them.
#[derive(Debug)]
pub struct Coming<'a> {
    pool: &'a Pool,
    bytes: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.pool.coming.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// What flows may have waiting inside the kernel, in bytes of cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All together.
    pub total: u64,
    /// One direction.
    pub direction: u64,
}

impl Limits {
    /// For all flows what is given, or a quarter of what TCP may have on this host.
    pub fn new(total: Option<u64>, direction: u64) -> Self {
        let of_this_host = || {
            let text = fs::read_to_string(TCP_MEM).unwrap_or_default();
            quarter(&text, rustix::param::page_size() as u64)
        };
        Self { total: total.unwrap_or_else(of_this_host), direction }
    }

    /// What may wait beyond the shares.
    pub fn overdraft(&self) -> u64 {
        self.total / OVERDRAFT_PART
    }
}

impl Pool {
    /// So many bytes; `gauge` shows how many of them are taken as shares.
    pub fn new(limits: Limits, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { limits, taken: AtomicU64::new(0), coming: AtomicU64::new(0), gauge })
    }

    /// The most that one direction may have waiting.
    pub fn direction_max(&self) -> u64 {
        self.limits.direction
    }

    /// The most that may come into the kernel at once.
    pub fn burst_max(&self) -> u64 {
        self.limits.direction.min(self.limits.overdraft())
    }

    /// Announces bytes that come at once, when so many wait beyond the shares. `None`: they would be too many.
    pub fn announce(&self, bytes: u64, overdraft: impl Fn() -> u64) -> Option<Coming<'_>> {
        let before = self.coming.fetch_add(bytes, Ordering::AcqRel);
        let coming = Coming { pool: self, bytes };
        (overdraft() + before + bytes <= self.limits.overdraft()).then_some(coming)
    }

    /// The most that a share may be.
    pub fn share_max(&self) -> u64 {
        (self.limits.direction / SHARE_OF_DIRECTION).min(SHARE_MAX)
    }

    /// Takes the share of a direction that begins when so many bytes wait beyond the shares; the fuller the pool, the less it is, and nothing if not
    /// even the least is left. `None`: others have the memory, and what they have does wait.
    pub fn first_share(&self, overdraft: u64) -> Option<u64> {
        let share = self.share_size();
        match self.take(share) {
            true => Some(share),
            false => (overdraft < self.limits.overdraft() / BEGINNING_PART).then_some(0),
        }
    }

    /// What a direction would get now that begins or moves again, if it gets anything.
    pub fn share_size(&self) -> u64 {
        (self.free() / FIRST_SHARE_OF_FREE).clamp(SHARE_MIN, self.share_max())
    }

    /// The most that a direction may keep while it rests.
    pub fn resting_share(&self) -> u64 {
        if self.free() >= self.size() - self.size() / RESTING_PART { SHARE_MIN } else { 0 }
    }

    /// What is not taken.
    fn free(&self) -> u64 {
        self.size().saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// All shares together.
    fn size(&self) -> u64 {
        self.limits.total - self.limits.overdraft()
    }

    /// Takes so many bytes; `false`: there are not so many.
    pub fn take(&self, bytes: u64) -> bool {
        let grown = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.size());
        let is_taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if is_taken {
            self.gauge.inc_by(bytes.cast_signed());
        }
        is_taken
    }

    /// Gives bytes back that were taken.
    pub fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        self.gauge.dec_by(bytes.cast_signed());
    }
}

/// A part of the limit in the text of tcp_mem.
fn quarter(text: &str, page_size: u64) -> u64 {
    let most = text.split_whitespace().nth(2).and_then(|pages| pages.parse::<u64>().ok());
    most.map_or(DEFAULT_BYTES, |pages| pages.saturating_mul(page_size) / TCP_MEM_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_limit() {
        assert_eq!(quarter("100\t200\t400\n", 4096), 400 * 1024);
        assert_eq!(quarter("", 4096), DEFAULT_BYTES);
    }

    #[test]
    fn no_more_is_taken_than_there_is_and_all_comes_back() {
        let gauge = Gauge::default();
        let pool = Pool::new(Limits { total: 128 << 20, direction: 16 << 20 }, gauge.clone());
        let shares: Vec<u64> = std::iter::from_fn(|| pool.first_share(u64::MAX)).collect();
        assert_eq!((shares.first(), shares.last()), (Some(&(16 << 10)), Some(&SHARE_MIN)));
        assert!(shares.is_sorted_by(|one, next| one >= next) && shares.len() > 9_000, "{shares:?}");
        let taken: u64 = shares.iter().sum();
        assert!(taken <= 64 << 20 && taken + SHARE_MIN > 64 << 20, "{taken}");
        assert_eq!(gauge.get(), taken.cast_signed());
        shares.into_iter().for_each(|share| pool.give_back(share));
        assert_eq!(gauge.get(), 0);
        assert!(pool.take(64 << 20) && !pool.take(1));
    }

    #[test]
    fn who_begins_when_no_share_is_left_needs_none_unless_the_memory_is_used() {
        let pool = Pool::new(Limits { total: 4 << 20, direction: 1 << 20 }, Gauge::default());
        assert!(pool.take(2 << 20));
        assert_eq!(
            [0, (1 << 20) - 1, 1 << 20].map(|waits| pool.first_share(waits)),
            [Some(0), Some(0), None]
        );
    }

    #[test]
    fn who_rests_keeps_a_share_while_there_are_many() {
        let pool = Pool::new(Limits { total: 4 << 20, direction: 1 << 20 }, Gauge::default());
        assert!(pool.take(1 << 20));
        assert_eq!(pool.resting_share(), SHARE_MIN);
        assert!(pool.take(1));
        assert_eq!(pool.resting_share(), 0);
    }

    #[test]
    fn what_comes_at_once_fits_with_what_waits() {
        let pool = Pool::new(Limits { total: 200, direction: 70 }, Gauge::default());
        assert_eq!(pool.burst_max(), 70);
        let first = pool.announce(60, || 0);
        assert!(first.is_some() && pool.announce(41, || 0).is_none() && pool.announce(40, || 1).is_none());
        drop(first);
        assert!(pool.announce(99, || 1).is_some() && pool.announce(101, || 0).is_none());
    }

    #[test]
    fn a_share_leaves_room_for_what_comes_before_the_agent() {
        let share_max =
            |direction| Pool::new(Limits { total: 1 << 30, direction }, Gauge::default()).share_max();
        assert_eq!([1 << 20, 16 << 20, 1 << 30].map(share_max), [256 << 10, 4 << 20, 4 << 20]);
    }
}
