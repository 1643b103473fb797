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

    /// The same as the runtime's timers have it.
    pub fn instant(self) -> tokio::time::Instant {
        (*EPOCH + Duration::from_nanos(self.0.get() - 1)).into()
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
        let (before, moment, after) = (Instant::now(), Moment::now(), Instant::now());
        let instant = moment.instant().into_std();
        // The clock of the first moment of the process begins after `before`.
        assert!(instant + Duration::from_secs(1) > before && instant <= after);
        let later = moment + Duration::from_millis(1_500);
        assert!(later > moment);
        assert_eq!(later.instant() - moment.instant(), Duration::from_millis(1_500));
    }

    #[test]
    fn a_moment_far_off_is_the_last_one() {
        let last = Moment::now() + Duration::MAX;
        assert_eq!(last + Duration::from_secs(1), last);
        assert!(last.instant().into_std() > Instant::now());
    }
}
