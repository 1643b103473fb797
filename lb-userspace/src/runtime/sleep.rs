// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a moment, in a task of a worker.

use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Moment, if_there, with};

/// Waits until a moment has come. Nothing is set before it is polled.
#[derive(Debug)]
pub struct Sleep {
    deadline: Moment,
    state: State,
    /// Its timer is this thread's.
    not_send: PhantomData<*const ()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unset,
    /// The number of its timer.
    Set(u32),
    Elapsed,
}

/// The time was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct Elapsed;

impl From<Elapsed> for io::Error {
    fn from(_: Elapsed) -> Self {
        io::ErrorKind::TimedOut.into()
    }
}

/// Waits for so long.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Moment::now() + duration)
}

/// Waits until a moment; not at all if that is past.
pub fn sleep_until(deadline: impl Into<Moment>) -> Sleep {
    Sleep { deadline: deadline.into(), state: State::Unset, not_send: PhantomData }
}

/// Waits for a future, but not for longer than so long. Of both at once, it is the future that counts.
///
/// # Errors
/// The time was over first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(Moment::now() + duration, future).await
}

/// Waits for a future, but not beyond a moment. Of both at once, it is the future that counts.
///
/// # Errors
/// The moment came first.
pub async fn timeout_at<F: Future>(deadline: impl Into<Moment>, future: F) -> Result<F::Output, Elapsed> {
    let (mut future, mut sleep) = (pin!(future), pin!(sleep_until(deadline)));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

impl Sleep {
    /// Until when it waits.
    pub fn deadline(&self) -> Moment {
        self.deadline
    }

    /// Whether it has said that the moment has come.
    pub fn is_elapsed(&self) -> bool {
        self.state == State::Elapsed
    }

    /// Waits until another moment, as if it were new.
    pub fn reset(mut self: Pin<&mut Self>, deadline: impl Into<Moment>) {
        self.unset();
        self.deadline = deadline.into();
    }

    fn unset(&mut self) {
        if let State::Set(number) = std::mem::replace(&mut self.state, State::Unset) {
            if_there(|runtime| runtime.timers.remove(number));
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.state {
            State::Elapsed => return Poll::Ready(()),
            State::Unset if self.deadline > Moment::now() => {
                let number = with(|runtime| runtime.timers.add(self.deadline, cx.waker().clone()));
                self.state = State::Set(number);
                return Poll::Pending;
            }
            State::Unset => {}
            State::Set(number) if !with(|runtime| runtime.timers.has_fired(number, cx.waker())) => {
                return Poll::Pending;
            }
            State::Set(_) => self.unset(),
        }
        self.state = State::Elapsed;
        Poll::Ready(())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.unset();
    }
}
