// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wait until every segment that a program had let pass before has reached its socket.
//!
//! The kernel takes a packet from the interface's hook to the socket in one read-side critical section of RCU (net/core/dev.c,
//! netif_receive_skb_internal), and membarrier(2) returns after a grace period: what passed the hook before has then come to its socket, or to
//! the backlog of one that is in use, which SO_MEMINFO tells. So whoever asks afterwards what a socket holds misses nothing that the program
//! has not seen. One wait serves all who came before it.

use std::fs;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use rustix::thread::{MembarrierCommand, membarrier};
use tokio::sync::oneshot;

/// Where waits begin.
#[derive(Clone, Debug)]
pub struct Grace(Sender<oneshot::Sender<()>>);

impl Grace {
    /// Finds out whether the kernel waits here.
    ///
    /// # Errors
    /// membarrier(2) does not wait (CONFIG_MEMBARRIER is off, processors run without a tick, or the kernel is one for real time, which with one processor
    /// does not wait at all), or a filter forbids it (seccomp(2)).
    pub fn try_out() -> io::Result<()> {
        if fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(membarrier(MembarrierCommand::Global)?)
    }

    /// Starts the thread that waits.
    ///
    /// # Errors
    /// As [`Self::try_out`], or there is no room for a thread.
    pub fn start() -> io::Result<Self> {
        Self::try_out()?;
        let (sender, receiver) = channel();
        thread::Builder::new().name("lb-grace".into()).spawn(move || serve(&receiver))?;
        Ok(Self(sender))
    }

    /// Ends once everything that passed before this call has reached its socket; `false`: it never will be known.
    pub async fn pass(&self) -> bool {
        let (done, passed) = oneshot::channel();
        self.0.send(done).is_ok() && passed.await.is_ok()
    }
}

/// Waits for all who have come, again and again, until nobody is left who could come.
fn serve(waiting: &Receiver<oneshot::Sender<()>>) {
    while let Ok(first) = waiting.recv() {
        let all: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
        if membarrier(MembarrierCommand::Global).is_err() {
            // Whoever hears nothing knows nothing.
            return;
        }
        for done in all {
            // Who has gone meanwhile does not mind.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_waits_end() {
        let grace = Grace::start().expect("the kernel has membarrier");
        let waits: Vec<_> =
            (0..50).map(|_| grace.clone()).map(|grace| async move { grace.pass().await }).collect();
        for wait in waits {
            assert!(wait.await);
        }
    }
}
