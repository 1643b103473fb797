// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows that have left user space leave by the interface to which the routes lead, also when these change. Programs cannot look: the kernel lets
//! them ask for routes only at an interface that forwards packets (net/core/filter.c, bpf_ipv4_fib_lookup, BPF_FIB_LKUP_RET_FWD_DISABLED), which a
//! balancer need not do.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel::Packet;
use crate::net::routes::{RouteChanges, Routes};

/// How long changes are given to become complete: one change is often several messages.
const SETTLE: Duration = Duration::from_millis(20);

/// How much longer than a look at all flows nobody looks again.
const PAUSE_FACTOR: u32 = 10;

/// Follows the routes for ever, to interfaces with these numbers, on a thread of its own: once at the start, for the agent before may have missed
/// something, and then whenever they change.
///
/// # Errors
/// The process has no descriptors left, or no thread.
pub(super) fn follow_routes(kernel: Arc<Packet>, interfaces: Vec<u32>) -> io::Result<()> {
    let (changes, routes) = (RouteChanges::open()?, Routes::open()?);
    let follow = move || loop {
        let begun = Instant::now();
        let moved = look(&kernel, &routes, &interfaces);
        if moved > 0 {
            tracing::info!(moved, "flows of path packet leave by another interface, for so the routes lead");
        }
        thread::sleep(begun.elapsed() * PAUSE_FACTOR);
        changes.wait();
        thread::sleep(SETTLE);
        changes.take();
    };
    thread::Builder::new().name("lb-routes".into()).spawn(follow).map(drop)
}

/// Looks at all flows; how many ways have changed.
fn look(kernel: &Packet, routes: &Routes, interfaces: &[u32]) -> u32 {
    let interface = |from, to| {
        // Without programs at it answers might come past all of them.
        routes.interface(from, to).filter(|interface| interfaces.contains(interface))
    };
    (0..kernel.flows_max()).map(|slot| kernel.reroute(slot, interface)).sum()
}
