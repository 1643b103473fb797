// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a name is asked for again, and what a reply does to its servers. Pure: time is an argument.

use std::time::Duration;

use super::answer::NoAnswer;
use crate::config::Resolver;

/// The pause after the first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Most that chance adds to a pause, as a share of it.
const JITTER: f64 = 0.1;

/// What a reply does to the servers of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// They become what the reply says.
    Replace,
    /// They stay.
    Keep,
    /// They go.
    Remove,
}

/// A reply, as far as time is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An answer with this TTL; `is_partial`: some of it could not be had.
    Answer { ttl: Duration, is_partial: bool },
    /// None.
    Nothing(NoAnswer),
}

/// What has been heard of one name so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Its servers come from an answer.
    has_servers: bool,
    /// Replies in a row that were no answer, or only a part of one.
    failures: u32,
    /// When DNS first said that there is nothing, if it has said nothing else since.
    missing_since: Option<Duration>,
}

impl Schedule {
    /// Takes note of a reply at `now`, on any clock that only goes forward. Says what it does to the servers and how long to wait
    /// before the next question; `random` is between 0 and 1.
    pub(super) fn note(
        &mut self,
        policy: &Resolver,
        heard: Heard,
        now: Duration,
        random: f64,
    ) -> (Consequence, Duration) {
        let reason = match heard {
            Heard::Answer { ttl, is_partial } => {
                self.has_servers = true;
                self.missing_since = None;
                let ttl = ttl.clamp(policy.ttl_min, policy.ttl_max);
                self.failures = if is_partial { self.failures.saturating_add(1) } else { 0 };
                let pause = if is_partial { ttl.min(self.retry(policy)) } else { ttl };
                return (Consequence::Replace, longer(pause, random));
            }
            Heard::Nothing(reason) => reason,
        };
        self.failures = self.failures.saturating_add(1);
        let retry = longer(self.retry(policy), random);
        if !reason.is_certain() {
            return (Consequence::Keep, retry);
        }
        let since = *self.missing_since.get_or_insert(now);
        if !self.has_servers {
            return (Consequence::Keep, retry);
        }
        let held = now.saturating_sub(since);
        if held < policy.hold_nx {
            return (Consequence::Keep, retry.min(policy.hold_nx - held));
        }
        self.has_servers = false;
        (Consequence::Remove, retry)
    }

    /// Whether the name is in trouble.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The pause after the failures so far.
    fn retry(&self, policy: &Resolver) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(10);
        (RETRY_FIRST * 2u32.pow(doublings)).min(RETRY_MAX).min(policy.ttl_max)
    }
}

/// A pause with chance added. It never shrinks: a question before the TTL has passed would meet a cache that still has the answer.
fn longer(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(1.0 + JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn answer(seconds: u64) -> Heard {
        Heard::Answer { ttl: secs(seconds), is_partial: false }
    }

    const NX: Heard = Heard::Nothing(NoAnswer::NxDomain);
    const EMPTY: Heard = Heard::Nothing(NoAnswer::Empty);
    const TIMEOUT: Heard = Heard::Nothing(NoAnswer::Timeout);
    const FAILURE: Heard = Heard::Nothing(NoAnswer::Failure);

    /// Rows of: seconds on the clock, what is heard, what follows, seconds to the next question.
    fn check(policy: &Resolver, rows: &[(u64, Heard, Consequence, u64)]) {
        let mut schedule = Schedule::default();
        for (row, (now, heard, consequence, pause)) in rows.iter().enumerate() {
            let noted = schedule.note(policy, *heard, secs(*now), 0.0);
            assert_eq!(noted, (*consequence, secs(*pause)), "row {row} of {rows:?}");
        }
    }

    #[test]
    fn the_ttl_counts_within_its_bounds() {
        use Consequence::Replace;
        let rows =
            [(0, answer(10), Replace, 10), (10, answer(0), Replace, 5), (15, answer(9999), Replace, 300)];
        check(&Resolver::default(), &rows);
        let partial = Heard::Answer { ttl: secs(60), is_partial: true };
        let rows = [
            (0, partial, Replace, 1),
            (1, partial, Replace, 2),
            (3, answer(60), Replace, 60),
            (63, partial, Replace, 1),
        ];
        check(&Resolver::default(), &rows);
    }

    #[test]
    fn failures_keep_the_servers_for_ever() {
        use Consequence::{Keep, Replace};
        let mut rows = vec![(0, answer(10), Replace, 10)];
        rows.extend([1, 2, 4, 8, 15, 15, 15].map(|pause| (99_999, TIMEOUT, Keep, pause)));
        rows.extend([
            (999_999, FAILURE, Keep, 15),
            (999_999, Heard::Nothing(NoAnswer::Doubt), Keep, 15),
            (999_999, answer(10), Replace, 10),
            (999_999, FAILURE, Keep, 1),
        ]);
        check(&Resolver::default(), &rows);
        check(
            &Resolver { ttl_max: secs(5), ..Resolver::default() },
            &[(0, FAILURE, Keep, 1), (1, FAILURE, Keep, 2), (3, FAILURE, Keep, 4), (7, FAILURE, Keep, 5)],
        );
    }

    #[test]
    fn a_name_that_is_gone_loses_its_servers_after_a_while() {
        use Consequence::{Keep, Remove, Replace};
        let policy = Resolver { hold_nx: secs(8), ..Resolver::default() };
        let rows = [
            (0, answer(10), Replace, 10),
            (10, NX, Keep, 1),
            (11, EMPTY, Keep, 2),
            (13, TIMEOUT, Keep, 4),
            // Sooner than another four seconds, to be on time.
            (17, NX, Keep, 1),
            (18, NX, Remove, 15),
            (33, NX, Keep, 15),
            (48, answer(10), Replace, 10),
            (58, NX, Keep, 1),
            (59, answer(10), Replace, 10),
            (69, NX, Keep, 1),
        ];
        check(&policy, &rows);
        check(
            &Resolver { hold_nx: secs(0), ..policy.clone() },
            &[(0, answer(9), Replace, 9), (9, NX, Remove, 1)],
        );
        check(
            &policy,
            &[
                (0, NX, Keep, 1),
                (1, NX, Keep, 2),
                (9, NX, Keep, 4),
                (13, answer(9), Replace, 9),
                (22, NX, Keep, 1),
            ],
        );
    }

    fn heard() -> impl Strategy<Value = Heard> {
        prop_oneof![
            (0u64..100_000, any::<bool>())
                .prop_map(|(ttl, is_partial)| Heard::Answer { ttl: secs(ttl), is_partial }),
            prop::sample::select(vec![NX, EMPTY, TIMEOUT, FAILURE]),
        ]
    }

    proptest! {
        /// Whatever DNS does: pauses are bounded both ways, servers go only when DNS has said for `hold-nx` that there are none,
        /// and an answer always counts.
        #[test]
        fn nobody_is_stuck(
            hears in prop::collection::vec((heard(), 0.0..1.0), 1..60),
            hold in 0u64..100,
        ) {
            let policy = Resolver { hold_nx: secs(hold), ..Resolver::default() };
            let (mut schedule, mut now, mut quiet_since) = (Schedule::default(), Duration::ZERO, None);
            let mut has_servers = false;
            for (heard, random) in hears {
                let (consequence, pause) = schedule.note(&policy, heard, now, random);
                match heard {
                    Heard::Answer { .. } => {
                        prop_assert_eq!(consequence, Consequence::Replace);
                        (has_servers, quiet_since) = (true, None);
                    }
                    Heard::Nothing(reason) => {
                        prop_assert_ne!(consequence, Consequence::Replace);
                        if reason.is_certain() {
                            quiet_since = quiet_since.or(Some(now));
                        }
                    }
                }
                if consequence == Consequence::Remove {
                    prop_assert!(has_servers);
                    prop_assert!(quiet_since.is_some_and(|since| now - since >= policy.hold_nx));
                    has_servers = false;
                }
                prop_assert!(pause <= policy.ttl_max.mul_f64(1.0 + JITTER));
                prop_assert!(pause > Duration::ZERO);
                now += pause;
            }
        }
    }
}
