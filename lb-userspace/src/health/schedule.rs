// SPDX-License-Identifier: MIT OR Apache-2.0
//! When checks begin. Pure; `random` is a number from 0 up to but without 1.

use std::time::Duration;

/// Within which the first checks of all servers are spread, if their interval is not shorter.
pub(super) const FIRST_CHECKS: Duration = Duration::from_secs(1);

/// How long the first check waits.
pub(super) fn first_delay(interval: Duration, random: f64) -> Duration {
    interval.min(FIRST_CHECKS).mul_f64(random)
}

/// From the start of a check to the start of the next: the interval, up to `jitter_percent` of it longer or shorter.
pub(super) fn interval(interval: Duration, jitter_percent: u8, random: f64) -> Duration {
    let jitter = f64::from(jitter_percent.min(100)) / 100.0;
    interval.mul_f64(1.0 + jitter * (2.0 * random - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALMOST_ONE: f64 = 1.0 - f64::EPSILON / 2.0;

    #[test]
    fn the_first_check_comes_within_a_second_or_an_interval() {
        #[track_caller]
        fn check(interval_ms: u64, random: f64, expected_ms: f64) {
            let delay = first_delay(Duration::from_millis(interval_ms), random);
            assert!((delay.as_secs_f64() * 1e3 - expected_ms).abs() < 0.01, "{delay:?}");
        }
        check(10_000, 0.0, 0.0);
        check(10_000, 0.5, 500.0);
        check(10_000, ALMOST_ONE, 1_000.0);
        check(200, 0.5, 100.0);
        check(200, ALMOST_ONE, 200.0);
    }

    #[test]
    fn an_interval_is_longer_or_shorter_by_the_jitter() {
        #[track_caller]
        fn check(jitter_percent: u8, random: f64, expected_ms: f64) {
            let interval = interval(Duration::from_secs(10), jitter_percent, random);
            assert!((interval.as_secs_f64() * 1e3 - expected_ms).abs() < 0.01, "{interval:?}");
        }
        check(0, 0.9, 10_000.0);
        check(20, 0.0, 8_000.0);
        check(20, 0.5, 10_000.0);
        check(50, ALMOST_ONE, 15_000.0);
        // Beyond what the configuration admits: never negative.
        check(255, 0.0, 0.0);
    }
}
