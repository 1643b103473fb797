// SPDX-License-Identifier: MIT OR Apache-2.0
//! Health checks: which servers are up.
//!
//! One task a checked server: wait, probe, judge. `Prober` makes one check and knows the network, [`Streak`] counts results and
//! is pure, `schedule` spreads the checks and is pure.

mod http;
mod outcome;
mod probe;
mod schedule;
mod streak;

use std::convert::Infallible;
use std::sync::Arc;

use lb_common::reason::ServerState;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, error, info, warn};

use crate::backend::{Backend, Server};
use crate::config;
use probe::{Checked, Prober};

pub use outcome::{Outcome, Verdict};
pub use streak::Streak;

/// Runs the checks of all backends on the current runtime (any kind, with timers and sockets; no `LocalSet` needed) until it is
/// dropped: it never returns, also if there is nothing to check.
pub async fn run(backends: Arc<[Arc<Backend>]>) {
    let mut watches = JoinSet::new();
    for backend in backends.iter() {
        let Some(check) = &backend.settings.check else { continue };
        for server in backend.servers.iter().filter(|server| server.settings.is_checked) {
            match Watch::new(backend, server, check) {
                Ok(watch) => _ = watches.spawn(watch.run()),
                Err(error) => error!(
                    backend = &*backend.settings.name,
                    server = &*server.settings.name,
                    %error,
                    "server is not checked: the request of its check cannot be built"
                ),
            }
        }
    }
    while let Some(Err(panic)) = watches.join_next().await {
        error!(%panic, "a health check stopped; its server keeps its state");
    }
    std::future::pending().await
}

/// The checks of one server.
struct Watch {
    backend: Arc<Backend>,
    server: Arc<Server>,
    check: config::Check,
    prober: Prober,
    streak: Streak,
    /// Whether the last check said nothing because this host lacked resources; warned of once in a row.
    is_starved: bool,
}

impl Watch {
    fn new(
        backend: &Arc<Backend>,
        server: &Arc<Server>,
        check: &config::Check,
    ) -> Result<Self, hyper::http::Error> {
        Ok(Self {
            prober: Prober::new(&backend.settings, &server.settings, check)?,
            backend: backend.clone(),
            server: server.clone(),
            check: check.clone(),
            streak: Streak::new(check.rise, check.fall),
            is_starved: false,
        })
    }

    /// Checks for ever, one check after the other.
    async fn run(mut self) -> Infallible {
        let mut start = Instant::now() + schedule::first_delay(self.check.interval, fastrand::f64());
        loop {
            sleep_until(start).await;
            let started = Instant::now();
            let checked = self.prober.check().await;
            self.judge(&checked);
            start =
                started + schedule::interval(self.check.interval, self.check.jitter_percent, fastrand::f64());
            // A server that is slow to close does not put off its next check.
            let _ = timeout_at(start, checked.finish()).await;
        }
    }

    /// Draws the consequences of a check.
    fn judge(&mut self, checked: &Checked) {
        let (outcome, duration) = (checked.outcome, checked.duration);
        debug!(
            backend = &*self.backend.settings.name,
            server = &*self.server.settings.name,
            result = %outcome,
            ?duration,
            "health check"
        );
        let verdict = outcome.verdict();
        self.note_starvation(verdict, outcome);
        let has_passed = match verdict {
            Verdict::Passed => true,
            Verdict::Failed => false,
            Verdict::Unknown => return,
        };
        let metrics = &self.server.metrics;
        metrics.checks.inc();
        metrics.check_duration.set(duration.as_secs_f64());
        if !has_passed {
            metrics.check_failures.inc();
        }
        if let Some(state) = self.streak.record(has_passed) {
            self.change(state, checked);
        }
    }

    /// Says once in a row that checks are not possible.
    fn note_starvation(&mut self, verdict: Verdict, outcome: Outcome) {
        let was_starved = std::mem::replace(&mut self.is_starved, verdict == Verdict::Unknown);
        if self.is_starved && !was_starved {
            warn!(
                backend = &*self.backend.settings.name,
                server = &*self.server.settings.name,
                reason = %outcome,
                "health check skipped for want of file descriptors, ports or memory on this host; server keeps its state"
            );
        }
    }

    fn change(&self, new: ServerState, checked: &Checked) {
        let old = self.server.set_state(new);
        if old == new {
            return;
        }
        let (backend, server) = (&*self.backend.settings.name, &*self.server.settings.name);
        let (reason, duration) = (checked.outcome, checked.duration);
        let servers_up = self.backend.servers_up();
        match new {
            ServerState::Up => {
                info!(backend, server, %old, %new, %reason, ?duration, servers_up, "server changed state");
            }
            ServerState::Down => {
                warn!(backend, server, %old, %new, %reason, ?duration, servers_up, "server changed state");
            }
        }
    }
}

#[cfg(test)]
mod tests;
