// SPDX-License-Identifier: MIT OR Apache-2.0
//! Percentiles of one sample's times, and of those of several samples together.

use serde::{Deserialize, Serialize};

/// Percentiles of times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile, where [`TAIL_MIN`] values lie beyond it.
    pub p99_us: Option<f64>,
    /// 99.9th percentile, where [`TAIL_MIN`] values lie beyond it.
    pub p999_us: Option<f64>,
}

/// The longest times of a sample: what a high percentile of several samples together is told from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// Of all times of the sample.
    pub count: u64,
    /// One in [`TAIL_PART`] of them and one more, in microseconds, the longest first.
    pub longest_us: Vec<f64>,
}

/// Fewest values beyond a percentile that say something about it.
pub const TAIL_MIN: u64 = 20;

/// Enough for the 99.9th percentile of ten samples together, even if all that lies beyond it were in one of them.
const TAIL_PART: usize = 100;

/// Whether enough of so many values lie beyond a percentile.
pub fn has_tail(count: u64, per_mille: u64) -> bool {
    beyond(count, per_mille) >= TAIL_MIN
}

/// How many of so many values lie beyond a percentile.
fn beyond(count: u64, per_mille: u64) -> u64 {
    count - (count * per_mille).div_ceil(1000)
}

impl Times {
    /// Of nanoseconds in any order, by nearest rank; `None` if there are none.
    pub fn of(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let at = |per_mille: usize| {
            let index = nanoseconds.len().saturating_mul(per_mille).div_ceil(1000).saturating_sub(1);
            nanoseconds.get(index).map(|nanoseconds| *nanoseconds as f64 / 1e3)
        };
        let count = nanoseconds.len() as u64;
        let in_tail = |per_mille| at(per_mille).filter(|_| has_tail(count, per_mille as u64));
        Some(Self { p50_us: at(500)?, p99_us: in_tail(990), p999_us: in_tail(999) })
    }
}

impl Tail {
    /// Of nanoseconds in any order.
    pub fn of(mut nanoseconds: Vec<u64>) -> Self {
        nanoseconds.sort_unstable_by(|one, other| other.cmp(one));
        let count = nanoseconds.len();
        nanoseconds.truncate(count.div_ceil(TAIL_PART) + 1);
        let longest_us = nanoseconds.into_iter().map(|nanoseconds| nanoseconds as f64 / 1e3).collect();
        Self { count: count as u64, longest_us }
    }

    /// The percentile of all times of several samples, by nearest rank, in microseconds; `None` where fewer than [`TAIL_MIN`] lie beyond
    /// it, or where it lies among times that a sample has not kept.
    pub fn percentile(tails: &[Self], per_mille: u64) -> Option<f64> {
        let count = tails.iter().map(|tail| tail.count).sum();
        let beyond = usize::try_from(beyond(count, per_mille)).ok()?;
        let mut longest: Vec<_> = tails.iter().flat_map(|tail| tail.longest_us.iter().copied()).collect();
        longest.sort_by(|one, other| other.total_cmp(one));
        let value = *longest.get(beyond)?;
        let has_kept = |tail: &Self| {
            tail.longest_us.len() as u64 == tail.count
                || tail.longest_us.last().is_some_and(|least| *least <= value)
        };
        (has_tail(count, per_mille) && tails.iter().all(has_kept)).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of so many microseconds each.
    fn microseconds(times: impl Iterator<Item = u64>) -> Vec<u64> {
        times.map(|us| us * 1000).collect()
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times = |count: u64| Times::of(microseconds((1..=count).rev()));
        let expected = |p50_us, p99_us, p999_us| Some(Times { p50_us, p99_us, p999_us });
        assert_eq!(times(20_000), expected(10_000.0, Some(19_800.0), Some(19_980.0)));
        assert_eq!(times(0), None);
        assert_eq!(times(1), expected(1.0, None, None));
    }

    #[test]
    fn a_percentile_rests_on_some_values() {
        let check = |count, per_mille, expected| assert_eq!(has_tail(count, per_mille), expected, "{count}");
        check(20_000, 999, true);
        check(19_999, 999, false);
        check(2_000, 990, true);
        check(1_999, 990, false);
        check(0, 990, false);
    }

    /// Every time once, dealt out to samples in turn.
    fn dealt(samples: u64, count: u64) -> Vec<Tail> {
        let of = |first: u64| Tail::of(microseconds((1..=count).filter(|time| time % samples == first)));
        (0..samples).map(of).collect()
    }

    #[test]
    fn the_percentile_of_several_samples_is_that_of_all_their_times() {
        for samples in [1, 6, 10] {
            let all = Times::of(microseconds(1..=24_000)).unwrap();
            assert_eq!(Tail::percentile(&dealt(samples, 24_000), 999), all.p999_us, "{samples}");
        }
        assert_eq!(Tail::percentile(&dealt(6, 19_999), 999), None, "nineteen lie beyond it");
        assert_eq!(Tail::percentile(&[], 999), None);
    }

    #[test]
    fn one_sample_may_have_the_whole_tail_as_long_as_it_has_kept_it() {
        let samples = |count: u64| {
            let of = |sample: u64| Tail::of(microseconds(sample * 3_000 + 1..=(sample + 1) * 3_000));
            (0..count).map(of).collect::<Vec<_>>()
        };
        assert_eq!(Tail::percentile(&samples(10), 999), Some(29_970.0));
        // Of 40 samples, 120 lie beyond it, all in one that has kept 31.
        assert_eq!(Tail::percentile(&samples(40), 999), None);
    }
}
