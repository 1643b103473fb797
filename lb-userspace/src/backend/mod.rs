// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends and servers as they are while running: state, open connections, and the choice of a server.

mod choice;
mod departed;
mod queue;
mod rebuild;
mod roster;
mod server;
pub mod slow_start;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config;
use crate::net::{Source, source_problem};
use crate::observe::metrics::{BackendMetrics, ServerMetrics};
use queue::Queue;
use roster::{Entry, Roster};

pub use queue::Ticket;
pub use server::{Endpoint, Server, ServerSlot};

/// How often it is worth a message that connections cannot come from `source`.
const SOURCE_MESSAGE_EVERY: Duration = Duration::from_secs(60);

/// A backend while running. Shared by all workers.
#[derive(Debug)]
pub struct Backend {
    /// Its configuration.
    pub settings: config::Backend,
    /// Its counters.
    pub metrics: BackendMetrics,
    entries: Vec<Entry>,
    roster: Arc<Roster>,
    /// Whose turn it is among `source`.
    source_turn: AtomicUsize,
    /// When the operator was last told that there is something wrong with it.
    source_warned_at: Mutex<Option<Instant>>,
}

/// What a connection that wants a server gets.
#[derive(Debug)]
pub enum Turn {
    /// A place.
    Now(ServerSlot),
    /// A position in the queue.
    Later(Ticket),
}

/// Why no server can take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoServer {
    /// None is up, or none that is up has a weight above 0.
    AllDown,
    /// Those that are up have `max-connections`. Backups do not help out: they stand in for servers that are down.
    AllFull,
}

impl Backend {
    /// A backend whose servers are all [`ServerState::Up`](lb_common::reason::ServerState::Up): without a check they stay so, with one
    /// the first failed check counts at once. Entries that go by a name have no server until [`Self::set_addresses`] or
    /// [`Self::set_endpoints`] gives them some. `servers` are the counters by position in the configuration; an entry beyond its end
    /// counts for itself alone.
    pub fn new(settings: config::Backend, metrics: BackendMetrics, servers: Vec<ServerMetrics>) -> Self {
        let counters = servers.into_iter().chain(std::iter::repeat_with(ServerMetrics::default));
        let entries: Vec<Entry> = (settings.servers.iter().zip(counters).enumerate())
            .map(|(position, (server, metrics))| Entry { position, settings: server.clone().into(), metrics })
            .collect();
        let queue = Queue::new(settings.max_queue, metrics.clone());
        let roster = Roster::new(&settings, queue);
        let endpoints: Vec<_> = entries
            .iter()
            .map(|entry| Vec::from_iter(entry.settings.address.ip().map(|ip| endpoint(&entry.settings, ip))))
            .collect();
        let known: Vec<_> = entries.iter().zip(&endpoints).map(|(entry, own)| (entry, &own[..])).collect();
        roster.set_endpoints(&known);
        Self {
            settings,
            metrics,
            entries,
            roster,
            source_turn: AtomicUsize::new(0),
            source_warned_at: Mutex::default(),
        }
    }

    /// The servers of this moment, in the order of the configuration.
    pub fn servers(&self) -> Arc<[Arc<Server>]> {
        Arc::clone(&self.roster.group().servers)
    }

    /// Gives the entry at `position` of the configuration a server at each of these addresses. Those that it has keep their
    /// state and their connections; those at other addresses get no more connections, and keep those they have. Who comes back while
    /// it has some, or soon, is who it was.
    pub fn set_addresses(&self, position: usize, addresses: &[SocketAddr]) {
        if let Some(server) = self.settings.servers.get(position) {
            let endpoints: Vec<_> = addresses.iter().map(|&address| endpoint(server, address)).collect();
            self.set_endpoints(position, &endpoints);
        }
    }

    /// As [`Self::set_addresses`], with a weight and a role for each.
    pub fn set_endpoints(&self, position: usize, endpoints: &[Endpoint]) {
        if let Some(entry) = self.entries.get(position) {
            self.roster.set_endpoints(&[(entry, endpoints)]);
        }
    }

    /// Tells when servers have come or gone.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.roster.subscribe()
    }

    /// What the choice of a server goes by, for a client at this address that asked for this name.
    pub fn key(&self, client: IpAddr, server_name: Option<&str>) -> u64 {
        self.settings.balance.key(client, server_name, || fastrand::u64(..))
    }

    /// Takes a place on the server whose turn it is, or that `key` leads to (see [`Self::key`]), leaving out those in `tried` (by
    /// [`Server::id`]) while there are others that are up and not full.
    ///
    /// # Errors
    /// [`NoServer`], if none can take the connection.
    pub fn pick(&self, key: u64, tried: &[usize]) -> Result<ServerSlot, NoServer> {
        self.roster.pick(key, tried).map(ServerSlot::of_taken)
    }

    /// A place on a server for a connection that another agent has given one, whether or not there is room; `None`: there is no such server.
    pub fn keep(&self, server: &str, address: SocketAddr) -> Option<ServerSlot> {
        let servers = self.servers();
        let is_meant = |it: &&Arc<Server>| *it.settings.name == *server && it.address == address;
        servers.iter().find(is_meant).map(|server| ServerSlot::kept(Arc::clone(server)))
    }

    /// As [`Self::pick`], but where all servers are full, or others wait for one, the connection stands in line; with the number
    /// of its [`Ticket`] if it was in line before and failed to connect.
    ///
    /// # Errors
    /// [`NoServer`], if none is up, or if `max-queue` connections wait.
    pub fn pick_or_queue(&self, key: u64, tried: &[usize], number: Option<u64>) -> Result<Turn, NoServer> {
        if self.roster.queue.is_empty() {
            match self.pick(key, tried) {
                Err(NoServer::AllFull) => {}
                decided => return decided.map(Turn::Now),
            }
        } else if !self.is_available() {
            return Err(NoServer::AllDown);
        }
        self.roster.stand_in_line(key, tried, number).map(Turn::Later).ok_or(NoServer::AllFull)
    }

    /// Where a connection to a server at this address may come from, in the order to try: each of `source` that is of its family,
    /// beginning with the one whose turn it is. At least one.
    pub fn sources(&self, server: SocketAddr) -> impl Iterator<Item = Source<'_>> {
        let interface = self.settings.source_interface.as_deref();
        let is_meant = |address: &&IpAddr| address.is_ipv4() == server.is_ipv4();
        let own: Vec<IpAddr> = self.settings.source.iter().filter(is_meant).copied().collect();
        let turn = if own.len() > 1 { self.source_turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let count = own.len().max(1);
        (0..count).map(move |step| Source {
            address: own.get((turn % count + step) % count).copied(),
            port: None,
            interface,
        })
    }

    /// Tells the operator once in a while that connections cannot come from where they should.
    pub fn warn_of_source(&self, error: &std::io::Error) {
        // What it guards cannot be left half done, so a panic elsewhere is no reason to stop.
        let mut warned_at = self.source_warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_none_or(|at| at.elapsed() >= SOURCE_MESSAGE_EVERY) {
            *warned_at = Some(Instant::now());
            tracing::warn!(backend = %self.settings.name, %error, "cannot connect to servers");
        }
    }

    /// What is wrong with `source` and `source-interface` at this moment.
    pub fn source_problems(&self) -> Vec<std::io::Error> {
        let interface = self.settings.source_interface.as_deref();
        let addresses = self.settings.source.iter().copied().map(Some);
        let none = self.settings.source.is_empty().then_some(None);
        addresses
            .chain(none)
            .filter_map(|address| source_problem(Source { address, port: None, interface }))
            .collect()
    }

    /// Whether a server is up that takes connections (its weight is above 0). It may be full.
    pub fn is_available(&self) -> bool {
        !self.roster.group().choice.is_empty()
    }

    /// How many servers are up, backups and those of weight 0 counted.
    pub fn servers_up(&self) -> usize {
        self.roster.up()
    }

    /// Whether the choice of a server goes by every change so far. If not, servers that are down are left out already, and those that
    /// have come up or are new are soon taken in: a backend of more than 256 servers makes its table on a thread of its own.
    pub fn is_settled(&self) -> bool {
        self.roster.is_settled()
    }

    /// Connections that hold a place on a server now, those counted whose server the backend no longer has.
    pub fn active(&self) -> u64 {
        self.roster.active.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.roster.clear();
    }
}

/// An address of an entry, with the weight and the role that the entry says.
fn endpoint(settings: &config::Server, address: SocketAddr) -> Endpoint {
    Endpoint { address, weight: settings.weight, is_backup: settings.is_backup }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
