// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends and servers as they are while running: state, open connections, and the choice of a server.

mod roster;
mod server;

use std::sync::Arc;

use lb_common::reason::ServerState;

use crate::config;
use crate::observe::metrics::{BackendMetrics, ServerMetrics};
use roster::{Candidates, Roster};

pub use server::{Server, ServerSlot};

/// A backend while running. Shared by all workers.
#[derive(Debug)]
pub struct Backend {
    /// Its configuration.
    pub settings: config::Backend,
    /// Its servers, in the order of the configuration.
    pub servers: Vec<Arc<Server>>,
    /// Its counters.
    pub metrics: BackendMetrics,
    roster: Arc<Roster>,
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
    /// A backend whose servers are all [`ServerState::Up`]: without a check they stay so, with one the first failed check counts
    /// at once. `servers` are the counters by position in the configuration; a server beyond its end counts for itself alone.
    pub fn new(settings: config::Backend, metrics: BackendMetrics, servers: Vec<ServerMetrics>) -> Self {
        let roster = Arc::new(Roster::new(&settings));
        let counters = servers.into_iter().chain(std::iter::repeat_with(ServerMetrics::default));
        let servers = (settings.servers.iter().zip(counters).enumerate())
            .map(|(index, (server, counters))| Server::new(server.clone(), counters, index, roster.clone()))
            .map(Arc::new)
            .collect();
        Self { settings, servers, metrics, roster }
    }

    /// Takes a place on the server whose turn it is, leaving out those in `tried` (positions in [`Self::servers`]) while there are
    /// others that are up and not full.
    ///
    /// # Errors
    /// [`NoServer`], if none can take the connection.
    pub fn pick(&self, tried: &[usize]) -> Result<ServerSlot, NoServer> {
        let balancer = self.roster.balancer();
        if balancer.is_empty() {
            return Err(NoServer::AllDown);
        }
        let pick = |tried| balancer.pick(&Candidates { roster: &self.roster, tried });
        let mut picked = pick(tried);
        if picked.is_none() && !tried.is_empty() {
            picked = pick(&[]);
        }
        let index = picked.ok_or(NoServer::AllFull)?;
        Ok(ServerSlot::of_taken(self.servers[index].clone()))
    }

    /// Whether a server is up that takes connections (its weight is above 0). It may be full.
    pub fn is_available(&self) -> bool {
        !self.roster.balancer().is_empty()
    }

    /// How many servers are up, backups and those of weight 0 counted.
    pub fn servers_up(&self) -> usize {
        self.servers.iter().filter(|server| server.state() == ServerState::Up).count()
    }

    /// Connections that hold a place on a server now.
    pub fn active(&self) -> u64 {
        self.servers.iter().map(|server| u64::from(server.active())).sum()
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
