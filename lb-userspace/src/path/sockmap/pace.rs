// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a direction carries messages or a stream. Inside the kernel each segment costs a turn of a worker, as a message does anyway;
//! of a stream, splice(2) moves more at a time.

use std::time::Duration;

use crate::runtime::Moment;
use lb_common::layout::Moved;

/// So many bytes are looked at together.
pub(super) const STREAM_BYTES: u64 = 16 << 20;

/// A stream brings them within this time,
const STREAM_TIME: Duration = Duration::from_secs(1);

/// and in segments of at least so many on average, as the network interface or the kernel has joined them.
const STREAM_SEGMENT: u64 = 16 << 10;

/// Since when what has come of a direction is looked at.
#[derive(Debug)]
pub(super) struct Pace {
    since: Moment,
    bytes: u64,
    segments: u64,
}

impl Pace {
    /// From the first byte on.
    pub(super) fn new(now: Moment) -> Self {
        Self { since: now, bytes: 0, segments: 0 }
    }

    /// How many bytes must have been handed over before it can be told what they are.
    pub(super) fn known_at(&self) -> u64 {
        self.bytes + STREAM_BYTES
    }

    /// Whether what the program has handed over since the last answer is a stream; `false` also while that cannot be told.
    pub(super) fn is_stream(&mut self, moved: &Moved, now: Moment) -> bool {
        if moved.redirected < self.known_at() {
            return false;
        }
        let (bytes, segments) = (moved.redirected - self.bytes, moved.segments - self.segments);
        let is_stream = now <= self.since + STREAM_TIME && bytes / STREAM_SEGMENT >= segments;
        *self = Self { since: now, bytes: moved.redirected, segments: moved.segments };
        is_stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_in_large_segments_in_a_short_time_is_a_stream() {
        let now = Moment::now();
        let check = |bytes, segment: u64, after: Duration, expected| {
            let moved = Moved { redirected: bytes, segments: bytes / segment, ..Moved::default() };
            assert_eq!(
                Pace::new(now).is_stream(&moved, now + after),
                expected,
                "{bytes} {segment} {after:?}"
            );
        };
        let short = Duration::from_millis(900);
        check(STREAM_BYTES, 64 << 10, short, true);
        check(STREAM_BYTES, 16 << 10, short, true);
        check(STREAM_BYTES, 15 << 10, short, false);
        check(STREAM_BYTES - 1, 64 << 10, short, false);
        check(STREAM_BYTES, 64 << 10, Duration::from_millis(1_100), false);
    }

    #[test]
    fn what_was_slow_can_become_a_stream() {
        let begin = Moment::now();
        let mut pace = Pace::new(begin);
        let moved =
            |bytes: u64| Moved { redirected: bytes, segments: bytes / (32 << 10), ..Moved::default() };
        assert!(!pace.is_stream(&moved(STREAM_BYTES), begin + Duration::from_secs(60)));
        assert_eq!(pace.known_at(), 2 * STREAM_BYTES);
        assert!(pace.is_stream(&moved(2 * STREAM_BYTES), begin + Duration::from_millis(60_500)));
    }
}
