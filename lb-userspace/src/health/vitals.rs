// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server carries along about its health: the last results, its certificate, and what traffic says.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use lb_common::reason::{CloseReason, ServerState};
use tokio::sync::Notify;

use super::certificate::LastCertificate;
use super::outcome::Outcome;

/// Results that are kept of one server.
pub const RESULTS_MAX: usize = 20;

/// One check, or what traffic came to, and what followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// When it was over.
    pub at: SystemTime,
    /// How long it took; zero if it was traffic.
    pub duration: Duration,
    /// What came of it.
    pub outcome: Outcome,
    /// The server's state after it.
    pub state: ServerState,
}

/// The health of one server, beside its state. Written by its checks and by traffic, read by the admin surface.
#[derive(Debug)]
pub struct Vitals {
    /// What traffic says.
    pub traffic: Traffic,
    record: Mutex<Record>,
    certificate: ArcSwapOption<LastCertificate>,
}

#[derive(Debug)]
struct Record {
    since: SystemTime,
    results: VecDeque<CheckResult>,
}

impl Vitals {
    /// When the server came into its state.
    pub fn since(&self) -> SystemTime {
        self.record().since
    }

    /// The server's state has changed at this moment.
    pub fn note_change(&self) {
        self.record().since = SystemTime::now();
    }

    /// The last [`RESULTS_MAX`] results, the oldest first.
    pub fn results(&self) -> Vec<CheckResult> {
        self.record().results.iter().copied().collect()
    }

    /// Keeps a result, and lets the oldest go.
    pub(super) fn note_result(&self, result: CheckResult) {
        let results = &mut self.record().results;
        if results.len() == RESULTS_MAX {
            results.pop_front();
        }
        results.push_back(result);
    }

    /// The certificate that the last check over TLS saw.
    pub fn certificate(&self) -> Option<Arc<LastCertificate>> {
        self.certificate.load_full()
    }

    /// Keeps the certificate that a check saw, and says whether it is for other names than the one before.
    pub(super) fn note_certificate(&self, certificate: Arc<LastCertificate>) -> bool {
        let before = self.certificate.swap(Some(Arc::clone(&certificate)));
        before.is_none_or(|before| before.names != certificate.names)
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        // What it guards cannot be left half done, so a panic elsewhere is no reason to stop.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Vitals {
    /// Of a server that was not checked yet.
    fn default() -> Self {
        let record = Record { since: SystemTime::now(), results: VecDeque::new() };
        Self { traffic: Traffic::default(), record: record.into(), certificate: ArcSwapOption::empty() }
    }
}

/// Counts what fails in a row: connects, and connections that the server resets before it has sent a byte. Both are one row, because
/// a reset that comes at once may be met by either. Only bytes of the server and clean ends break it: that it accepts a connection
/// says little.
///
/// Without a limit, which is the default, nothing is counted. Workers call it; no call blocks but the one that reaches the limit, for a
/// short lock.
#[derive(Debug, Default)]
pub struct Traffic {
    /// 0: nothing is counted.
    limit: AtomicU32,
    errors: AtomicU32,
    /// Times that the limit was reached, until somebody takes them.
    alarms: AtomicU32,
    listener: Mutex<Option<Arc<Notify>>>,
}

impl Traffic {
    /// A connect failed: it was refused, timed out or met no way.
    pub fn note_connect_failure(&self) {
        self.count();
    }

    /// The server has sent bytes. It may come a second after them.
    pub fn note_bytes(&self) {
        // Mostly it is 0 already: reading leaves the cache line with all workers.
        if self.errors.load(Ordering::Relaxed) != 0 {
            self.errors.store(0, Ordering::Relaxed);
        }
    }

    /// A connection with the server has ended, after so many bytes from it. A reset before the first is a failure; a client that
    /// left before says nothing.
    pub fn note_end(&self, close: CloseReason, sent_bytes: u64) {
        match close {
            CloseReason::ServerReset if sent_bytes == 0 => self.count(),
            CloseReason::Finished => self.note_bytes(),
            _ => {}
        }
    }

    /// Begins to count, or ends; whoever waits on `listener` is woken at the limit.
    pub(super) fn observe(&self, limit: u32, listener: Option<Arc<Notify>>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = listener;
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether the limit was reached since the last call.
    pub(super) fn take_alarm(&self) -> bool {
        self.alarms.swap(0, Ordering::Relaxed) > 0
    }

    fn count(&self) {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return;
        }
        // The count begins anew at the limit, so that exactly one thread reaches it.
        let next = |count: u32| if count + 1 >= limit { 0 } else { count + 1 };
        let counted =
            self.errors.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(next(count)));
        if counted.is_ok_and(|count| next(count) == 0) {
            self.alarms.fetch_add(1, Ordering::Relaxed);
            if let Some(listener) = &*self.listener.lock().unwrap_or_else(PoisonError::into_inner) {
                listener.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_results_are_kept() {
        let vitals = Vitals::default();
        for status in 0..100 {
            let outcome = Outcome::Status(status);
            let (at, duration) = (SystemTime::now(), Duration::ZERO);
            vitals.note_result(CheckResult { at, duration, outcome, state: ServerState::Up });
        }
        let results = vitals.results();
        assert_eq!(results.len(), RESULTS_MAX);
        assert_eq!((results[0].outcome, results[19].outcome), (Outcome::Status(80), Outcome::Status(99)));
    }

    #[test]
    fn only_failures_in_a_row_reach_the_limit() {
        let traffic = Traffic::default();
        (0..100).for_each(|_| traffic.note_connect_failure());
        assert!(!traffic.take_alarm(), "without a limit");
        traffic.observe(3, None);
        let check = |events: &str, expected: &str| {
            let alarm = |event: char| {
                match event {
                    'f' => traffic.note_connect_failure(),
                    'r' => traffic.note_end(CloseReason::ServerReset, 0),
                    'b' => traffic.note_bytes(),
                    'e' => traffic.note_end(CloseReason::Finished, 0),
                    'R' => traffic.note_end(CloseReason::ServerReset, 1),
                    _ => traffic.note_end(CloseReason::ClientReset, 0),
                }
                if traffic.take_alarm() { '!' } else { '.' }
            };
            assert_eq!(events.chars().map(alarm).collect::<String>(), expected, "{events}");
        };
        check("fffffff", "..!..!.");
        check("bffbrfeffr", ".........!");
        // What says nothing neither counts nor breaks the row.
        check("fcRfcRr", "......!");
    }

    #[test]
    fn one_thread_reaches_the_limit() {
        let traffic = Traffic::default();
        traffic.observe(10, None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_500).for_each(|_| traffic.note_connect_failure()));
            }
        });
        assert_eq!(traffic.alarms.load(Ordering::Relaxed), 1_000);
    }
}
