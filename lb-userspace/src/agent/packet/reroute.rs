// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows that programs know leave by the interface to which the routes lead, also when these change. Programs cannot look: the kernel lets
//! them ask for routes only at an interface that forwards packets (net/core/filter.c, bpf_ipv4_fib_lookup, BPF_FIB_LKUP_RET_FWD_DISABLED), which a
//! balancer need not do.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel::Packet;
use crate::kernel::packet::Interfaces;
use crate::net::routes::{RouteChanges, Routes};

/// How long changes are given to become complete: one change is often several messages.
const SETTLE: Duration = Duration::from_millis(20);

/// How much longer than a look at all flows nobody looks again.
const PAUSE_FACTOR: u32 = 10;

/// The longest time that nobody looks again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Follows the routes, to these interfaces, on a thread of its own: once at the start, for the agent before may have missed
/// something, and then whenever they change.
///
/// # Errors
/// The process has no descriptors left, or no thread.
pub(super) fn follow_routes(kernel: Arc<Packet>, interfaces: Arc<Interfaces>) -> io::Result<()> {
    let (changes, routes) = (RouteChanges::open()?, Routes::open()?);
    let follow = move || {
        let Err(error) = follow(&kernel, &interfaces, &changes, &routes);
        tracing::warn!(%error, "flows of path packet do not follow routes to other interfaces any more");
    };
    thread::Builder::new().name("lb-routes".into()).spawn(follow).map(drop)
}

/// Returns only if the kernel tells of no more changes.
fn follow(
    kernel: &Packet,
    interfaces: &Interfaces,
    changes: &RouteChanges,
    routes: &Routes,
) -> io::Result<std::convert::Infallible> {
    loop {
        let begun = Instant::now();
        let moved = look(kernel, routes, interfaces);
        if moved > 0 {
            tracing::info!(moved, "flows of path packet leave by another interface, for so the routes lead");
        }
        thread::sleep((begun.elapsed() * PAUSE_FACTOR).min(PAUSE_MAX));
        changes.wait()?;
        thread::sleep(SETTLE);
        changes.take()?;
    }
}

/// Looks at all flows; how many have changed.
fn look(kernel: &Packet, routes: &Routes, interfaces: &Interfaces) -> u32 {
    let (mut taken, mut lost, mut successors) = (HashMap::new(), HashMap::new(), HashMap::new());
    let interface = |from, to| {
        // Without programs at it answers might come past all of them.
        let is_taken = |number: &u32| *taken.entry(*number).or_insert_with(|| interfaces.take(*number));
        routes.interface(from, to).filter(is_taken)
    };
    let is_lost = |number| *lost.entry(number).or_insert_with(|| routes.is_lost(number));
    let successor = |number| *successors.entry(number).or_insert_with(|| interfaces.successor(number));
    kernel.reroute(interface, is_lost, successor)
}
