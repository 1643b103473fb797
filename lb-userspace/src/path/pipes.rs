// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pipes for path `splice`. A flow borrows one only while bytes are inside it, so that a few serve thousands of idle flows.
//!
//! What one splice(2) moves is bounded by the pipe's slots, a fragment of a page each, and a write of many fragments costs hardly more
//! than one of a few. So the first pipes are wide. There are few of them, because a user's pipes together may have only so many pages.
//!
//! Other processes of the user have pipes, too, such as another agent. Where they leave no pages, the kernel still makes pipes, but narrow
//! ones: these are worse than a copy, and not used.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;
use rustix::param::page_size;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size};

use crate::config::needs::{WIDE_PIPE_PAGES, WIDE_PIPES_MAX};

/// Empty pipes that a worker keeps for the next flow; more are closed. Never more than half of its share of the budget, so that
/// what one worker keeps is not what another lacks.
const IDLE_PIPES_MAX: usize = 64;

/// What it keeps of them when it serves nobody: pages that lie idle are missing to other processes of the user.
const RESTING_PIPES_MAX: usize = 4;

/// Chunks that a worker copies after the kernel has refused a pipe, before it asks again: asking for each would cost CPU beside the copy.
const REFUSALS: u32 = 64;

/// Bytes of a page where the kernel has the smallest; where they are larger, a wide pipe has fewer slots.
const PAGE_BYTES: usize = 4096;

/// What a wide pipe is asked to hold, in bytes.
const WIDE_BYTES: usize = WIDE_PIPE_PAGES as usize * PAGE_BYTES;

/// How many pipes the process may have, over all workers: they cost two file descriptors each, and pages.
#[derive(Debug)]
pub struct PipeBudget {
    max: usize,
    open: AtomicUsize,
    wide: AtomicUsize,
    gauge: Gauge,
}

impl PipeBudget {
    /// At most `max` pipes; `gauge` shows how many there are.
    pub fn new(max: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { max, open: AtomicUsize::new(0), wide: AtomicUsize::new(0), gauge })
    }

    fn take(&self) -> bool {
        let is_taken = take_below(&self.open, self.max);
        if is_taken {
            self.gauge.inc();
        }
        is_taken
    }

    fn give_back(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }

    fn take_wide(&self) -> bool {
        take_below(&self.wide, WIDE_PIPES_MAX as usize)
    }

    fn give_back_wide(&self) {
        self.wide.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one to what is below `max`; whether it was.
fn take_below(count: &AtomicUsize, max: usize) -> bool {
    let add = |count| (count < max).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

/// A pipe's two ends. Boxed all its life, so that a flow without one keeps room for a pointer alone.
#[derive(Debug)]
pub struct Pipe {
    /// The end that bytes come out of.
    pub reader: OwnedFd,
    /// The end that bytes go into.
    pub writer: OwnedFd,
    is_wide: bool,
    budget: Arc<PipeBudget>,
}

impl Pipe {
    fn open(budget: &Arc<PipeBudget>) -> io::Result<Option<Box<Self>>> {
        if !budget.take() {
            return Ok(None);
        }
        match rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC) {
            Ok((reader, writer)) => {
                let is_wide = widen(&writer, budget);
                let pipe = Box::new(Self { reader, writer, is_wide, budget: Arc::clone(budget) });
                if !is_wide && is_narrow(&pipe.writer) {
                    return Err(io::ErrorKind::QuotaExceeded.into());
                }
                Ok(Some(pipe))
            }
            Err(errno) => {
                budget.give_back();
                Err(errno.into())
            }
        }
    }
}

/// Makes a pipe a wide one, if there may be one more; whether it is.
fn widen(pipe: &OwnedFd, budget: &PipeBudget) -> bool {
    if !budget.take_wide() {
        return false;
    }
    // What other processes of the user have counts, too: then it stays as it is.
    let is_wide = fcntl_setpipe_size(pipe, WIDE_BYTES).is_ok();
    if !is_wide {
        budget.give_back_wide();
    }
    is_wide
}

/// Whether a pipe has no more slots than the kernel gives a user whose pipes have all the pages that they may have (pipe(7),
/// fs.pipe-user-pages-soft; PIPE_MIN_DEF_BUFFERS in fs/pipe.c).
fn is_narrow(pipe: &OwnedFd) -> bool {
    fcntl_getpipe_size(pipe).is_ok_and(|bytes| bytes <= 2 * page_size())
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.is_wide {
            self.budget.give_back_wide();
        }
        self.budget.give_back();
    }
}

/// The pipes of one worker.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Idle>,
    idle_max: usize,
    budget: Arc<PipeBudget>,
    /// Of [`REFUSALS`].
    refusals_left: Cell<u32>,
}

/// Pipes that nobody has borrowed; a flow borrows the box.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a flow borrows the box")]
struct Idle {
    wide: Vec<Box<Pipe>>,
    others: Vec<Box<Pipe>>,
}

impl Idle {
    fn len(&self) -> usize {
        self.wide.len() + self.others.len()
    }
}

impl Pipes {
    /// No pipes yet; they are opened when first needed. `workers` share the budget.
    pub fn new(budget: Arc<PipeBudget>, workers: usize) -> Self {
        let idle_max = (budget.max / workers.max(1) / 2).min(IDLE_PIPES_MAX);
        Self { idle: RefCell::default(), idle_max, budget, refusals_left: Cell::new(0) }
    }

    /// An empty pipe, a wide one if one is idle; `None` if there are as many as there may be, the process has no descriptors left, or the user
    /// no pages: the caller copies.
    pub fn borrow(&self) -> Option<Box<Pipe>> {
        let mut idle = self.idle.borrow_mut();
        if let Some(pipe) = idle.wide.pop().or_else(|| idle.others.pop()) {
            return Some(pipe);
        }
        if let Some(left) = self.refusals_left.get().checked_sub(1) {
            self.refusals_left.set(left);
            return None;
        }
        Pipe::open(&self.budget).unwrap_or_else(|_| {
            self.refusals_left.set(REFUSALS);
            None
        })
    }

    /// Takes back a pipe that is empty.
    pub fn give_back(&self, pipe: Box<Pipe>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.idle_max {
            return;
        }
        let kept = if pipe.is_wide { &mut idle.wide } else { &mut idle.others };
        kept.push(pipe);
    }

    /// Closes idle pipes but for a few, because the worker serves nobody.
    pub fn rest(&self) {
        let mut idle = self.idle.borrow_mut();
        idle.wide.truncate(RESTING_PIPES_MAX);
        let left = RESTING_PIPES_MAX - idle.wide.len();
        idle.others.truncate(left);
        self.refusals_left.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::needs::{PIPE_PAGES, PIPE_PAGES_MAX, PIPES_MAX};

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
    fn two_pages_are_narrow() {
        let (_reader, writer) = rustix::pipe::pipe().expect("a pipe");
        assert!(!is_narrow(&writer));
        fcntl_setpipe_size(&writer, 2 * page_size()).expect("a pipe may always shrink");
        assert!(is_narrow(&writer));
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

    #[test]
    fn few_are_kept_where_nobody_is_served() {
        let budget = PipeBudget::new(32, Gauge::default());
        let pipes = Pipes::new(Arc::clone(&budget), 1);
        let all: Vec<_> = std::iter::from_fn(|| pipes.borrow()).collect();
        all.into_iter().for_each(|pipe| pipes.give_back(pipe));
        assert_eq!(budget.open.load(Ordering::Relaxed), 16);
        pipes.rest();
        assert_eq!(budget.open.load(Ordering::Relaxed), RESTING_PIPES_MAX);
        assert!(pipes.borrow().is_some());
    }

    /// All of them together have no more pages than an unprivileged user may have.
    const _: () = {
        let others = PIPES_MAX - WIDE_PIPES_MAX;
        assert!(WIDE_PIPES_MAX * WIDE_PIPE_PAGES + others * PIPE_PAGES <= PIPE_PAGES_MAX);
    };

    /// With a few others: all that there may be are more than many a process may have descriptors for.
    #[test]
    fn a_few_pipes_are_wide_and_go_first() {
        let max = WIDE_PIPES_MAX as usize + 4;
        let pipes = Pipes::new(PipeBudget::new(max, Gauge::default()), 1);
        let all: Vec<_> = std::iter::from_fn(|| pipes.borrow()).collect();
        let bytes = |pipe: &Pipe| fcntl_getpipe_size(&pipe.reader).expect("a pipe");
        let wide = all.iter().filter(|pipe| bytes(pipe) == WIDE_BYTES).count();
        assert_eq!((wide, all.len()), (WIDE_PIPES_MAX as usize, max));
        let (mut wide, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(|pipe| pipe.is_wide);
        pipes.give_back(wide.pop().expect("a wide one"));
        pipes.give_back(others.pop().expect("another"));
        assert!(pipes.borrow().is_some_and(|pipe| pipe.is_wide));
        drop(wide);
        assert!(std::iter::from_fn(|| pipes.borrow()).any(|pipe| pipe.is_wide));
    }
}
