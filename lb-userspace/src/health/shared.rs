// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that several servers share: one probe, whose result counts for each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::outcome::Outcome;
use super::probe::{Checked, ProbeError, Prober, Target};
use super::schedule;
use super::tls::Verifiers;
use super::watch::Watch;
use crate::backend::{Backend, Server};
use crate::config::{Check, CheckTls, Probe};

/// Beyond every interval.
const FAR_OFF: Duration = Duration::from_secs(7 * 86_400);

/// All checks that run. Servers of any backend share one if it would be the same: address, port, what is sent and expected, timeout
/// and intervals. What follows from its results is each server's own.
#[derive(Clone, Debug)]
pub struct Checks {
    known: Arc<Mutex<Known>>,
    certificates: Arc<Notify>,
    /// Bounds how many run at the same time.
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    /// By the address that they connect.
    rounds: HashMap<SocketAddr, Vec<Round>>,
    verifiers: Verifiers,
    last_id: u64,
}

/// The checks of one server. They end when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the checks"]
pub struct CheckGuard {
    checks: Checks,
    address: SocketAddr,
    id: u64,
}

/// One probe that repeats, while it has members.
#[derive(Debug)]
struct Round {
    identity: Identity,
    task: AbortHandle,
    members: Arc<Members>,
}

/// What makes two checks the same.
#[derive(Debug, PartialEq)]
struct Identity {
    target: Target,
    probe: Probe,
    tls: Option<CheckTls>,
    timeout: Duration,
    /// Plain, fast and down.
    intervals: [Duration; 3],
    jitter_percent: u8,
}

/// The servers for which a probe counts.
#[derive(Debug, Default)]
struct Members {
    watches: Mutex<Vec<(u64, Watch)>>,
    /// Traffic calls.
    call: Arc<Notify>,
    /// Somebody has joined.
    joined: Notify,
    /// A member shows another certificate.
    certificates: Arc<Notify>,
}

impl Checks {
    /// None yet. `certificates` is told when a server shows a certificate for other names than before, or when servers come or go. At
    /// most `max` checks run at the same time; further ones wait, in turn.
    pub fn new(certificates: Arc<Notify>, max: u64) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self { known: Arc::default(), certificates, places: Arc::new(Semaphore::new(max)) }
    }

    /// Tells that there may be other certificates than before.
    pub(super) fn tell_certificates(&self) {
        self.certificates.notify_one();
    }

    /// Starts the check of one server, on the runtime of the caller, until what comes back is dropped; `None` if the server is not
    /// checked.
    ///
    /// # Errors
    /// The probe cannot be built.
    pub fn start(
        &self,
        backend: &Arc<Backend>,
        server: &Arc<Server>,
    ) -> Result<Option<CheckGuard>, ProbeError> {
        let Some(check) = backend.settings.check.as_ref().filter(|_| server.settings.is_checked) else {
            return Ok(None);
        };
        let target = Target::new(&backend.settings, &server.settings, server.address, check);
        let (address, identity) = (target.address, Identity::new(target, check));
        let mut known = self.lock();
        let Known { rounds, verifiers, last_id } = &mut *known;
        let same = rounds.get(&address).and_then(|rounds| rounds.iter().find(|it| it.identity == identity));
        let (members, new) = match same {
            Some(round) => (Arc::clone(&round.members), None),
            None => {
                let members = Members { certificates: Arc::clone(&self.certificates), ..Members::default() };
                (Arc::new(members), Some(Prober::new(identity.target.clone(), check, verifiers)?))
            }
        };
        *last_id += 1;
        let id = *last_id;
        members.lock().push((id, Watch::new(backend, server, check, &members.call)));
        match new {
            Some(prober) => {
                let places = Arc::clone(&self.places);
                let task = tokio::spawn(repeat(prober, Pace::new(check), Arc::clone(&members), places));
                let task = task.abort_handle();
                rounds.entry(address).or_default().push(Round { identity, task, members });
            }
            // Who comes later does not wait for a whole interval.
            None => members.joined.notify_one(),
        }
        Ok(Some(CheckGuard { checks: self.clone(), address, id }))
    }

    /// Makes the check of one server once, now, and keeps the certificate that it sees; `None` if the server is not checked over TLS.
    /// Nothing else follows.
    ///
    /// # Errors
    /// The probe cannot be built.
    pub async fn once(&self, backend: &Backend, server: &Server) -> Result<Option<Outcome>, ProbeError> {
        let is_meant = |check: &&Check| server.settings.is_checked && check.tls.is_some();
        let Some(check) = backend.settings.check.as_ref().filter(is_meant) else { return Ok(None) };
        let target = Target::new(&backend.settings, &server.settings, server.address, check);
        let prober = Prober::new(target, check, &mut self.lock().verifiers)?;
        let checked = prober.check().await;
        if let Some(certificate) = &checked.certificate {
            server.vitals.note_certificate(Arc::clone(certificate));
        }
        let outcome = checked.outcome;
        checked.finish().await;
        Ok(Some(outcome))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Checks {
    /// None yet, of whose certificates nobody is told, and as many at the same time as there are.
    fn default() -> Self {
        Self::new(Arc::default(), u64::MAX)
    }
}

impl Drop for CheckGuard {
    fn drop(&mut self) {
        let mut known = self.checks.lock();
        let Some(rounds) = known.rounds.get_mut(&self.address) else { return };
        rounds.retain(|round| {
            let mut watches = round.members.lock();
            watches.retain(|(id, _)| *id != self.id);
            if watches.is_empty() {
                round.task.abort();
            }
            !watches.is_empty()
        });
        if rounds.is_empty() {
            known.rounds.remove(&self.address);
        }
    }
}

impl Identity {
    fn new(target: Target, check: &Check) -> Self {
        Self {
            target,
            probe: check.probe.clone(),
            tls: check.tls.clone(),
            timeout: check.timeout,
            intervals: [check.interval, check.fast_interval, check.down_interval],
            jitter_percent: check.jitter_percent,
        }
    }
}

impl Members {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Watch)>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the result to every member, and returns the shortest interval that one wants.
    fn judge(&self, checked: &Checked) -> Option<Duration> {
        let mut watches = self.lock();
        // All of them, not only up to the first.
        if watches.iter_mut().fold(false, |is_new, (_, watch)| watch.note_certificate(checked) || is_new) {
            self.certificates.notify_one();
        }
        watches.iter_mut().for_each(|(_, watch)| watch.judge(checked));
        watches.iter().map(|(_, watch)| watch.interval()).min()
    }

    /// Looks whom traffic calls for; true if there is one.
    fn judge_traffic(&self) -> bool {
        // All of them, not only up to the first.
        self.lock().iter_mut().fold(false, |is_called, (_, watch)| watch.judge_traffic() || is_called)
    }
}

/// When checks of a round begin.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    fast_interval: Duration,
    /// The least from the start of a check to one that is for a server that has joined.
    join_gap: Duration,
    jitter_percent: u8,
}

impl Pace {
    fn new(check: &Check) -> Self {
        let Check { interval, fast_interval, down_interval, jitter_percent, .. } = *check;
        let join_gap = interval.min(fast_interval).min(down_interval).min(schedule::FIRST_CHECKS);
        Self { interval, fast_interval, join_gap, jitter_percent }
    }

    fn first(self) -> Instant {
        Instant::now() + schedule::first_delay(self.interval, fastrand::f64())
    }
}

/// Checks until it is aborted, one check after the other, and listens to traffic also while one is under way.
async fn repeat(prober: Prober, pace: Pace, members: Arc<Members>, places: Arc<Semaphore>) {
    let earlier = Notify::new();
    let next = Mutex::new(pace.first());
    let next = || next.lock().unwrap_or_else(PoisonError::into_inner);
    let last = Mutex::new(None);
    let last = || last.lock().unwrap_or_else(PoisonError::into_inner);
    let listen = async {
        loop {
            let latest = tokio::select! {
                () = members.call.notified() => match members.judge_traffic() {
                    true => Instant::now() + pace.fast_interval,
                    // Those who called are down: what fails on them is no news.
                    false => continue,
                },
                // However many come one after the other, as servers of names do.
                () = members.joined.notified() => {
                    last().map_or(pace.first(), |last| pace.first().max(last + pace.join_gap))
                }
            };
            let mut next = next();
            if latest < *next {
                *next = latest;
                earlier.notify_one();
            }
        }
    };
    let check = async {
        loop {
            wait_for(|| *next(), &earlier).await;
            // Nobody closes it. It is kept until the connection is gone.
            let _place = places.acquire().await;
            let started = Instant::now();
            *next() = started + FAR_OFF;
            *last() = Some(started);
            let checked = prober.check().await;
            let interval = members.judge(&checked).unwrap_or(pace.interval);
            let start = started + schedule::interval(interval, pace.jitter_percent, fastrand::f64());
            // Traffic may have called meanwhile.
            let start = {
                let mut next = next();
                *next = start.min(*next);
                *next
            };
            // A server that is slow to close does not put off its next check.
            let _ = timeout_at(start, checked.finish()).await;
        }
    };
    tokio::join!(listen, check);
}

/// Waits for a moment that may be brought forward.
async fn wait_for(moment: impl Fn() -> Instant, earlier: &Notify) {
    loop {
        let start = moment();
        tokio::select! {
            biased;
            () = earlier.notified() => {}
            () = sleep_until(start) => return,
        }
    }
}
