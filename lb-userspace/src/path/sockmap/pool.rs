// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that all flows on this path may hold inside the kernel. What one is allowed is taken from here before the program may
//! use it, so that the bound holds whatever all of them do at the same moment.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// Least that a direction is allowed, in bytes.
const SHARE_MIN: u64 = 16 << 10;

/// Most that a direction is allowed when it begins.
const FIRST_SHARE_MAX: u64 = 4 << 20;

/// A direction that begins gets one part in so many of what is free.
const FIRST_SHARE_OF_FREE: u64 = 64;

/// Where the kernel says how much memory TCP may take, as three numbers of pages (tcp(7), tcp_mem).
const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";

/// Taken where that cannot be read.
const DEFAULT_BYTES: u64 = 64 << 20;

/// A share of the TCP memory limit.
const TCP_MEM_SHARE: u64 = 4;

/// How much there is, and how much of it is taken, in bytes.
#[derive(Debug)]
pub struct Pool {
    size: u64,
    taken: AtomicU64,
    gauge: Gauge,
}

impl Pool {
    /// So many bytes; `gauge` shows how many are taken.
    pub fn new(size: u64, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { size, taken: AtomicU64::new(0), gauge })
    }

    /// A quarter of what TCP may have on this host.
    pub fn of_this_host(gauge: Gauge) -> Arc<Self> {
        let text = fs::read_to_string(TCP_MEM).unwrap_or_default();
        Self::new(size(&text, rustix::param::page_size() as u64), gauge)
    }

    /// Takes the share of a direction that begins; the fuller the pool, the less it is. `None`: not even the least is left.
    pub fn first_share(&self) -> Option<u64> {
        let share = self.share_size();
        self.take(share).then_some(share)
    }

    /// What a direction would get now that begins, if it gets anything.
    pub fn share_size(&self) -> u64 {
        let free = self.size.saturating_sub(self.taken.load(Ordering::Relaxed));
        (free / FIRST_SHARE_OF_FREE).clamp(SHARE_MIN, FIRST_SHARE_MAX)
    }

    /// Takes so many bytes; `false`: there are not so many.
    pub fn take(&self, bytes: u64) -> bool {
        let grown = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= self.size);
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

/// The pool's size by the text of tcp_mem.
fn size(text: &str, page_size: u64) -> u64 {
    let most = text.split_whitespace().nth(2).and_then(|pages| pages.parse::<u64>().ok());
    most.map_or(DEFAULT_BYTES, |pages| pages.saturating_mul(page_size) / TCP_MEM_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_limit() {
        assert_eq!(size("100\t200\t400\n", 4096), 400 * 1024);
        assert_eq!(size("", 4096), DEFAULT_BYTES);
    }

    #[test]
    fn no_more_is_taken_than_there_is_and_all_comes_back() {
        let gauge = Gauge::default();
        let pool = Pool::new(100 << 20, gauge.clone());
        let shares: Vec<u64> = std::iter::from_fn(|| pool.first_share()).collect();
        assert_eq!((shares.first(), shares.last()), (Some(&(100 << 14)), Some(&SHARE_MIN)));
        assert!(shares.is_sorted_by(|one, next| one >= next), "{shares:?}");
        let taken: u64 = shares.iter().sum();
        assert!(taken <= 100 << 20 && taken + SHARE_MIN > 100 << 20, "{taken}");
        assert_eq!(gauge.get(), taken.cast_signed());
        shares.into_iter().for_each(|share| pool.give_back(share));
        assert_eq!(gauge.get(), 0);
        assert!(pool.take(100 << 20) && !pool.take(1));
    }
}
