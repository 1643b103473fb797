// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pipes for path `splice`. A flow borrows one only while bytes are inside it, so that a few serve thousands of idle flows.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;
use rustix::pipe::PipeFlags;

/// Empty pipes that a worker keeps for the next flow; more are closed. Never more than half of its share of the budget, so that
/// what one worker keeps is not what another lacks.
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

/// A pipe's two ends. Boxed all its life, so that a flow without one keeps room for a pointer alone.
#[derive(Debug)]
pub struct Pipe {
    /// The end that bytes come out of.
    pub reader: OwnedFd,
    /// The end that bytes go into.
    pub writer: OwnedFd,
    budget: Arc<PipeBudget>,
}

impl Pipe {
    fn open(budget: &Arc<PipeBudget>) -> io::Result<Option<Box<Self>>> {
        if !budget.take() {
            return Ok(None);
        }
        match rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) {
            Ok((reader, writer)) => Ok(Some(Box::new(Self { reader, writer, budget: Arc::clone(budget) }))),
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
    #[expect(clippy::vec_box, reason = "a flow borrows the box")]
    idle: RefCell<Vec<Box<Pipe>>>,
    idle_max: usize,
    budget: Arc<PipeBudget>,
}

impl Pipes {
    /// No pipes yet; they are opened when first needed. `workers` share the budget.
    pub fn new(budget: Arc<PipeBudget>, workers: usize) -> Self {
        let idle_max = (budget.max / workers.max(1) / 2).min(IDLE_PIPES_MAX);
        Self { idle: RefCell::new(Vec::new()), idle_max, budget }
    }

    /// An empty pipe; `None` if there are as many as there may be or the process has no descriptors left: the caller copies.
    pub fn borrow(&self) -> Option<Box<Pipe>> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        Pipe::open(&self.budget).ok().flatten()
    }

    /// Takes back a pipe that is empty.
    pub fn give_back(&self, pipe: Box<Pipe>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.idle_max {
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
        let pipes = Pipes::new(PipeBudget::new(2, gauge.clone()), 1);
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

    #[test]
    fn what_one_worker_keeps_is_not_what_another_lacks() {
        let budget = PipeBudget::new(8, Gauge::default());
        let workers = [Pipes::new(Arc::clone(&budget), 2), Pipes::new(Arc::clone(&budget), 2)];
        let burst: Vec<_> = std::iter::from_fn(|| workers[0].borrow()).collect();
        assert_eq!(burst.len(), 8);
        assert!(workers[1].borrow().is_none());
        for pipe in burst {
            workers[0].give_back(pipe);
        }
        let left: Vec<_> = std::iter::from_fn(|| workers[1].borrow()).collect();
        assert_eq!(left.len(), 6);
    }
}
