// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that wait because every server has `max-connections`: first come, first served.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::roster::Roster;
use super::server::ServerSlot;
use crate::observe::metrics::BackendMetrics;

/// Who waits for a server of one backend.
///
/// Whoever frees a place gives it to the first in line, and as long as somebody is in line, whoever comes stands behind: so the order
/// is kept. A place that is freed while a connection is about to be the first in line is seen by one of the two, since both look after
/// they have acted (the fences order that). Behind the first, each place that is freed is somebody's turn: so many are free at most as
/// there are others about to pass one on.
#[derive(Debug)]
pub(super) struct Queue {
    max: usize,
    line: Mutex<Line>,
    /// The length of the line, to be read without the lock.
    length: AtomicUsize,
    metrics: BackendMetrics,
}

#[derive(Debug, Default)]
struct Line {
    /// By number.
    waiting: BTreeMap<u64, Waiting>,
    /// The last number given.
    last: u64,
}

#[derive(Debug)]
struct Waiting {
    /// What the choice goes by: [`super::Backend::key`].
    key: u64,
    /// Servers that the connection has tried, by id.
    tried: Box<[usize]>,
    place: oneshot::Sender<ServerSlot>,
}

/// One connection's position in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    position: usize,
    place: oneshot::Receiver<ServerSlot>,
    roster: Arc<Roster>,
}

impl Queue {
    /// For at most `max` connections.
    pub(super) fn new(max: usize, metrics: BackendMetrics) -> Self {
        Self { max, line: Mutex::default(), length: AtomicUsize::new(0), metrics }
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // What it guards cannot be left half done, so a panic elsewhere is no reason to stop.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_length(&self, line: &Line) {
        self.length.store(line.waiting.len(), Ordering::Relaxed);
        self.metrics.queue_length.set(line.waiting.len() as i64);
    }
}

impl Roster {
    /// Puts a connection in line: with the number that it had if it was in line before, or else at the end. `None` if there is
    /// no room, which one that was in line before needs not: it stands where it stood. No more come back so than had a place.
    pub(super) fn stand_in_line(
        self: &Arc<Self>,
        key: u64,
        tried: &[usize],
        number: Option<u64>,
    ) -> Option<Ticket> {
        let queue = &self.queue;
        let mut line = queue.lock();
        if number.is_none() && line.waiting.len() >= queue.max {
            return None;
        }
        // Counting would take as long as the line is: only who comes back needs it.
        let position = number.map_or(line.waiting.len(), |number| line.waiting.range(..number).count());
        let is_first = line.waiting.is_empty();
        let number = number.unwrap_or(line.last + 1);
        line.last = line.last.max(number);
        let (sender, place) = oneshot::channel();
        line.waiting.insert(number, Waiting { key, tried: tried.into(), place: sender });
        queue.note_length(&line);
        drop(line);
        // Behind others there is nothing to look for: who frees a place finds them waiting.
        if is_first {
            self.serve_queue();
        }
        Some(Ticket { number, position, place, roster: Arc::clone(self) })
    }

    /// Gives the places that are free to those who wait. To be called after anything that may have made room, but that a place was
    /// given back: [`Self::pass_on`].
    pub(super) fn serve_queue(&self) {
        self.serve(usize::MAX);
    }

    /// Gives a place that was given back to the first who waits. There is no second one to look for: to find that all servers are
    /// full, a pick looks at each, while nobody else can wait or leave.
    pub(super) fn pass_on(&self) {
        self.serve(1);
    }

    fn serve(&self, most: usize) {
        fence(Ordering::SeqCst);
        if self.queue.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        let mut line = self.queue.lock();
        for _ in 0..most {
            let Some(first) = line.waiting.first_entry() else { break };
            let Ok(server) = self.pick(first.get().key, &first.get().tried) else { break };
            refused.extend(first.remove().place.send(ServerSlot::of_taken(server)).err());
        }
        self.queue.note_length(&line);
        // Places of connections that have just gone are given back without the lock: that serves the queue again.
        drop(line);
    }
}

impl Ticket {
    /// The same for every time that the connection stands in line.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many were in front when it came.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Waits for a place on a server. `None` if none has come when `patience` ends.
    pub async fn place(mut self, patience: impl Future<Output = ()>) -> Option<ServerSlot> {
        tokio::select! {
            biased;
            place = &mut self.place => place.ok(),
            // It may have come at the same moment.
            () = patience => self.place.try_recv().ok(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let queue = &self.roster.queue;
        let mut line = queue.lock();
        if line.waiting.remove(&self.number).is_some() {
            queue.note_length(&line);
        }
        // A place that nobody took is in the channel; it goes to the next in line when that is dropped.
    }
}
