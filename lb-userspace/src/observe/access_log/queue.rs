// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bounded queue between workers and the thread that writes.
//!
//! A worker holds the lock for the time of one move; the writer for the time of one swap. A worker pays for a wake-up only when
//! the writer is parked, and the writer parks only after a nap that brought nothing: under load that is never; and once for each
//! half of the queue, so that a burst does not find the writer napping. Only at the end of the process does a worker wait for
//! room: all connections that are left end at once then, and nobody is served later for it.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::Record;

/// Most records that wait for the writer; those that it is writing come on top.
pub(super) const CAPACITY: usize = 8192;

/// Records that end the writer's nap.
const HALF: usize = CAPACITY / 2;

/// Records whose memory the queue keeps after a burst.
const KEPT_CAPACITY: usize = 256;

/// The queue. Shared by all workers and the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signalled when a parked or napping writer has something to do.
    work: Condvar,
    /// Signalled when the writer takes a batch at the end of the process, or is done with one and somebody flushes.
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
    /// Records lost that the writer has not warned about, when it last finished a batch.
    unsaid: u64,
    writer_is_parked: bool,
    is_reopen_due: bool,
    is_closed: bool,
    /// Callers inside [`Queue::flush`].
    flushers: usize,
    /// Set at the end of the process: how long a record may wait for room.
    ending_until: Option<Instant>,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The writer is awake and will find it.
    Queued,
    /// The writer was parked, or may have been napping while half the queue filled up, and has been woken.
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
        let mut state = self.lock_with_room();
        if state.records.len() >= CAPACITY {
            state.dropped += 1;
            drop(state);
            self.dropped.inc();
            return Pushed::Dropped;
        }
        state.records.push(record);
        state.accepted += 1;
        let is_due = mem::take(&mut state.writer_is_parked) || state.records.len() == HALF;
        drop(state);
        if !is_due {
            return Pushed::Queued;
        }
        self.work.notify_one();
        Pushed::QueuedAndWoken
    }

    /// The state, at the end of the process once there is room for a record or the time for waiting is over.
    fn lock_with_room(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.records.len() >= CAPACITY
            && let Some(left) = state.ending_until.and_then(time_left)
        {
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
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
        if state.ending_until.is_some() {
            self.progress.notify_all();
        }
        Orders {
            dropped: mem::take(&mut state.dropped),
            is_reopen_due: mem::take(&mut state.is_reopen_due),
            is_closed: state.is_closed,
        }
    }

    /// Says that a batch is written or given up, and empties it. `unsaid`: lost lines that the writer has yet to warn about.
    pub(super) fn finish(&self, batch: &mut Vec<Record>, unsaid: u64) {
        let mut state = self.lock();
        state.finished += batch.len() as u64;
        state.unsaid = unsaid;
        if state.flushers > 0 {
            self.progress.notify_all();
        }
        drop(state);
        batch.clear();
        batch.shrink_to(KEPT_CAPACITY);
    }

    /// Lets records gather for so long, unless somebody waits for them or half the queue is full.
    pub(super) fn nap(&self, duration: Duration) {
        let state = self.lock();
        let is_urgent = state.flushers > 0
            || state.ending_until.is_some()
            || state.is_reopen_due
            || state.is_closed
            || state.records.len() >= HALF;
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

    /// Says that the process ends: from now on the writer does not nap, and for so long a record that finds no room waits for it.
    pub(super) fn hurry(&self, patience: Duration) {
        self.lock().ending_until = Some(Instant::now() + patience);
        self.work.notify_one();
    }

    /// Waits until everything that is queued is written or given up, at most so long. Returns how many records are neither, or
    /// were lost without a warning.
    pub(super) fn flush(&self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        let goal = state.accepted;
        state.flushers += 1;
        self.work.notify_one();
        while state.finished < goal {
            let Some(left) = time_left(deadline) else { break };
            state = self.progress.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flushers -= 1;
        goal.saturating_sub(state.finished) + state.dropped + state.unsaid
    }

    /// A panic of another thread cannot leave the state half changed: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time until a deadline, if it has not passed.
fn time_left(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tests::record;
    use super::*;

    /// Pushes so many records from each of several threads.
    fn push_all(queue: &Queue, threads: usize, each: usize) {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..each {
                        queue.push(record());
                    }
                });
            }
        });
    }

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
        for place in 1..=CAPACITY {
            let expected = if place == HALF { Pushed::QueuedAndWoken } else { Pushed::Queued };
            assert_eq!(queue.push(record()), expected, "{place}");
        }
        assert_eq!(queue.push(record()), Pushed::Dropped);
        assert_eq!(queue.push(record()), Pushed::Dropped);
        assert_eq!(dropped.get(), 2);

        let mut batch = Vec::new();
        assert_eq!(queue.take(&mut batch), Orders { dropped: 2, ..Orders::default() });
        assert_eq!(batch.len(), CAPACITY);
        assert_eq!(queue.push(record()), Pushed::Queued);
        queue.finish(&mut batch, 0);
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
        assert_eq!(queue.flush(Duration::from_secs(60)), 0);
        queue.push(record());
        assert_eq!(queue.flush(Duration::from_millis(20)), 1);
        let mut batch = Vec::new();
        queue.take(&mut batch);
        std::thread::scope(|scope| {
            let flushed = scope.spawn(|| queue.flush(Duration::from_secs(60)));
            queue.finish(&mut batch, 0);
            assert_eq!(flushed.join().unwrap(), 0);
        });
        assert_eq!(queue.lock().flushers, 0);
        queue.finish(&mut batch, 7);
        assert_eq!(queue.flush(Duration::from_secs(60)), 7, "lost, and nobody was warned");
    }

    #[test]
    fn half_a_queue_ends_a_nap_and_the_end_of_the_process_does_too() {
        let queue = Queue::new(Counter::default());
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let nap = || queue.nap(Duration::from_secs(60));
            let napping = scope.spawn(nap);
            push_all(&queue, 1, HALF);
            napping.join().unwrap();
            nap();
            queue.take(&mut Vec::new());
            queue.hurry(Duration::ZERO);
            nap();
            assert!(begun.elapsed() < Duration::from_secs(60));
        });
    }

    #[test]
    fn at_the_end_a_burst_waits_for_a_slow_writer() {
        const RECORDS: usize = 5 * CAPACITY / 2;
        let dropped = Counter::default();
        let queue = Queue::new(dropped.clone());
        queue.hurry(Duration::from_secs(60));
        let written = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = Vec::new();
                while !queue.take(&mut batch).is_closed {
                    assert!(batch.len() <= CAPACITY);
                    std::thread::sleep(Duration::from_millis(20));
                    written.fetch_add(batch.len(), Ordering::Relaxed);
                    queue.finish(&mut batch, 0);
                }
            });
            push_all(&queue, 4, RECORDS / 4);
            assert_eq!(queue.flush(Duration::from_secs(60)), 0);
            queue.close();
        });
        assert_eq!((written.into_inner(), dropped.get()), (RECORDS, 0));
    }

    #[test]
    fn at_the_end_nobody_waits_for_a_writer_that_stands_still() {
        let queue = Queue::new(Counter::default());
        let begun = Instant::now();
        queue.hurry(Duration::from_millis(100));
        push_all(&queue, 2, CAPACITY);
        assert!(begun.elapsed() < Duration::from_secs(10), "the wait is for all records together");
        assert_eq!(queue.flush(Duration::from_millis(20)), 2 * CAPACITY as u64);
    }
}
