// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb check --certificates`: makes the checks over TLS once, and compares the certificates with the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::raise_limit;
use crate::backend::{Backend, Server};
use crate::coalescing::{Certificates, LISTED_MAX};
use crate::config::needs::Descriptors;
use crate::config::{BackendId, Config, Frontend, Mode, Place, Problem, TlsPassthrough};
use crate::health::Checks;
use crate::observe::metrics::Metrics;
use crate::resolve;
use crate::route::Router;
use crate::route::coalescing::{Overlap, backends_by_name, find};

/// Most checks at a time, however many files may be open.
const PARALLEL_MAX: usize = 256;

/// How long DNS may take for the names of servers.
const NAMES_WAIT: Duration = Duration::from_secs(5);

/// What has come of it.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Certificates that cover names of other backends.
    pub(super) warnings: Vec<Problem>,
    /// What could not be looked at, and how much was.
    pub(super) notes: Vec<String>,
}

/// Looks at the certificates of the backends that frontends choose by name. `file` stands in the warnings. Takes as long as the
/// slowest check may (`timeout`), for every [`PARALLEL_MAX`] servers, and [`NAMES_WAIT`] before if there are names to resolve.
///
/// # Errors
/// This host has no memory or file descriptors for it.
pub(super) fn look(config: &Config, file: &str) -> io::Result<Look> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let metrics = Metrics::new(config);
    let backends = config.backends.iter().enumerate().map(|(index, settings)| {
        let servers = metrics.servers[index].clone();
        Arc::new(Backend::new(settings.clone(), metrics.backends[index].clone(), servers))
    });
    let backends: Vec<_> = backends.collect();
    let passthrough: Vec<_> = config.frontends.iter().filter_map(passthrough).collect();
    let used: BTreeSet<BackendId> =
        passthrough.iter().flat_map(|(_, settings)| backends_by_name(settings)).collect();
    // What an agent of this configuration would have here.
    let descriptors = Descriptors::divide(raise_limit(), config);
    let parallel =
        usize::try_from(descriptors.checks).map_or(PARALLEL_MAX, |checks| checks.clamp(1, PARALLEL_MAX));
    let mut notes = runtime.block_on(async {
        let resolution =
            resolve::start(config, descriptors.queries, &backends, &metrics.servers, &metrics.process);
        if let Some(mut resolution) = resolution {
            resolution.first(NAMES_WAIT).await;
        }
        check_all(&backends, &used, parallel).await
    });
    // A name that has no answer yet must not hold up the end.
    runtime.shutdown_timeout(Duration::ZERO);
    let certificates = Certificates::of(&backends);
    let count = certificates.shown().len();
    notes.push(format!("{count} certificate{} compared with the routes", if count == 1 { "" } else { "s" }));
    let warnings = passthrough
        .iter()
        .flat_map(|(frontend, settings)| compare(config, frontend, settings, &certificates, file))
        .collect();
    Ok(Look { warnings, notes })
}

fn passthrough(frontend: &Frontend) -> Option<(&Frontend, &TlsPassthrough)> {
    match &frontend.mode {
        Mode::TlsPassthrough(settings) => Some((frontend, settings)),
        Mode::Tcp { .. } => None,
    }
}

/// Makes the checks of these backends, so many at a time, and says which gave no certificate, in the order of the configuration.
async fn check_all(backends: &[Arc<Backend>], used: &BTreeSet<BackendId>, parallel: usize) -> Vec<String> {
    let mut notes = BTreeMap::new();
    let (checks, places) = (Checks::default(), Arc::new(Semaphore::new(parallel)));
    let mut running = JoinSet::new();
    for &BackendId(position) in used {
        let backend = &backends[position];
        if backend.settings.check.as_ref().is_none_or(|check| check.tls.is_none()) {
            let name = &backend.settings.name;
            let note = format!("backend {name} is not checked over TLS: its certificates are not known");
            notes.insert((position, None), note);
            continue;
        }
        let servers = backend.servers();
        for note in without_address(backend, &servers) {
            notes.insert((position, Some((note.0, 0))), note.1);
        }
        for server in servers.iter() {
            let (backend, server) = (Arc::clone(backend), Arc::clone(server));
            let (checks, places) = (checks.clone(), Arc::clone(&places));
            running.spawn(async move {
                // Nobody closes it.
                let _place = places.acquire().await;
                let key = (position, Some((server.entry(), server.id())));
                (key, check(&checks, &backend, &server).await)
            });
        }
    }
    while let Some(done) = running.join_next().await {
        // A panic has been printed, and leaves nothing to say of that server.
        if let Ok((key, Some(note))) = done {
            notes.insert(key, note);
        }
    }
    notes.into_values().collect()
}

/// Entries of the configuration whose names have no address, by position.
fn without_address<'a>(
    backend: &'a Backend,
    servers: &'a [Arc<Server>],
) -> impl Iterator<Item = (usize, String)> {
    let entries = backend.settings.servers.iter().enumerate();
    let missing = entries.filter(|(position, _)| !servers.iter().any(|server| server.entry() == *position));
    missing.map(|(position, settings)| {
        let (backend, name, address) = (&backend.settings.name, &settings.name, &settings.address);
        (position, format!("backend {backend}, server {name}: {address} has no address"))
    })
}

/// Makes the check of one server, and says what is to be said if it gave no certificate.
async fn check(checks: &Checks, backend: &Backend, server: &Server) -> Option<String> {
    let reason = match checks.once(backend, server).await {
        Ok(Some(outcome)) => outcome.to_string(),
        Ok(None) => "it is not checked".into(),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    };
    let (backend, name, address) = (&backend.settings.name, &server.settings.name, server.address);
    let is_known = server.vitals.certificate().is_some();
    (!is_known)
        .then(|| format!("backend {backend}, server {name} ({address}) shows no certificate: {reason}"))
}

/// The overlaps of one frontend, as warnings at the routes that lead elsewhere.
fn compare(
    config: &Config,
    frontend: &Frontend,
    settings: &TlsPassthrough,
    certificates: &Certificates,
    file: &str,
) -> Vec<Problem> {
    let shown = certificates.shown();
    let overlaps = find(&Router::new(settings), settings, &shown);
    let name = |BackendId(position): BackendId| &*config.backends[position].name;
    let warning = |overlap: Overlap<'_>| {
        let Overlap { backend, certificate_name, other, example, .. } = overlap;
        let (key, line) = place(frontend, settings, &overlap);
        let (backend, other) = (name(backend), name(other));
        let text = format!(
            "{example} belongs to backend {other}, and the certificate of backend {backend} covers it (\"{certificate_name}\"): \
             HTTP/2 clients may send its requests there; README, \"HTTP/2 and shared certificates\", says what helps"
        );
        Problem { place: Place { file: file.into(), line, column: 1 }, key, found: None, text }
    };
    let mut warnings: Vec<Problem> = overlaps.iter().take(LISTED_MAX).map(warning).collect();
    let more = overlaps.iter().skip(LISTED_MAX).count();
    if more > 0
        && let Some(last) = warnings.last()
    {
        let text = format!("and {more} more certificates that cover names of other backends");
        warnings.push(Problem { key: format!("frontend.{}", frontend.name), text, ..last.clone() });
    }
    warnings
}

/// The key and the line of what takes the example. Where no route does, the line is that of a route of the backend with the
/// certificate.
fn place(frontend: &Frontend, settings: &TlsPassthrough, overlap: &Overlap<'_>) -> (String, usize) {
    let (name, routes) = (&frontend.name, &settings.routes);
    if let Some(route) = overlap.route {
        return (format!("frontend.{name}.route.{}", route + 1), routes[route].line);
    }
    let own = routes.iter().find(|route| route.backend == overlap.backend).or(routes.first());
    (format!("frontend.{name}.on-unknown-name"), own.map_or(1, |route| route.line))
}
