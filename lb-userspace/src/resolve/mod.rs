// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that go by a name: asks DNS, again and again, and gives backends the addresses.
//!
//! One task a name, however many entries of the configuration have it. [`client`] knows the network; what an answer means
//! ([`answer`]), when to ask again and what to keep ([`schedule`]), and which servers come of it ([`endpoints`]) is pure.

mod answer;
mod client;
mod endpoints;
mod schedule;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_common::reason::ResolutionResult;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::{Backend, Endpoint};
use crate::config::{Address, Config, Family, Resolver};
use crate::observe::metrics::{ProcessMetrics, ServerMetrics};
use answer::{Candidate, Found, Memory, Reply};
use client::Client;
use endpoints::{Difference, choose, difference};
use schedule::{Consequence, Heard, Schedule};

/// Most addresses that one line of the log names.
const LOGGED_MAX: usize = 16;

/// The running resolution of all names. Dropping it ends it; servers stay as they are.
#[derive(Debug)]
pub struct Resolution {
    tasks: JoinSet<()>,
    first: mpsc::Receiver<()>,
}

/// What is asked; entries with the same question share the answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    name: Arc<str>,
    is_service: bool,
    family: Family,
}

/// An entry of the configuration that goes by the name.
#[derive(Debug)]
struct User {
    backend: Arc<Backend>,
    /// Its position in the backend's servers.
    position: usize,
    metrics: ServerMetrics,
    /// What it has now.
    endpoints: Vec<Endpoint>,
    /// Addresses beyond its `max-addresses` at the last answer.
    left_out: usize,
}

/// One name.
#[derive(Debug)]
struct Watch {
    question: Question,
    users: Vec<User>,
    client: Arc<Client>,
    settings: Resolver,
    metrics: ProcessMetrics,
    schedule: Schedule,
    memory: Memory,
    started: Instant,
}

/// Begins to resolve all names of a configuration on the current runtime; `None` if there is none. `backends` and `metrics` go by
/// the positions in the configuration. At most so many `queries` are under way at the same time.
pub fn start(
    config: &Config,
    queries: u64,
    backends: &[Arc<Backend>],
    servers: &[Vec<ServerMetrics>],
    metrics: &ProcessMetrics,
) -> Option<Resolution> {
    let questions = questions(backends, servers);
    if questions.is_empty() {
        return None;
    }
    let client = Arc::new(Client::new(config, queries));
    let (answered, first) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    for (question, users) in questions {
        let watch = Watch {
            question,
            users,
            client: Arc::clone(&client),
            settings: config.resolver.clone(),
            metrics: metrics.clone(),
            schedule: Schedule::default(),
            memory: Memory::default(),
            started: Instant::now(),
        };
        tasks.spawn(watch.run(answered.clone()));
    }
    Some(Resolution { tasks, first })
}

impl Resolution {
    /// Waits until each name has been asked for once, whatever came of it, and not longer than this. Says whether all have.
    pub async fn first(&mut self, patience: Duration) -> bool {
        // Nobody sends: the channel closes when the last name has been asked for.
        timeout(patience, self.first.recv()).await.is_ok()
    }

    /// How many names there are.
    pub fn names(&self) -> usize {
        self.tasks.len()
    }
}

/// All names, each with the entries that have it.
fn questions(backends: &[Arc<Backend>], metrics: &[Vec<ServerMetrics>]) -> BTreeMap<Question, Vec<User>> {
    let mut questions: BTreeMap<Question, Vec<User>> = BTreeMap::new();
    for (backend, metrics) in backends.iter().zip(metrics) {
        for ((position, server), metrics) in backend.settings.servers.iter().enumerate().zip(metrics) {
            let (name, is_service, lookup) = match &server.address {
                Address::Ip(_) => continue,
                Address::Host { name, lookup, .. } => (name, false, lookup),
                Address::Service { name, lookup } => (name, true, lookup),
            };
            let question = Question { name: Arc::clone(name), is_service, family: lookup.family };
            let (backend, metrics) = (Arc::clone(backend), metrics.clone());
            let user = User { backend, position, metrics, endpoints: Vec::new(), left_out: 0 };
            questions.entry(question).or_default().push(user);
        }
    }
    questions
}

impl Watch {
    /// Asks for ever. `answered` goes when the first reply has had its effect.
    async fn run(mut self, answered: mpsc::Sender<()>) {
        let mut answered = Some(answered);
        loop {
            let reply = self.ask().await;
            let pause = self.note(reply);
            drop(answered.take());
            sleep(pause).await;
        }
    }

    async fn ask(&mut self) -> Reply<Candidate> {
        let Question { name, is_service, family } = &self.question;
        if *is_service {
            let records = self.client.service(name).await?;
            let replies = self.client.hosts(&records.items, *family).await;
            return self.memory.merge_service(&records, &replies);
        }
        let replies = self.client.host(name, *family).await;
        let Found { items, ttl, is_partial } = self.memory.merge(name, &replies)?;
        let items = items.into_iter().map(|ip| Candidate { ip, role: None }).collect();
        Ok(Found { items, ttl, is_partial })
    }

    /// Draws the consequences of a reply, and returns how long to wait before the next question.
    fn note(&mut self, reply: Reply<Candidate>) -> Duration {
        let (heard, result) = match &reply {
            Ok(found) => {
                (Heard::Answer { ttl: found.ttl, is_partial: found.is_partial }, ResolutionResult::Success)
            }
            Err(reason) => (Heard::Nothing(*reason), reason.result()),
        };
        self.metrics.resolutions[result.index()].inc();
        let was_failing = self.schedule.is_failing();
        let (consequence, pause) =
            self.schedule.note(&self.settings, heard, self.started.elapsed(), fastrand::f64());
        self.tell(result, consequence, was_failing);
        match (consequence, reply) {
            (Consequence::Replace, Ok(found)) => {
                self.users.iter_mut().for_each(|user| user.resolve(&self.question.name, &found.items));
            }
            (Consequence::Remove, _) => {
                self.users.iter_mut().for_each(|user| user.set(&self.question.name, Vec::new()))
            }
            _ => {}
        }
        pause
    }

    /// Logs the first failure in a row, and the end of failures.
    fn tell(&self, result: ResolutionResult, consequence: Consequence, was_failing: bool) {
        let name = &*self.question.name;
        let addresses = self.users.iter().map(|user| user.endpoints.len()).max().unwrap_or(0);
        match (was_failing, self.schedule.is_failing()) {
            _ if consequence == Consequence::Remove => {
                tracing::warn!(name, %result, addresses, "DNS has no address for this name any more: its servers go");
            }
            (false, true) if result == ResolutionResult::Success => {
                tracing::warn!(
                    name,
                    "a part of the answer for this name is missing: what was known of it stays"
                );
            }
            (false, true) => {
                tracing::warn!(name, %result, addresses, "cannot resolve this name: its servers stay")
            }
            (true, false) => tracing::info!(name, "this name is resolved again"),
            _ => tracing::debug!(name, %result, ?consequence, "asked"),
        }
    }
}

impl User {
    /// Gives the entry the servers that an answer makes of it.
    fn resolve(&mut self, name: &str, candidates: &[Candidate]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.resolved.set(now.as_secs_f64());
        let chosen = choose(candidates, &self.backend.settings.servers[self.position], &self.endpoints);
        if chosen.left_out > 0 && self.left_out == 0 {
            let (backend, server) = self.names();
            let (left_out, used) = (chosen.left_out, chosen.endpoints.len());
            tracing::warn!(
                backend,
                server,
                name,
                used,
                left_out,
                "this name has more addresses than max-addresses"
            );
        }
        self.left_out = chosen.left_out;
        self.set(name, chosen.endpoints);
    }

    fn set(&mut self, name: &str, endpoints: Vec<Endpoint>) {
        self.backend.set_endpoints(self.position, &endpoints);
        let Difference { added, removed } = difference(&self.endpoints, &endpoints);
        self.endpoints = endpoints;
        if !added.is_empty() || !removed.is_empty() {
            let (backend, server) = self.names();
            let (added, removed, addresses) = (listed(&added), listed(&removed), self.endpoints.len());
            tracing::info!(backend, server, name, added, removed, addresses, "servers changed");
        }
    }

    fn names(&self) -> (&str, &str) {
        (&self.backend.settings.name, &self.backend.settings.servers[self.position].name)
    }
}

/// Addresses as `a, b`, with how many more there are.
fn listed(addresses: &[SocketAddr]) -> String {
    let shown: Vec<String> = addresses.iter().take(LOGGED_MAX).map(ToString::to_string).collect();
    match addresses.len().saturating_sub(LOGGED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
