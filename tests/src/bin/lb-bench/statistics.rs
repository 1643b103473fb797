// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be said about samples: their spread, and the ratio of two contestants, or why there is none.

use serde::Serialize;

/// Fewest pairs that give a ratio: with six, the range of the paired ratios holds the true median with 97 % confidence; with five, 94 %.
pub const PAIRS_MIN: usize = 6;

/// Widest middle half of the paired ratios, as a part of their median, that still gives a ratio.
pub const MIDDLE_HALF_MAX: f64 = 0.15;

/// A median nearer to 1 than this is level, however certain it is that it is not 1.
pub const LEVEL: f64 = 0.02;

/// Where the interval holds 1, how far from it it may reach to be level; if farther, nothing is known.
pub const UNCERTAIN: f64 = 0.10;

/// How likely the interval of [`Estimate`] holds the true median, at least.
const CONFIDENCE: f64 = 0.95;

/// A sample during which more of the cores' time than this was stolen counts for no ratio: the host of a virtual machine gave it to
/// others, so its times are not the contestant's.
pub const STOLEN_MAX: f64 = 0.02;

/// The rule that [`Ratio::of`] follows, for the reader of the report.
pub fn rule() -> String {
    format!(
        "A ratio is of the two samples of one repeat, which ran soon after each other; shown is the median of these paired \
         ratios with their range. A sample during which more than {:.0} % of the cores' time was stolen counts for none. There is none \
         with fewer than {PAIRS_MIN} pairs, with a value that is not above zero, or where the \
         middle half of the paired ratios is wider than {:.0} % of their median. The {:.0} % \
         confidence interval of the median (by order statistics, which assume nothing about the distribution) says the rest. Where \
         it is on one side of 1, that is better or worse, but level if the median is within {:.0} % of 1. Where it holds 1 and \
         reaches no farther than {:.0} % from it, that is level, too. Where it holds 1 and reaches farther, the difference may be \
         chance, and there is no ratio either. An aim is held where all of the interval is on the better side of its bound, and missed where \
         all of it is on the worse; where being level is enough, only worse misses it.",
        100.0 * STOLEN_MAX,
        100.0 * MIDDLE_HALF_MAX,
        100.0 * CONFIDENCE,
        100.0 * LEVEL,
        100.0 * UNCERTAIN
    )
}

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the values are below.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order; `None` if there is none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self { median: quantile(&values, 0.5)?, min: *values.first()?, max: *values.last()? })
    }
}

/// Of ascending values, between neighbours by their distance (type 7 of Hyndman and Fan, 1996).
fn quantile(ascending: &[f64], part: f64) -> Option<f64> {
    let position = part * ascending.len().checked_sub(1)? as f64;
    let (low, high) = (ascending[position.floor() as usize], ascending[position.ceil() as usize]);
    Some(low + (high - low) * position.fract())
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The greater.
    High,
    /// The smaller.
    Low,
}

impl Better {
    /// By the unit in a column's title: what is done per second, of time or of CPU, is better high; times, costs and memory are
    /// better low.
    pub fn of(title: &str) -> Self {
        let is_rate = |word: &str| {
            let unit = word.trim_end_matches([',', ';', ')']);
            unit.ends_with("/s") || unit.ends_with("/CPU-second")
        };
        if title.split_whitespace().any(is_rate) { Self::High } else { Self::Low }
    }

    /// Of a ratio: above 1 where the first of the two is better by this factor, below 1 where it is worse.
    pub fn advantage(self, ratio: f64) -> f64 {
        match self {
            Self::High => ratio,
            Self::Low => 1.0 / ratio,
        }
    }
}

/// What a ratio means to the first of the two contestants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It loses.
    Worse,
    /// No difference that could be told from chance, or none that matters.
    Level,
    /// It wins.
    Better,
}

/// One contestant's values by another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Of the paired ratios.
    pub spread: Spread,
    /// What it means.
    pub verdict: Verdict,
}

/// Why two contestants have no ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoRatio {
    /// Fewer than [`PAIRS_MIN`]; so many there are.
    FewPairs(usize),
    /// A value is zero or below, or not a number: nothing can be divided by it, or compared by division.
    NotPositive,
    /// The middle half is wider than [`MIDDLE_HALF_MAX`]: this part of the median.
    Wide(f64),
    /// The confidence interval holds 1 and reaches farther than [`UNCERTAIN`] from it.
    Uncertain,
}

impl std::fmt::Display for NoRatio {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FewPairs(0) => write!(formatter, "no pairs"),
            Self::FewPairs(1) => write!(formatter, "1 pair only"),
            Self::FewPairs(count) => write!(formatter, "{count} pairs only"),
            Self::NotPositive => write!(formatter, "a value is not above 0"),
            Self::Uncertain => write!(formatter, "may be chance"),
            Self::Wide(part) => write!(formatter, "too wide: {:.0} %", 100.0 * part),
        }
    }
}

/// What pairs say about the ratio of two contestants, whatever it is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Of the paired ratios.
    pub spread: Spread,
    /// Holds the true median with [`CONFIDENCE`], by order statistics: the least and the greatest of it.
    pub interval: [f64; 2],
}

impl Estimate {
    /// Of pairs: one contestant's value and the other's in the same repeat.
    ///
    /// # Errors
    /// The pairs say too little; see [`NoRatio`], of which this is never [`NoRatio::Uncertain`].
    pub fn of(pairs: &[(f64, f64)]) -> Result<Self, NoRatio> {
        if pairs.len() < PAIRS_MIN {
            return Err(NoRatio::FewPairs(pairs.len()));
        }
        let is_positive = |value: f64| value > 0.0 && value.is_finite();
        if !pairs.iter().all(|(one, other)| is_positive(*one) && is_positive(*other)) {
            return Err(NoRatio::NotPositive);
        }
        let mut ratios: Vec<f64> = pairs.iter().map(|(one, other)| one / other).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |part| quantile(&ratios, part).ok_or(NoRatio::FewPairs(0));
        let median = at(0.5)?;
        let middle_half = (at(0.75)? - at(0.25)?) / median;
        if middle_half > MIDDLE_HALF_MAX {
            return Err(NoRatio::Wide(middle_half));
        }
        let (last, outside) = (ratios.len() - 1, left_out(ratios.len()));
        Ok(Self {
            spread: Spread { median, min: ratios[0], max: ratios[last] },
            interval: [ratios[outside], ratios[last - outside]],
        })
    }

    /// Whether the first contestant is on the better side of a bound, with [`CONFIDENCE`]; `None` where the interval holds the bound.
    pub fn is_beyond(&self, bound: f64, better: Better) -> Option<bool> {
        let [low, high] = self.interval;
        let is_above = if low > bound {
            true
        } else if high < bound {
            false
        } else {
            return None;
        };
        Some(is_above == (better == Better::High))
    }

    /// What the ratio means.
    ///
    /// # Errors
    /// [`NoRatio::Uncertain`].
    pub fn verdict(&self, better: Better) -> Result<Verdict, NoRatio> {
        let [low, high] = self.interval;
        let reach = (high - 1.0).max(1.0 - low);
        match self.is_beyond(1.0, better) {
            None if reach > UNCERTAIN => Err(NoRatio::Uncertain),
            None => Ok(Verdict::Level),
            Some(_) if (self.spread.median - 1.0).abs() <= LEVEL => Ok(Verdict::Level),
            Some(true) => Ok(Verdict::Better),
            Some(false) => Ok(Verdict::Worse),
        }
    }
}

impl Ratio {
    /// Of pairs: one contestant's value and the other's in the same repeat.
    ///
    /// # Errors
    /// The pairs say too little; see [`NoRatio`].
    pub fn of(pairs: &[(f64, f64)], better: Better) -> Result<Self, NoRatio> {
        let estimate = Estimate::of(pairs)?;
        Ok(Self { spread: estimate.spread, verdict: estimate.verdict(better)? })
    }

    /// Above 1 where the first contestant is better by this factor, below 1 where it is worse.
    pub fn advantage(&self, better: Better) -> f64 {
        better.advantage(self.spread.median)
    }
}

/// How many of the least and of the greatest values the interval leaves out that holds the true median with [`CONFIDENCE`]: each
/// value is above the median with probability 1/2, so the number above is binomial (David and Nagaraja, Order Statistics, 7.1).
fn left_out(count: usize) -> usize {
    let tail_max = (1.0 - CONFIDENCE) / 2.0;
    let mut term = 0.5_f64.powi(count.try_into().unwrap_or(i32::MAX));
    let mut tail = term;
    let mut outside = 0;
    while outside + 1 < count.div_ceil(2) {
        term *= (count - outside) as f64 / (outside + 1) as f64;
        tail += term;
        if tail > tail_max {
            break;
        }
        outside += 1;
    }
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
        Spread::of(values.to_vec()).map(|spread| (spread.median, spread.min, spread.max))
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn the_unit_says_what_is_better() {
        for title in ["connections/s", "Gb/s", "GB/CPU-second of the balancer", "rate, messages/s (achieved)"]
        {
            assert_eq!(Better::of(title), Better::High, "{title}");
        }
        for title in ["host CPU less direct, s/GB", "p99, ms", "all memory, KiB/flow", "CPU, µs/connection"]
        {
            assert_eq!(Better::of(title), Better::Low, "{title}");
        }
    }

    /// Pairs whose ratios are these.
    fn pairs(ratios: &[f64]) -> Vec<(f64, f64)> {
        ratios.iter().map(|ratio| (ratio * 50.0, 50.0)).collect()
    }

    #[track_caller]
    fn check(ratios: &[f64], better: Better, expected: Result<Verdict, NoRatio>) {
        assert_eq!(Ratio::of(&pairs(ratios), better).map(|ratio| ratio.verdict), expected);
    }

    #[test]
    fn a_certain_difference_is_better_or_worse() {
        let above = [1.08, 1.1, 1.09, 1.12, 1.11, 1.1];
        check(&above, Better::High, Ok(Verdict::Better));
        check(&above, Better::Low, Ok(Verdict::Worse));
        let below = [0.9, 0.91, 0.92, 0.93, 0.92, 0.91];
        check(&below, Better::High, Ok(Verdict::Worse));
        check(&below, Better::Low, Ok(Verdict::Better));
    }

    #[test]
    fn an_interval_around_1_is_level() {
        check(&[0.99, 1.05, 1.06, 1.07, 1.04, 1.05], Better::High, Ok(Verdict::Level));
        // Ten pairs leave out one on each side: a single one below 1 is no doubt, two are.
        let mut ratios = [0.97, 1.05, 1.06, 1.07, 1.04, 1.05, 1.06, 1.07, 1.05, 1.06];
        check(&ratios, Better::High, Ok(Verdict::Better));
        ratios[1] = 0.98;
        check(&ratios, Better::High, Ok(Verdict::Level));
    }

    #[test]
    fn a_certain_but_tiny_difference_is_level() {
        check(&[1.01; 10], Better::High, Ok(Verdict::Level));
        check(&[1.021; 10], Better::High, Ok(Verdict::Better));
    }

    #[test]
    fn too_little_gives_no_ratio() {
        check(&[], Better::High, Err(NoRatio::FewPairs(0)));
        check(&[1.1; 5], Better::High, Err(NoRatio::FewPairs(5)));
        check(&[1.1, 1.1, 1.1, 1.1, 1.1, 0.0], Better::High, Err(NoRatio::NotPositive));
        let mut pairs = pairs(&[1.1; 6]);
        pairs[3].1 = 0.0;
        assert_eq!(Ratio::of(&pairs, Better::High), Err(NoRatio::NotPositive));
    }

    #[test]
    fn a_wide_spread_gives_no_ratio() {
        let ratios = [0.5, 0.8, 1.0, 1.0, 1.2, 1.5];
        let Err(NoRatio::Wide(part)) = Ratio::of(&pairs(&ratios), Better::High) else { panic!("a ratio") };
        assert!((part - 0.3).abs() < 1e-9, "{part}");
    }

    #[test]
    fn an_interval_that_holds_1_and_much_else_says_nothing() {
        check(&[0.9, 1.9, 2.0, 2.0, 2.0, 2.0], Better::High, Err(NoRatio::Uncertain));
        check(&[0.85, 1.0, 1.0, 1.0, 1.0, 1.0], Better::High, Err(NoRatio::Uncertain));
        check(&[0.95, 1.0, 1.0, 1.0, 1.0, 1.09], Better::High, Ok(Verdict::Level));
    }

    #[test]
    fn a_bound_is_held_or_missed_only_where_the_interval_is_on_one_side() {
        // Ten pairs leave out one on each side.
        let ratios = [0.5, 0.78, 0.79, 0.79, 0.79, 0.79, 0.79, 0.79, 0.79, 1.0];
        let estimate = Estimate::of(&pairs(&ratios)).unwrap();
        assert_eq!(estimate.interval.map(|end| (100.0 * end).round()), [78.0, 79.0]);
        let check = |bound, expected: Option<bool>| {
            assert_eq!(estimate.is_beyond(bound, Better::Low), expected, "{bound}");
            assert_eq!(estimate.is_beyond(bound, Better::High), expected.map(|held| !held), "{bound}");
        };
        check(0.8, Some(true));
        check(0.785, None);
        check(0.77, Some(false));
    }

    #[test]
    fn a_ratio_that_may_be_1_can_still_miss_a_bound() {
        let pairs = pairs(&[0.85, 0.9, 0.92, 0.93, 0.94, 1.05]);
        assert_eq!(Ratio::of(&pairs, Better::Low), Err(NoRatio::Uncertain));
        assert_eq!(Estimate::of(&pairs).unwrap().is_beyond(0.8, Better::Low), Some(false));
    }

    #[test]
    fn one_outlier_does_not_hide_a_ratio() {
        check(&[1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2, 9.0], Better::High, Ok(Verdict::Better));
    }

    #[test]
    fn the_interval_of_order_statistics_is_that_of_the_tables() {
        let expected = [(5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (20, 5), (25, 7)];
        for (count, outside) in expected {
            assert_eq!(left_out(count), outside, "{count} values");
        }
    }

    #[test]
    fn an_advantage_is_above_1_whatever_the_unit() {
        let ratio = Ratio::of(&pairs(&[0.5; 6]), Better::Low).unwrap();
        assert_eq!((ratio.advantage(Better::Low), ratio.advantage(Better::High)), (2.0, 0.5));
    }
}
