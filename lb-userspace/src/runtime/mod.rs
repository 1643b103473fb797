// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a worker's thread runs on: the tasks, sockets and timers of one thread. Other threads can wake a task, and nothing else.
//!
//! The control thread runs on tokio. A worker does not, because of what a connection costs there: two system calls to take its sockets out
//! of epoll, which close(2) does by itself; blocks in steps of 128 bytes for each socket and each task, made anew each time; locks and atomic
//! counts for sharing that never happens. Nearly half of an idle flow's memory was that (1.72 KiB, now 0.96, by the bench). A worker's
//! futures are ordinary ones, and what tokio has for messages between tasks (`tokio::sync`) works here as there, since it only needs a waker;
//! but nobody counts how many a task takes at once (tokio::task::coop): a loop over them yields by itself.
//!
//! One turn of the loop ([`Runtime::run`]): tasks that were woken, timers that are due, then what the kernel has to say of sockets. Who has more to
//! do and lets others go first ([`yield_now`], [`wake_later`]) has the next turn, not this one again.

mod moment;
mod sleep;
mod sockets;
mod tasks;
mod timers;

use std::cell::OnceCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

pub use moment::Moment;
pub use sleep::{Elapsed, Sleep, sleep, sleep_until, timeout, timeout_at};
pub use sockets::{Readiness, Socket};

use self::sockets::Sockets;
use self::tasks::Tasks;
use self::timers::Timers;

/// Tasks that run before sockets are looked at again, at most.
const TASKS_IN_A_TURN: u32 = 64;

/// The longest wait: epoll_wait(2) counts milliseconds in an int, and waking up for nothing once a day does no harm.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

thread_local! {
    static CURRENT: OnceCell<Runtime> = const { OnceCell::new() };
}

/// The runtime of one thread.
struct Runtime {
    tasks: Tasks,
    sockets: Sockets,
    timers: Timers,
}

/// Runs a future to its end on the calling thread, and what it spawns as long; tasks that are left then are dropped. `note_wakeup` is called after each
/// wait that may have been one.
///
/// # Errors
/// The kernel refuses an epoll instance or an eventfd, or a wait.
pub fn block_on<F: Future>(root: F, mut note_wakeup: impl FnMut()) -> io::Result<F::Output> {
    if CURRENT.with(|current| current.get().is_none()) {
        let runtime = Runtime::new()?;
        CURRENT.with(|current| {
            // It was empty a moment ago, and no other thread sees it.
            let _ = current.set(runtime);
        });
    }
    with(|runtime| runtime.run(pin!(root), &mut note_wakeup))
}

/// Begins a task on the calling thread, which is a worker's.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    with(|runtime| runtime.tasks.spawn(Box::pin(task)));
}

/// Lets all others have a turn, and the kernel tell of sockets.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        wake_later(cx);
        Poll::Pending
    })
    .await;
}

/// Wakes the task that runs, once all others have had a turn, and the kernel has told of sockets.
pub fn wake_later(cx: &Context<'_>) {
    with(|runtime| runtime.tasks.wake_later(cx.waker()));
}

/// What belongs to the calling thread.
fn with<T>(act: impl FnOnce(&Runtime) -> T) -> T {
    CURRENT.with(|current| act(current.get().expect("this is a worker's thread: block_on is below it")))
}

/// The same, for what may be dropped when the thread's own is gone already.
fn if_there(act: impl FnOnce(&Runtime)) {
    let _ = CURRENT.try_with(|current| current.get().map(act));
}

impl Runtime {
    fn new() -> io::Result<Self> {
        let sockets = Sockets::new()?;
        let tasks = Tasks::new()?;
        sockets.hear_calls(tasks.calls())?;
        Ok(Self { tasks, sockets, timers: Timers::default() })
    }

    fn run<F: Future>(&self, mut root: Pin<&mut F>, note_wakeup: &mut impl FnMut()) -> io::Result<F::Output> {
        let waker = self.tasks.call_root();
        let mut cx = Context::from_waker(&waker);
        loop {
            if self.tasks.take_root_call()
                && let Poll::Ready(output) = root.as_mut().poll(&mut cx)
            {
                self.tasks.clear();
                return Ok(output);
            }
            let mut turns = TASKS_IN_A_TURN;
            while turns > 0 && self.tasks.run_next() {
                turns -= 1;
            }
            let now = Moment::now();
            self.timers.fire(now);
            let patience = if self.tasks.is_waiting() {
                Some(Duration::ZERO)
            } else {
                self.timers.next().map(|at| at.since(now).min(WAIT_MAX))
            };
            if self.sockets.wait(patience)? {
                self.tasks.take_calls();
            }
            self.tasks.wake_late();
            if patience != Some(Duration::ZERO) {
                note_wakeup();
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// Runs a test as a worker runs its sessions.
    pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
        super::block_on(test, || ()).expect("the kernel has epoll")
    }
}

#[cfg(test)]
mod tests;
