// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a direction carries messages or a stream. Inside the kernel each segment costs a turn of a worker, as a message does anyway;
//! of a stream, splice(2) moves more at a time.
//!
//! Large messages come as fast as a stream, and in segments as large. But who sends them waits for answers: never is more under way than a
//! message, and the other direction brings something for each. A stream goes on whatever comes back: nothing, acknowledgements of
//! the application's own, or another stream. How long user space takes to look tells nothing, for on a busy machine that may be many messages.

use std::time::Duration;

use crate::runtime::Moment;

/// A direction is looked at each time that so many bytes have been handed over,
const LOOK_BYTES: u64 = 4 << 20;

/// and after so many looks it is told what it is.
const LOOKS: u32 = 4;

/// A stream brings its bytes within this time,
const STREAM_TIME: Duration = Duration::from_secs(1);

/// and in segments of at least so many on average, as the network interface or the kernel has joined them.
const STREAM_SEGMENT: u64 = 16 << 10;

/// Messages are shorter, in bytes: those of 32 KiB cost less inside, and of 64 KiB outside, as a stream does.
const MESSAGE_MAX: u64 = 48 << 10;

/// How many bytes of a direction that begins have been handed over at the first look.
pub(super) const FIRST_LOOK: u64 = LOOK_BYTES;

/// What there is to see of a direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Bytes that have ever been handed over.
    pub(super) bytes: u64,
    /// In so many segments.
    pub(super) segments: u64,
    /// Segments that have ever been handed over in the other direction, and how often user space has found something there to move.
    pub(super) answers: u64,
    /// Bytes that have come and that the receiver's kernel has not acknowledged.
    pub(super) under_way: u64,
    /// This moment.
    pub(super) now: Moment,
}

/// What has been seen of a direction since the last answer.
#[derive(Debug)]
pub(super) struct Pace {
    begin: Look,
    look_at: u64,
    /// What was under way at each look.
    under_way: [u64; LOOKS as usize],
    looks: usize,
}

impl Pace {
    /// From the first byte on.
    pub(super) fn new(now: Moment) -> Self {
        Self::since(Look { bytes: 0, segments: 0, answers: 0, under_way: 0, now })
    }

    fn since(begin: Look) -> Self {
        Self { begin, look_at: begin.bytes + LOOK_BYTES, under_way: [0; LOOKS as usize], looks: 0 }
    }

    /// How many bytes will have been handed over at the next look.
    pub(super) fn look_at(&self) -> u64 {
        self.look_at
    }

    /// Takes in a look; whether what has come since the last answer is a stream, `None` while that cannot be told.
    pub(super) fn take(&mut self, look: &Look) -> Option<bool> {
        if look.bytes < self.look_at {
            return None;
        }
        self.look_at = look.bytes + LOOK_BYTES;
        self.under_way[self.looks] = look.under_way;
        self.looks += 1;
        if self.looks < self.under_way.len() {
            return None;
        }
        let is_stream = self.is_stream(look);
        *self = Self::since(*look);
        Some(is_stream)
    }

    fn is_stream(&self, last: &Look) -> bool {
        let bytes = last.bytes - self.begin.bytes;
        let is_fast = last.now <= self.begin.now + STREAM_TIME;
        let is_joined = bytes / STREAM_SEGMENT >= last.segments - self.begin.segments;
        is_fast && is_joined && self.goes_on_without_answers(bytes, last.answers - self.begin.answers)
    }

    /// Nobody waits for an answer to less than a stream brings at a time: few come, or more is under way; not at every look, for a stream may falter.
    fn goes_on_without_answers(&self, bytes: u64, answers: u64) -> bool {
        let is_ahead = |under_way: &&u64| **under_way >= MESSAGE_MAX;
        bytes / answers.max(1) >= MESSAGE_MAX
            || self.under_way.iter().filter(is_ahead).count() > self.under_way.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const KIB: u64 = 1 << 10;

    /// Whether 16 MiB are a stream that come within `time`, in segments of so many bytes, with an answer for so many, and of which so many are
    /// under way at each look.
    fn is_stream(time: Duration, segment: u64, between: u64, under_way: [u64; 4]) -> bool {
        let begin = Moment::now();
        let mut pace = Pace::new(begin);
        let mut told = (1..=4).zip(under_way).map(|(look, under_way)| {
            let bytes = look * 4 * MIB;
            let (segments, answers) = (bytes / segment, bytes / between);
            let now = begin + time * u32::try_from(look).expect("four") / 4;
            pace.take(&Look { bytes, segments, answers, under_way, now })
        });
        assert_eq!([told.next(), told.next(), told.next()], [Some(None); 3]);
        told.next().flatten().expect("it is known after four looks")
    }

    #[test]
    fn much_in_large_segments_in_a_short_time_is_a_stream() {
        let check = |segment, milliseconds, expected| {
            let time = Duration::from_millis(milliseconds);
            assert_eq!(is_stream(time, segment, 16 * MIB, [0; 4]), expected, "{segment} {time:?}");
        };
        check(64 * KIB, 900, true);
        check(16 * KIB, 900, true);
        check(15 * KIB, 900, false);
        check(64 * KIB, 1_100, false);
    }

    #[test]
    fn who_waits_for_answers_sends_messages() {
        let check = |between, under_way, expected| {
            let time = Duration::from_millis(50);
            assert_eq!(is_stream(time, 32 * KIB, between, under_way), expected, "{between} {under_way:?}");
        };
        // Messages of 32 KiB, also with answers in two segments.
        check(32 * KIB, [32 * KIB; 4], false);
        check(16 * KIB, [32 * KIB; 4], false);
        // Such that differ: looks may fall into long ones.
        check(32 * KIB, [256 * KIB, 64 * KIB, 1, 0], false);
        // Two streams, and one with acknowledgements of the application's own.
        check(40 * KIB, [MIB, 300 * KIB, 0, 200 * KIB], true);
        check(4 * KIB, [64 * KIB, 90 * KIB, 70 * KIB, 0], true);
        // Long messages, to and fro or on request.
        check(32 * KIB, [64 * KIB; 4], true);
        check(64 * KIB, [0; 4], true);
    }

    #[test]
    fn what_was_messages_can_become_a_stream() {
        let begin = Moment::now();
        let mut pace = Pace::new(begin);
        let mut take = |mib: u64, answers, milliseconds| {
            let (bytes, now) = (mib * MIB, begin + Duration::from_millis(milliseconds));
            pace.take(&Look { bytes, segments: bytes / (32 * KIB), answers, under_way: 0, now })
        };
        assert_eq!([take(4, 100, 1), take(8, 200, 2), take(12, 300, 3)], [None; 3]);
        // Late, so that it is slow; what comes counts from here.
        assert_eq!(take(20, 400, 60_000), Some(false));
        assert_eq!(take(23, 400, 60_001), None);
        assert_eq!([take(24, 400, 60_002), take(28, 400, 60_003), take(32, 400, 60_004)], [None; 3]);
        assert_eq!(take(36, 400, 60_005), Some(true));
    }
}
