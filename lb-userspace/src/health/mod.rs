// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health checks: which servers are up.
//!
//! [`Checks`] starts the check of one server, and ends it when its guard is dropped; servers whose checks would be the same share
//! one probe (`shared`). A `Prober` makes one check and knows the network; a `Watch` draws the consequences for one server.
//! [`Streak`] counts results, `schedule` spreads the checks and `certificate` reads certificates: those are pure. [`Vitals`] is what a
//! server carries along, for traffic to write and for the admin surface to read.

mod certificate;
mod http;
mod outcome;
mod probe;
mod schedule;
mod script;
mod shared;
mod streak;
mod tls;
mod vitals;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::error;

use crate::backend::{Backend, Server};

pub use certificate::{LastCertificate, NAMES_MAX};
pub use outcome::{Outcome, TlsFailure, Verdict};
pub use probe::ProbeError;
pub use shared::{CheckGuard, Checks};
pub use streak::{Phase, Streak};
pub use tls::TlsError;
pub use vitals::{CheckResult, RESULTS_MAX, Traffic, Vitals};

/// Runs the checks of all backends on the current runtime (any kind, with timers and sockets; no `LocalSet` needed) until it is
/// dropped: it never returns, also if there is nothing to check.
pub async fn run(backends: Arc<[Arc<Backend>]>, checks: Checks) {
    let mut watched = JoinSet::new();
    for backend in backends.iter() {
        watched.spawn(follow(Arc::clone(backend), checks.clone()));
    }
    while let Some(Err(panic)) = watched.join_next().await {
        error!(%panic, "the health checks of a backend stopped; its servers keep their state");
    }
    std::future::pending().await
}

/// Checks the servers that a backend has, also those that come later.
async fn follow(backend: Arc<Backend>, checks: Checks) {
    let mut changes = backend.changes();
    let mut guards: HashMap<usize, Option<CheckGuard>> = HashMap::new();
    loop {
        changes.borrow_and_update();
        let servers = backend.servers();
        let ids: HashSet<usize> = servers.iter().map(|server| server.id()).collect();
        guards.retain(|id, _| ids.contains(id));
        for server in servers.iter() {
            guards.entry(server.id()).or_insert_with(|| start(&checks, &backend, server));
        }
        if changes.changed().await.is_err() {
            // No further servers can come.
            std::future::pending::<()>().await;
        }
        checks.tell_certificates();
    }
}

fn start(checks: &Checks, backend: &Arc<Backend>, server: &Arc<Server>) -> Option<CheckGuard> {
    checks.start(backend, server).unwrap_or_else(|error| {
        error!(
            backend = &*backend.settings.name,
            server = &*server.settings.name,
            error = format!("{:#}", anyhow::Error::new(error)),
            "server is not checked"
        );
        None
    })
}

#[cfg(test)]
mod tests;
