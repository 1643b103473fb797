// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether flows that have left user space get anywhere. What the self-test cannot see is what lies between the interfaces and the ends: offloads
//! that do not do what they say, filters that drop what is forwarded, answers that come by an interface without programs. All that looks the same:
//! bytes pass, and nobody acknowledges any.
//!
//! The first flow of which a byte is acknowledged has shown that the path works, for as long as the agent runs. If several only send into the
//! void before that, the path turns itself off: no flow begins on it any more. Those that are on it stay, for their sockets are gone; and if one of
//! them gets on after all, because it was a cable, the path is on again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lb_common::packet::flow::Side;
use lb_common::packet::record::Record;
use lb_common::packet::sequence::is_before;
use lb_common::reason::{Availability, PathKind};

use crate::observe::metrics::PathMetrics;

/// How long bytes may wait for the first acknowledgement: they are sent again several times in it, after 0.2 seconds, 0.6 and 1.4 (Linux) or 1
/// and 3 (RFC 6298 section 2).
const PATIENCE: Duration = Duration::from_secs(5);

/// Flows that get nowhere before the path turns itself off. One may have lost its client at that moment.
const STUCK_MAX: u32 = 3;

/// It is known that the path works. Anything less: how many flows got nowhere.
const WORKS: u32 = u32::MAX;

/// What the first flows have shown.
#[derive(Debug)]
pub struct Canary {
    state: AtomicU32,
    metrics: PathMetrics,
}

/// What has been seen of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// An end has sent bytes that were not acknowledged. What was sent again does not count, nor the byte of a question whether somebody is
    /// there, which some send.
    is_waiting: bool,
    /// Bytes that were.
    pub(super) acknowledged: u64,
}

/// A flow as the canary sees it.
#[derive(Debug)]
pub(super) struct Trial {
    /// Bytes that had been acknowledged.
    before: u64,
    /// Since when it waits for its first acknowledgement, in nanoseconds.
    waits_since_ns: Option<u64>,
    is_told: bool,
}

impl Canary {
    /// One that knows nothing yet.
    pub fn new(metrics: PathMetrics) -> Self {
        Self { state: AtomicU32::new(0), metrics }
    }

    /// Whether no more flows should begin.
    pub(super) fn is_off(&self) -> bool {
        self.state.load(Ordering::Relaxed) == STUCK_MAX
    }

    /// Whether flows have anything to tell.
    pub(super) fn is_listening(&self) -> bool {
        self.state.load(Ordering::Relaxed) != WORKS
    }

    /// A flow has got on.
    fn note_progress(&self) {
        if self.state.swap(WORKS, Ordering::Relaxed) == STUCK_MAX {
            self.metrics.note(PathKind::Packet, Availability::Available);
            tracing::info!("path packet is on again: a flow has got on");
        }
    }

    /// A flow gets nowhere.
    fn note_stuck(&self) {
        let count = |state: u32| (state < STUCK_MAX).then(|| state + 1);
        let before = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        if before == Ok(STUCK_MAX - 1) {
            self.metrics.note(PathKind::Packet, Availability::NoProgress);
            tracing::warn!(
                flows = STUCK_MAX,
                "path packet turns itself off: of its first flows nobody acknowledges a byte; new ones are carried by splice and copy"
            );
            // Somebody else may have seen one get on since.
            if !self.is_listening() {
                self.metrics.note(PathKind::Packet, Availability::Available);
            }
        }
    }
}

impl Progress {
    /// Of a flow by now.
    pub(super) fn of(record: &Record) -> Self {
        Self {
            is_waiting: Side::ALL.iter().any(|side| {
                let end = record.flow.end(*side);
                is_before(end.confirmed, end.reached)
            }),
            acknowledged: record.flow.delivered_to_server + record.flow.delivered_to_client,
        }
    }
}

impl Trial {
    /// Of a flow that has left user space, or that another agent has left, of which so many bytes had been acknowledged then.
    pub(super) fn from(before: u64) -> Self {
        Self { before, waits_since_ns: None, is_told: false }
    }

    /// Looks at the flow at a time, in nanoseconds of any clock, and tells what it shows.
    pub(super) fn look(&mut self, canary: &Canary, now: Progress, now_ns: u64) {
        if now.acknowledged > self.before {
            canary.note_progress();
        } else if !now.is_waiting {
            self.waits_since_ns = None;
        } else {
            let since_ns = *self.waits_since_ns.get_or_insert(now_ns);
            let waits = Duration::from_nanos(now_ns.saturating_sub(since_ns));
            if waits >= PATIENCE && !self.is_told {
                self.is_told = true;
                canary.note_stuck();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn canary() -> Canary {
        Canary::new(PathMetrics::default())
    }

    fn at(is_waiting: bool, acknowledged: u64) -> Progress {
        Progress { is_waiting, acknowledged }
    }

    /// A flow that sends into the void for so many seconds, looked at every second.
    fn waits(canary: &Canary, seconds: u64) -> Trial {
        let mut trial = Trial::from(0);
        (0..=seconds).for_each(|second| trial.look(canary, at(true, 0), second * SECOND_NS));
        trial
    }

    #[test]
    fn flows_that_get_nowhere_turn_it_off_and_count_once_each() {
        let canary = canary();
        let _waiting = [waits(&canary, 4), waits(&canary, 5), waits(&canary, 60)];
        assert!(!canary.is_off() && canary.is_listening());
        waits(&canary, 5);
        assert!(canary.is_off());
        // More of them change nothing.
        waits(&canary, 5);
        assert!(canary.is_off());
    }

    #[test]
    fn a_flow_that_gets_on_decides_for_good() {
        let canary = canary();
        let mut trial = waits(&canary, 4);
        trial.look(&canary, at(true, 1), 4 * SECOND_NS);
        assert!(!canary.is_listening());
        for _ in 0..STUCK_MAX {
            waits(&canary, 5);
        }
        assert!(!canary.is_off());
    }

    #[test]
    fn a_flow_that_gets_on_late_turns_it_on_again() {
        let canary = canary();
        let mut trials = [(); STUCK_MAX as usize].map(|()| waits(&canary, 5));
        assert!(canary.is_off());
        trials[1].look(&canary, at(false, 1), 9 * SECOND_NS);
        assert!(!canary.is_off() && !canary.is_listening());
    }

    #[test]
    fn what_was_before_and_what_is_silent_shows_nothing() {
        let canary = canary();
        for before in [at(false, 0), at(true, 5)] {
            let mut trial = Trial::from(before.acknowledged);
            (0..60)
                .for_each(|second| trial.look(&canary, at(false, before.acknowledged), second * SECOND_NS));
        }
        // Nor does who waits now and then, not that long.
        let mut trial = Trial::from(0);
        (0..60).for_each(|second| trial.look(&canary, at(second % 4 != 0, 0), second * SECOND_NS));
        assert_eq!(canary.state.load(Ordering::Relaxed), 0);
    }
}
