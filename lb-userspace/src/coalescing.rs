// SPDX-License-Identifier: MIT OR Apache-2.0
//! Certificates that cover names of other backends, while the agent runs: looks for them when checks see other certificates, and
//! tells. What an overlap is, says [`crate::route::coalescing`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::config::{BackendId, Mode};
use crate::frontend::Frontend;
use crate::health::{LastCertificate, NAMES_MAX};
use crate::route::coalescing::{self as route, Overlap, Overlaps, ShownCertificate};

/// Overlaps of one frontend that are told one by one; of the others, their number.
pub const LISTED_MAX: usize = 20;

/// How long no certificate may change before a look: servers change theirs one after the other.
const QUIET: Duration = Duration::from_secs(1);

/// How long a look may be put off by further changes.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// How long after a look the next one comes at the earliest: twice as long each time, until there was nothing to do for the longest.
/// Servers behind one address that show different certificates in turn would otherwise fill log and processor.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The certificates that the servers of all backends have shown to their last checks.
#[derive(Debug)]
pub struct Certificates(Vec<(BackendId, Arc<LastCertificate>)>);

/// An overlap that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The backend whose server has shown the certificate.
    pub backend: BackendId,
    /// The name as it stands in the certificate.
    pub certificate_name: String,
    /// The backend that a name which the certificate covers leads to.
    pub other: BackendId,
    /// Such a name.
    pub example: String,
}

/// What the last look at one frontend has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// At most [`LISTED_MAX`]. Those of the look before stay on the list while they last.
    pub listed: Vec<Listed>,
    /// How many more there are.
    pub more: usize,
}

/// What the last look has found, for others to read.
#[derive(Debug, Default)]
pub struct Findings(ArcSwap<Vec<(Arc<str>, Finding)>>);

/// Looks, when told to.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Those that route by name.
    frontends: Vec<Arc<Frontend>>,
    backends: Arc<[Arc<Backend>]>,
    certificates: Arc<Notify>,
    findings: Arc<Findings>,
}

impl Certificates {
    /// Of the servers at this moment. Equal ones of a backend are there once.
    pub fn of(backends: &[Arc<Backend>]) -> Self {
        let mut known = BTreeSet::new();
        let mut all = Vec::new();
        for (position, backend) in backends.iter().enumerate() {
            for certificate in backend.servers().iter().filter_map(|server| server.vitals.certificate()) {
                if known.insert((position, certificate.names.clone())) {
                    all.push((BackendId(position), certificate));
                }
            }
        }
        Self(all)
    }

    /// As routes are compared with them.
    pub fn shown(&self) -> Vec<ShownCertificate<'_>> {
        self.0
            .iter()
            .map(|(backend, certificate)| ShownCertificate {
                backend: *backend,
                names: &certificate.names,
                is_whole: certificate.names.len() < NAMES_MAX,
            })
            .collect()
    }
}

impl Finding {
    /// What there is now, after `before`.
    fn new(frontend: &Frontend, certificates: &Certificates, before: &Self) -> Self {
        match (&frontend.router, &frontend.settings.mode) {
            (Some(router), Mode::TlsPassthrough(settings)) => {
                before.follow(&route::find(router, settings, &certificates.shown()))
            }
            _ => Self::default(),
        }
    }

    /// Keeps what is on the list and still holds, and fills it up.
    fn follow(&self, overlaps: &Overlaps<'_>) -> Self {
        let known: BTreeSet<_> = self.listed.iter().map(Listed::key).collect();
        let is_known = |overlap: &Overlap<'_>| {
            known.contains(&(overlap.backend, overlap.certificate_name, overlap.other))
        };
        let kept = overlaps.iter().filter(is_known).count();
        let mut room = LISTED_MAX - kept.min(LISTED_MAX);
        let (mut listed, mut more) = (Vec::new(), 0);
        for overlap in overlaps.iter() {
            if is_known(&overlap) {
                listed.push(Listed::new(&overlap));
            } else if room > 0 {
                room -= 1;
                listed.push(Listed::new(&overlap));
            } else {
                more += 1;
            }
        }
        Self { listed, more }
    }

    fn lists(&self, wanted: &Listed) -> bool {
        self.listed.iter().any(|listed| listed.key() == wanted.key())
    }
}

impl Listed {
    fn new(overlap: &Overlap<'_>) -> Self {
        Self {
            backend: overlap.backend,
            certificate_name: overlap.certificate_name.to_owned(),
            other: overlap.other,
            example: overlap.example.to_owned(),
        }
    }

    /// What makes two of them the same.
    fn key(&self) -> (BackendId, &str, BackendId) {
        (self.backend, &self.certificate_name, self.other)
    }
}

impl Findings {
    /// By name of the frontend, in the order of the configuration; empty until the first look.
    pub fn all(&self) -> Arc<Vec<(Arc<str>, Finding)>> {
        self.0.load_full()
    }
}

impl Watch {
    /// Of frontends, each perhaps several times in a row; `backends` by position in the configuration.
    pub fn new(
        frontends: impl Iterator<Item = Arc<Frontend>>,
        backends: &Arc<[Arc<Backend>]>,
        findings: Arc<Findings>,
    ) -> Self {
        let mut frontends: Vec<_> = frontends.filter(|frontend| frontend.router.is_some()).collect();
        frontends.dedup_by(|a, b| Arc::ptr_eq(a, b));
        Self { frontends, backends: Arc::clone(backends), certificates: Arc::default(), findings }
    }

    /// Whom to tell when certificates change.
    pub fn certificates(&self) -> Arc<Notify> {
        Arc::clone(&self.certificates)
    }

    /// Looks whenever certificates have changed, on the current runtime, until it is dropped.
    pub async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let waiting = Instant::now();
            self.certificates.notified().await;
            if waiting.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            self.settle().await;
            self.look().await;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until nothing has changed for [`QUIET`], but not longer than [`DELAY_MAX`].
    async fn settle(&self) {
        let latest = Instant::now() + DELAY_MAX;
        while Instant::now() < latest {
            let quiet = latest.min(Instant::now() + QUIET);
            if timeout_at(quiet, self.certificates.notified()).await.is_err() {
                return;
            }
        }
    }

    async fn look(&self) {
        let certificates = Arc::new(Certificates::of(&self.backends));
        let before = self.findings.all();
        let mut all = Vec::with_capacity(self.frontends.len());
        for (position, frontend) in self.frontends.iter().enumerate() {
            let last = before.get(position).map(|(_, finding)| finding.clone()).unwrap_or_default();
            // A million names take their time, in which checks must go on.
            let found = tokio::task::spawn_blocking({
                let (frontend, certificates, last) =
                    (Arc::clone(frontend), Arc::clone(&certificates), last.clone());
                move || Finding::new(&frontend, &certificates, &last)
            });
            let found = found.await.unwrap_or_else(|panic| {
                error!(frontend = &*frontend.settings.name, %panic, "certificates could not be compared");
                last.clone()
            });
            let count = found.listed.len() + found.more;
            frontend.metrics.certificate_overlaps.set(i64::try_from(count).unwrap_or(i64::MAX));
            self.tell(frontend, &last, &found);
            all.push((Arc::clone(&frontend.settings.name), found));
        }
        self.findings.0.store(Arc::new(all));
    }

    /// Logs what has come and what has gone.
    fn tell(&self, frontend: &Frontend, before: &Finding, now: &Finding) {
        let frontend = &*frontend.settings.name;
        let name = |BackendId(position): BackendId| &*self.backends[position].settings.name;
        for gone in before.listed.iter().filter(|listed| !now.lists(listed)) {
            let Listed { backend, certificate_name, other, .. } = gone;
            let (backend, other_backend) = (name(*backend), name(*other));
            info!(
                frontend,
                backend,
                certificate_name,
                other_backend,
                "certificate no longer covers names of another backend"
            );
        }
        for new in now.listed.iter().filter(|listed| !before.lists(listed)) {
            let Listed { backend, certificate_name, other, example } = new;
            let (backend, other_backend) = (name(*backend), name(*other));
            warn!(
                frontend,
                backend,
                certificate_name,
                other_backend,
                example,
                "certificate covers names of another backend: HTTP/2 clients may send its requests here (RFC 9113 section 9.1.1)"
            );
        }
        if now.more != before.more {
            info!(frontend, more = now.more, "further certificates cover names of other backends");
        }
    }
}

#[cfg(test)]
mod tests;
