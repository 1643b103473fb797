// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a flow hears that a program calls it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use super::lock;

/// The bell of one flow.
#[derive(Debug, Default)]
pub struct Bell {
    has_rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    /// Notes a call and wakes who listens.
    pub fn ring(&self) {
        self.has_rung.store(true, Ordering::Release);
        self.wake();
    }

    /// Wakes who listens, without a call.
    pub fn wake(&self) {
        if let Some(waker) = lock(&self.waker).clone() {
            waker.wake();
        }
    }

    /// Whom to wake from now on.
    pub fn listen(&self, waker: &Waker) {
        let mut listening = lock(&self.waker);
        if !listening.as_ref().is_some_and(|before| before.will_wake(waker)) {
            *listening = Some(waker.clone());
        }
    }

    /// Whether there was a call since the last time that this was asked.
    pub fn take_call(&self) -> bool {
        self.has_rung.swap(false, Ordering::AcqRel)
    }

    /// Forgets who listened, and calls that nobody has heard.
    pub fn clear(&self) {
        *lock(&self.waker) = None;
        self.take_call();
    }
}
