// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks of one thread, and how they are woken: by the thread itself without a lock, by others through a list and an eventfd(2).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::replace;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};

use super::if_there;

/// The number of the future that the thread runs for.
const ROOT: u32 = u32::MAX;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// All tasks of a thread.
pub(super) struct Tasks {
    places: RefCell<Places>,
    /// Tasks that were woken, in order.
    woken: RefCell<VecDeque<u32>>,
    /// Those that are to be woken after the others.
    late: RefCell<Vec<Waker>>,
    is_root_called: Cell<bool>,
    calls: Arc<Calls>,
}

#[derive(Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<u32>,
}

/// Where a task is kept. A waker of a task that has ended wakes the one that has its place: once for nothing, which futures put up with.
struct Place {
    /// `None` while it runs, and when it has ended.
    task: Option<Task>,
    handle: Arc<Handle>,
    waker: Waker,
}

/// What a waker knows.
struct Handle {
    number: u32,
    is_woken: AtomicBool,
    calls: Arc<Calls>,
}

/// Tasks of a thread that other threads have woken.
pub(super) struct Calls {
    numbers: Mutex<Vec<u32>>,
    event: OwnedFd,
}

impl Tasks {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            places: RefCell::default(),
            woken: RefCell::default(),
            late: RefCell::default(),
            is_root_called: Cell::new(false),
            calls: Arc::new(Calls { numbers: Mutex::default(), event }),
        })
    }

    /// What becomes readable when another thread wakes a task.
    pub(super) fn calls(&self) -> BorrowedFd<'_> {
        self.calls.event.as_fd()
    }

    /// Keeps a task, and runs it in its turn.
    pub(super) fn spawn(&self, task: Task) {
        let mut places = self.places.borrow_mut();
        let number = match places.free.pop() {
            Some(number) => number,
            None => self.add_place(&mut places),
        };
        let place = &mut places.all[number as usize];
        place.task = Some(task);
        let is_woken = place.handle.is_woken.swap(true, Ordering::Relaxed);
        drop(places);
        // A late waker of the one before has put it into the line already.
        if !is_woken {
            self.woken.borrow_mut().push_back(number);
        }
    }

    fn add_place(&self, places: &mut Places) -> u32 {
        let number = u32::try_from(places.all.len()).unwrap_or(ROOT);
        assert!(number < ROOT, "a process has fewer descriptors than this");
        let handle = self.handle(number);
        places.all.push(Place { task: None, waker: Waker::from(Arc::clone(&handle)), handle });
        number
    }

    fn handle(&self, number: u32) -> Arc<Handle> {
        Arc::new(Handle { number, is_woken: AtomicBool::new(false), calls: Arc::clone(&self.calls) })
    }

    /// Runs the task that was woken first; false if none was.
    pub(super) fn run_next(&self) -> bool {
        let Some(number) = self.woken.borrow_mut().pop_front() else { return false };
        let Some((mut task, waker)) = self.take(number) else { return true };
        let is_over = task.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        let mut places = self.places.borrow_mut();
        let place = &mut places.all[number as usize];
        place.waker = waker;
        if is_over {
            places.free.push(number);
            // What it held may spawn, or wake others.
            drop(places);
            drop(task);
        } else {
            place.task = Some(task);
        }
        true
    }

    fn take(&self, number: u32) -> Option<(Task, Waker)> {
        let mut places = self.places.borrow_mut();
        let place = &mut places.all[number as usize];
        // Before it runs: what wakes it meanwhile is not lost. Acquire: it sees what was done before the waker was called.
        place.handle.is_woken.swap(false, Ordering::Acquire);
        let task = place.task.take()?;
        Some((task, replace(&mut place.waker, Waker::noop().clone())))
    }

    /// Wakes a task after all that were woken.
    pub(super) fn wake_later(&self, waker: &Waker) {
        self.late.borrow_mut().push(waker.clone());
    }

    /// Wakes those that let others go first.
    pub(super) fn wake_late(&self) {
        if self.late.borrow().is_empty() {
            return;
        }
        let late = self.late.take();
        late.into_iter().for_each(Waker::wake);
    }

    /// Has the root run, and gives the waker for it.
    pub(super) fn call_root(&self) -> Waker {
        self.is_root_called.set(true);
        Waker::from(self.handle(ROOT))
    }

    /// Whether the root was woken since this was last asked.
    pub(super) fn take_root_call(&self) -> bool {
        self.is_root_called.replace(false)
    }

    /// Whether something was woken and has not run.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_root_called.get() || !self.woken.borrow().is_empty() || !self.late.borrow().is_empty()
    }

    /// Puts those that other threads have woken into the line.
    pub(super) fn take_calls(&self) {
        // First this: a call that comes in between is written anew.
        let _ = rustix::io::read(&self.calls.event, &mut [0; 8]);
        let numbers = std::mem::take(&mut *self.calls.lock());
        for number in numbers {
            self.wake(number);
        }
    }

    fn wake(&self, number: u32) {
        if number == ROOT {
            self.is_root_called.set(true);
        } else {
            self.woken.borrow_mut().push_back(number);
        }
    }

    /// Places for tasks, used or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.borrow().all.len()
    }

    /// Drops all tasks, and those that begin meanwhile.
    pub(super) fn clear(&self) {
        loop {
            let task = self.places.borrow_mut().take_any();
            // No place is borrowed: what it holds may wake others, or spawn.
            if task.map(drop).is_none() {
                return;
            }
        }
    }
}

impl Places {
    fn take_any(&mut self) -> Option<Task> {
        let number = self.all.iter().position(|place| place.task.is_some())?;
        self.free.push(number as u32);
        self.all[number].task.take()
    }
}

impl Calls {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, number: u32) {
        let mut numbers = self.lock();
        let is_first = numbers.is_empty();
        numbers.push(number);
        drop(numbers);
        if is_first {
            // It holds a number that never comes near its limit.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_root = self.number == ROOT;
        // Release: the task sees what was done before this.
        if !is_root && self.is_woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut is_here = false;
        if_there(|runtime| {
            is_here = Arc::ptr_eq(&runtime.tasks.calls, &self.calls);
            if is_here {
                runtime.tasks.wake(self.number);
            }
        });
        if !is_here {
            self.calls.push(self.number);
        }
    }
}
