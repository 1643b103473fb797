// SPDX-License-Identifier: MIT OR Apache-2.0
//! A timer of the worker's own, so that new flows do not wake it up.

use std::rc::Rc;
use std::time::Duration;

use super::Worker;

/// How often a worker wakes up while connections come, at most: shorter than [`crate::path::COUNTING_DELAY_MAX`], the first timer of a flow.
const BEAT: Duration = Duration::from_millis(900);

/// Waits for a timer that ends before any of a new flow does, while connections come. The runtime wakes itself up for a timer that ends
/// before all others, by a write(2) to a descriptor of its own: without this, once for each connection that comes alone.
pub(super) async fn beat(worker: Rc<Worker>) {
    loop {
        worker.has_new.notified().await;
        tokio::time::sleep(BEAT).await;
    }
}
