// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether programs and maps go with the agent. They stay while a flow in them needs nobody else, if somebody keeps them; else nothing is left
//! behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::Packet;
use crate::kernel::packet::Interfaces;

/// The programs at their interfaces. Dropping it takes them off, unless they are kept and somebody needs them.
#[derive(Debug)]
pub struct Stay {
    kernel: Arc<Packet>,
    interfaces: Arc<Interfaces>,
    /// Flows that need nobody but these programs.
    flows: AtomicU32,
}

/// A flow that goes on whatever becomes of the agent. Dropping it says that it has ended.
#[derive(Debug)]
pub struct OnItsOwn(Arc<Stay>);

impl Stay {
    /// With so many flows that another agent has left.
    pub fn new(kernel: Arc<Packet>, interfaces: Arc<Interfaces>, left: u32) -> Arc<Self> {
        Arc::new(Self { kernel, interfaces, flows: AtomicU32::new(left) })
    }

    /// Flows that an agent that ends need not wait for.
    pub fn flows(&self) -> u32 {
        if self.kernel.outlives() { self.flows.load(Ordering::Relaxed) } else { 0 }
    }

    /// A flow that another agent has left was taken up, and counts for itself.
    pub fn note_taken_up(&self) {
        self.flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let left = self.flows();
        if left > 0 {
            tracing::info!(flows = left, keeper = %self.kernel.keeper(), "flows of path packet go on without lb");
            return;
        }
        self.interfaces.detach();
        self.kernel.clear();
    }
}

impl OnItsOwn {
    /// One more.
    pub fn new(stay: &Arc<Stay>) -> Self {
        stay.flows.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(stay))
    }

    /// It goes on when the agent has ended.
    pub fn outlive(self) {
        // So that it counts to the end.
        let stay = Arc::clone(&self.0);
        stay.flows.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for OnItsOwn {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Ordering::Relaxed);
    }
}
