// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bounded queue between workers and the thread that writes.
//!
//! A worker holds the lock for the time of one move; the writer for the time of one swap. A worker pays for a wake-up only when
//! the writer is parked, and the writer parks only after a nap that brought nothing: under load that is never.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::Record;

/// Most records that wait for the writer; those that it is writing come on top.
pub(super) const CAPACITY: usize = 8192;

/// Records whose memory the queue keeps after a burst.
const KEPT_CAPACITY: usize = 256;

/// The queue. Shared by all workers and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled when a parked or napping writer has something to do.
    work: Condvar,
    /// Signalled when the writer is done with a batch and somebody flushes.
    progress: Condvar,
    /// Every line that was lost, here or at the target.
    pub(super) dropped: Counter,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    /// Records ever accepted.
    accepted: u64,
    /// Records ever written or given up.
    finished: u64,
    /// Records dropped since the writer last looked.
    dropped: u64,
    writer_is_parked: bool,
    is_reopen_due: bool,
    is_closed: bool,
    /// Callers inside [`Queue::flush`].
    flushers: usize,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The writer is awake and will find it.
    Queued,
    /// The writer was parked and has been woken.
    QueuedAndWoken,
    /// There was no room.
    Dropped,
}

/// What the writer has to do besides the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Records dropped for want of room since the last batch.
    pub(super) dropped: u64,
    /// Open the target anew before the batch.
    pub(super) is_reopen_due: bool,
    /// Nothing will come after this batch.
    pub(super) is_closed: bool,
}

impl Queue {
    /// An empty queue that counts what it drops.
    pub(super) fn new(dropped: Counter) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), progress: Condvar::new(), dropped }
    }

    /// Hands a record to the writer, or drops and counts it.
    pub(super) fn push(&self, record: Record) -> Pushed {
        let mut state = self.lock();
        if state.records.len() >= CAPACITY {
            state.dropped += 1;
            drop(state);
            self.dropped.inc();
            return Pushed::Dropped;
        }
        state.records.push(record);
        state.accepted += 1;
        let was_parked = mem::take(&mut state.writer_is_parked);
        drop(state);
        if !was_parked {
            return Pushed::Queued;
        }
        self.work.notify_one();
        Pushed::QueuedAndWoken
    }

    /// Waits until there is something to do and moves all records into `batch`, which must be empty.
    pub(super) fn take(&self, batch: &mut Vec<Record>) -> Orders {
        let mut state = self.lock();
        while state.records.is_empty() && !state.is_reopen_due && !state.is_closed {
            state.writer_is_parked = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writer_is_parked = false;
        mem::swap(&mut state.records, batch);
        Orders {
            dropped: mem::take(&mut state.dropped),
            is_reopen_due: mem::take(&mut state.is_reopen_due),
            is_closed: state.is_closed,
        }
    }

    /// Says that a batch is written or given up, and empties it.
    pub(super) fn finish(&self, batch: &mut Vec<Record>) {
        let mut state = self.lock();
        state.finished += batch.len() as u64;
        if state.flushers > 0 {
            self.progress.notify_all();
        }
        drop(state);
        batch.clear();
        batch.shrink_to(KEPT_CAPACITY);
    }

    /// Lets records gather for so long, unless somebody waits for them.
    pub(super) fn nap(&self, duration: Duration) {
        let state = self.lock();
        let is_urgent = state.flushers > 0 || state.is_reopen_due || state.is_closed;
        if !is_urgent {
            // Woken early or not, the writer looks again.
            drop(self.work.wait_timeout(state, duration).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Makes the writer open its target anew.
    pub(super) fn reopen(&self) {
        self.lock().is_reopen_due = true;
        self.work.notify_one();
    }

    /// Makes the writer end once the queue is empty.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_one();
    }

    /// Waits until everything that is queued is written or given up, at most so long.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        let goal = state.accepted;
        state.flushers += 1;
        self.work.notify_one();
        while state.finished < goal {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                break;
            };
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flushers -= 1;
    }

    /// A panic of another thread cannot leave the state half changed: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[test]
    fn only_a_parked_writer_is_woken() {
        let queue = Queue::new(Counter::default());
        assert_eq!(queue.push(record()), Pushed::Queued);
        queue.lock().writer_is_parked = true;
        assert_eq!(queue.push(record()), Pushed::QueuedAndWoken);
        assert_eq!(queue.push(record()), Pushed::Queued);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_reported() {
        let dropped = Counter::default();
        let queue = Queue::new(dropped.clone());
        for _ in 0..CAPACITY {
            assert_eq!(queue.push(record()), Pushed::Queued);
        }
        assert_eq!(queue.push(record()), Pushed::Dropped);
        assert_eq!(queue.push(record()), Pushed::Dropped);
        assert_eq!(dropped.get(), 2);

        let mut batch = Vec::new();
        assert_eq!(queue.take(&mut batch), Orders { dropped: 2, ..Orders::default() });
        assert_eq!(batch.len(), CAPACITY);
        assert_eq!(queue.push(record()), Pushed::Queued);
        queue.finish(&mut batch);
        assert!(batch.capacity() < CAPACITY);
    }

    #[test]
    fn reopening_and_closing_wake_the_writer() {
        let queue = Queue::new(Counter::default());
        let mut batch = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| queue.reopen());
            assert_eq!(queue.take(&mut batch), Orders { is_reopen_due: true, ..Orders::default() });
            scope.spawn(|| queue.close());
            assert_eq!(queue.take(&mut batch), Orders { is_closed: true, ..Orders::default() });
        });
        assert!(batch.is_empty());
    }

    #[test]
    fn flush_ends_at_its_deadline_or_with_the_last_line() {
        let queue = Queue::new(Counter::default());
        queue.flush(Duration::from_secs(60));
        queue.push(record());
        queue.flush(Duration::from_millis(20));
        let mut batch = Vec::new();
        queue.take(&mut batch);
        std::thread::scope(|scope| {
            scope.spawn(|| queue.flush(Duration::from_secs(60)));
            queue.finish(&mut batch);
        });
        assert_eq!(queue.lock().flushers, 0);
    }
}
