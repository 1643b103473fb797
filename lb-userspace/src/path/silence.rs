// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a flow may be silent. Silence is that no byte moves: neither through this process nor out of the send buffers of
//! its sockets, where a whole answer may wait for a slow reader long after the last write.

use std::time::Duration;

use crate::runtime::Moment;
use lb_common::reason::CloseReason;

/// Bytes that the client's and the server's kernel have not acknowledged, a FIN counted as one.
pub type Outstanding = [u32; 2];

/// A timeout and the word for it.
pub type Timeout = (Duration, CloseReason);

/// The shorter of two timeouts, each of which may be off.
pub fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// What a flow may do in its present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// With nothing outstanding; `None`: for ever.
    pub quiet: Option<Timeout>,
    /// While bytes are outstanding and none of them is acknowledged; `None`: for ever.
    pub stuck: Option<Timeout>,
}

/// The clock of one flow. The send buffers are looked at only when a timeout is due: what they hold is compared with what they
/// held then, so that a stuck flow ends between one and two timeouts after its last byte, and a quiet one exactly after one.
#[derive(Debug)]
pub struct Silence {
    since: Moment,
    seen: Option<Seen>,
}

/// The last look at the send buffers.
#[derive(Debug)]
struct Seen {
    outstanding: Outstanding,
    at: Moment,
}

impl Silence {
    /// Silence that begins now.
    pub fn new(now: Moment) -> Self {
        Self { since: now, seen: None }
    }

    /// A byte moved, or the state changed.
    pub fn break_at(&mut self, now: Moment) {
        *self = Self::new(now);
    }

    /// The same, when the send buffers are known: a stuck flow then ends after exactly one timeout.
    pub fn break_with(&mut self, now: Moment, outstanding: Outstanding) {
        *self = Self { since: now, seen: Some(Seen { outstanding, at: now }) };
    }

    /// When to ask [`Self::overdue`] again.
    pub fn next_look(&self, allowed: Allowed) -> Option<Moment> {
        let (timeout, _) = allowed.quiet?;
        Some(self.seen.as_ref().map_or(self.since, |seen| seen.at) + timeout)
    }

    /// Why the flow ends now, if it does.
    pub fn overdue(
        &mut self,
        now: Moment,
        allowed: Allowed,
        look: impl FnOnce() -> Outstanding,
    ) -> Option<CloseReason> {
        let (_, quiet) = allowed.quiet?;
        if self.next_look(allowed).is_none_or(|at| now < at) {
            return None;
        }
        let outstanding = look();
        let before = self.seen.replace(Seen { outstanding, at: now });
        let is_empty = outstanding == [0, 0];
        match before {
            None if is_empty => return Some(quiet),
            Some(before) if before.outstanding == outstanding => {}
            // Some of it was acknowledged since, or may have been.
            _ => self.since = now,
        }
        let limit = if is_empty { allowed.quiet } else { allowed.stuck };
        limit.filter(|(timeout, _)| now >= self.since + *timeout).map(|(_, reason)| reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Timeout = (Duration::from_secs(30), CloseReason::HalfCloseTimeout);
    const STUCK: Timeout = (Duration::from_secs(100), CloseReason::IdleTimeout);
    const ALLOWED: Allowed = Allowed { quiet: Some(QUIET), stuck: Some(STUCK) };

    /// Asks at each second what `outstanding` of that second makes of it.
    fn end(mut silence: Silence, start: Moment, outstanding: impl Fn(u64) -> u32) -> (u64, CloseReason) {
        (0..)
            .find_map(|second| {
                let look = || [outstanding(second), 0];
                let reason = silence.overdue(start + Duration::from_secs(second), ALLOWED, look)?;
                Some((second, reason))
            })
            .expect("it ends")
    }

    #[test]
    fn a_quiet_flow_ends_after_its_timeout() {
        let start = Moment::now();
        assert_eq!(end(Silence::new(start), start, |_| 0), (30, CloseReason::HalfCloseTimeout));
    }

    #[test]
    fn a_stuck_flow_ends_after_the_longer_timeout() {
        let start = Moment::now();
        // Looked at after 30 s for the first time; every 30 s from then on.
        assert_eq!(end(Silence::new(start), start, |_| 9), (150, CloseReason::IdleTimeout));
        let mut known = Silence::new(start);
        known.break_with(start, [9, 0]);
        assert_eq!(end(known, start, |_| 9), (120, CloseReason::IdleTimeout));
    }

    #[test]
    fn a_slow_reader_is_waited_for_and_then_has_its_timeout() {
        let start = Moment::now();
        let slow = |second: u64| u32::try_from(1_000_u64.saturating_sub(second)).unwrap_or(0);
        // Empty after 1,000 s, seen so at 1,020 s.
        assert_eq!(end(Silence::new(start), start, slow), (1_050, CloseReason::HalfCloseTimeout));
    }

    #[test]
    fn without_timeouts_nothing_ends() {
        let start = Moment::now();
        let allowed = Allowed { quiet: None, stuck: Some(STUCK) };
        assert_eq!(Silence::new(start).next_look(allowed), None);
        let stuck_for_ever = Allowed { quiet: Some(QUIET), stuck: None };
        let mut silence = Silence::new(start);
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            assert_eq!(silence.overdue(now, stuck_for_ever, || [1, 0]), None);
        }
    }
}
