// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pipes for path `splice`. A flow borrows one only while bytes are inside it, so that a few serve thousands of idle flows.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;
use rustix::pipe::PipeFlags;

/// Empty pipes that a worker keeps for the next flow; more are closed.
const IDLE_PIPES_MAX: usize = 64;

/// How many pipes the process may have, over all workers: they cost two file descriptors each, and beyond
/// fs.pipe-user-pages-soft (pipe(7)) an unprivileged user's pipes shrink to two pages.
#[derive(Debug)]
pub struct PipeBudget {
    max: usize,
    open: AtomicUsize,
    gauge: Gauge,
}

impl PipeBudget {
    /// At most `max` pipes; `gauge` shows how many there are.
    pub fn new(max: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicUsize::new(0), gauge })
    }

    fn take(&self) -> bool {
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < self.max).then_some(open + 1))
            .is_ok();
        if taken {
            self.gauge.inc();
        }
        taken
    }

    fn give_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

/// A pipe's two ends.
#[derive(Debug)]
pub struct Pipe {
    /// The end that bytes come out of.
    pub reader: OwnedFd,
    /// The end that bytes go into.
    pub writer: OwnedFd,
    budget: Arc<PipeBudget>,
}

impl Pipe {
    fn open(budget: &Arc<PipeBudget>) -> io::Result<Option<Self>> {
        if !budget.take() {
            return Ok(None);
        }
        match rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) {
            Ok((reader, writer)) => Ok(Some(Self { reader, writer, budget: Arc::clone(budget) })),
            Err(errno) => {
                budget.give_back();
                Err(errno.into())
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.budget.give_back();
    }
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    budget: Arc<PipeBudget>,
}

impl Pipes {
    /// No pipes yet; they are opened when first needed.
    pub fn new(budget: Arc<PipeBudget>) -> Self {
        Self { idle: RefCell::new(Vec::new()), budget }
    }

    /// An empty pipe; `None` if there are as many as there may be or the process has no descriptors left: the caller copies.
    pub fn borrow(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        Pipe::open(&self.budget).ok().flatten()
    }

    /// Takes back a pipe that is empty.
    pub fn give_back(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_PIPES_MAX {
            idle.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_hard_limit_and_pipes_come_back() {
        let gauge = Gauge::default();
        let pipes = Pipes::new(PipeBudget::new(2, gauge.clone()));
        let (first, second) = (pipes.borrow(), pipes.borrow());
        assert!(first.is_some() && second.is_some());
        assert!(pipes.borrow().is_none());
        assert_eq!(gauge.get(), 2);
        drop(first);
        assert_eq!(gauge.get(), 1);
        pipes.give_back(second.expect("borrowed above"));
        assert_eq!(gauge.get(), 1);
        assert!(pipes.borrow().is_some());
    }
}
