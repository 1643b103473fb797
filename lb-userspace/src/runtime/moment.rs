// SPDX-License-Identifier: MIT OR Apache-2.0
//! A point in time in 8 bytes, for what every idle flow keeps: an `Instant` has 16.

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// When the process first asked for the time.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since a moment before the first flow, plus one: enough for five centuries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let epoch = *EPOCH;
        Self(NonZeroU64::MIN) + epoch.elapsed()
    }

    /// The time from one moment to this; none if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl From<Instant> for Moment {
    /// The first moment for what was before it.
    fn from(instant: Instant) -> Self {
        Self(NonZeroU64::MIN) + instant.saturating_duration_since(*EPOCH)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// The moment so much later, or the last one there is.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    /// The moment so much earlier, or the first one there is.
    fn sub(self, duration: Duration) -> Self {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(self.0.get().saturating_sub(nanoseconds)).unwrap_or(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_instant() {
        let first = Moment::now();
        let (before, moment, after) = (Instant::now(), Moment::now(), Instant::now());
        assert!(first <= before.into() && Moment::from(before) <= moment && moment <= after.into());
        let later = moment + Duration::from_millis(1_500);
        assert!(later > moment);
        assert_eq!(later.since(moment), Duration::from_millis(1_500));
        assert_eq!(moment.since(later), Duration::ZERO);
    }

    #[test]
    fn a_moment_far_off_is_the_last_one() {
        let last = Moment::now() + Duration::MAX;
        assert_eq!(last + Duration::from_secs(1), last);
        assert!(last > Instant::now().into());
    }
}
