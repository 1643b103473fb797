// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the results of checks and traffic mean for one server.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb_common::reason::ServerState;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::outcome::{Outcome, Verdict};
use super::probe::Checked;
use super::streak::{Phase, Streak};
use super::vitals::CheckResult;
use crate::backend::{Backend, Server};
use crate::config::{Check, OnError};

/// One server that is watched. While it exists, traffic is counted if the configuration says so.
#[derive(Debug)]
pub(super) struct Watch {
    backend: Arc<Backend>,
    server: Arc<Server>,
    check: Check,
    streak: Streak,
    /// The end of its certificate that [`Self::show_expiry`] knows of, in seconds since 1970.
    expiry: Option<i64>,
    /// Whether the last check said nothing because this host lacked resources; warned of once in a row.
    is_starved: bool,
}

impl Watch {
    /// Begins to watch; `listener` is woken when traffic calls.
    pub(super) fn new(
        backend: &Arc<Backend>,
        server: &Arc<Server>,
        check: &Check,
        listener: &Arc<Notify>,
    ) -> Self {
        let limit = check.observe.map_or(0, |observe| observe.error_limit.get());
        server.vitals.traffic.observe(limit, Some(Arc::clone(listener)));
        Self {
            backend: Arc::clone(backend),
            server: Arc::clone(server),
            check: check.clone(),
            streak: Streak::new(check.rise, check.fall, server.state()),
            expiry: None,
            is_starved: false,
        }
    }

    /// From the start of the last check to the start of the next, as this server has it, without jitter.
    pub(super) fn interval(&self) -> Duration {
        match self.streak.phase() {
            Phase::Up => self.check.interval,
            Phase::Changing => self.check.fast_interval,
            Phase::Down => self.check.down_interval,
        }
    }

    /// Keeps the certificate of a check, if it saw one, and says whether it is for other names than the one before.
    pub(super) fn note_certificate(&mut self, checked: &Checked) -> bool {
        let Some(certificate) = &checked.certificate else { return false };
        let is_for_other_names = self.server.vitals.note_certificate(Arc::clone(certificate));
        self.show_expiry(Some(certificate.not_after));
        is_for_other_names
    }

    /// Of the certificates that the servers of one entry show, the one that ends first is what somebody must know of. They are only
    /// looked through if that was this server's and has changed: mostly nothing has.
    fn show_expiry(&mut self, end: Option<i64>) {
        let before = std::mem::replace(&mut self.expiry, end);
        if before == end {
            return;
        }
        let shown = &self.server.metrics.certificate_expiry;
        let first = shown.get();
        if let Some(end) = end.filter(|end| first.is_nan() || *end as f64 <= first) {
            shown.set(end as f64);
        } else if before.is_some_and(|before| before as f64 <= first) {
            let servers = self.backend.servers();
            let own = servers.iter().filter(|server| server.entry() == self.server.entry());
            let ends = own.filter_map(|server| Some(server.vitals.certificate()?.not_after));
            shown.set(ends.min().map_or(f64::NAN, |first| first as f64));
        }
    }

    /// Draws the consequences of a check.
    pub(super) fn judge(&mut self, checked: &Checked) {
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
            Verdict::Unknown => return self.note_result(outcome, duration),
        };
        let metrics = &self.server.metrics;
        metrics.checks.inc();
        metrics.check_duration.set(duration.as_secs_f64());
        if !has_passed {
            metrics.check_failures.inc();
        }
        let change = self.streak.record(has_passed);
        self.conclude(change, outcome, duration);
    }

    /// Draws the consequences of traffic, if it calls for some (HAProxy configuration manual, section 5.2, `on-error`).
    pub(super) fn judge_traffic(&mut self) -> bool {
        if !self.server.vitals.traffic.take_alarm() {
            return false;
        }
        let Some(observe) = self.check.observe else { return false };
        // What was under way when the server went down says nothing about whether it comes back.
        if self.server.state() == ServerState::Down {
            return false;
        }
        let outcome = Outcome::Traffic { errors: observe.error_limit.get() };
        let change = match observe.on_error {
            OnError::FastInterval => None,
            OnError::FailCheck => self.streak.record(false),
            OnError::SuddenDeath => {
                self.streak.nearly_down();
                None
            }
            OnError::MarkDown => self.streak.force_down(),
        };
        self.conclude(change, outcome, Duration::ZERO);
        true
    }

    /// Applies a change of state, if there is one, and keeps the result.
    fn conclude(&self, change: Option<ServerState>, outcome: Outcome, duration: Duration) {
        if let Some(state) = change {
            self.change(state, outcome, duration);
        }
        self.note_result(outcome, duration);
    }

    fn note_result(&self, outcome: Outcome, duration: Duration) {
        let (at, state) = (SystemTime::now(), self.server.state());
        self.server.vitals.note_result(CheckResult { at, duration, outcome, state });
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

    fn change(&self, new: ServerState, reason: Outcome, duration: Duration) {
        let old = self.server.set_state(new);
        if old == new {
            return;
        }
        let (backend, server) = (&*self.backend.settings.name, &*self.server.settings.name);
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

impl Drop for Watch {
    fn drop(&mut self) {
        self.server.vitals.traffic.observe(0, None);
        self.show_expiry(None);
    }
}
