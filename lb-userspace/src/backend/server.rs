// SPDX-License-Identifier: MIT OR Apache-2.0
//! One server, and one connection's place on it.

use std::sync::Arc;

use lb_common::reason::ServerState;

use super::roster::Roster;
use crate::config;
use crate::observe::metrics::ServerMetrics;

/// A server while running.
#[derive(Debug)]
pub struct Server {
    /// Its configuration.
    pub settings: config::Server,
    /// Its counters.
    pub metrics: ServerMetrics,
    index: usize,
    roster: Arc<Roster>,
}

/// One connection's place on a server. Dropping it gives the place back.
#[derive(Debug)]
pub struct ServerSlot {
    server: Arc<Server>,
}

impl Server {
    /// The server at `index` of a backend, as `roster` knows it.
    pub(super) fn new(
        settings: config::Server,
        metrics: ServerMetrics,
        index: usize,
        roster: Arc<Roster>,
    ) -> Self {
        metrics.up.set(i64::from(roster.state(index) == ServerState::Up));
        Self { settings, metrics, index, roster }
    }

    /// Whether it takes connections.
    pub fn state(&self) -> ServerState {
        self.roster.state(self.index)
    }

    /// Connections that hold a place now.
    pub fn active(&self) -> u32 {
        self.roster.active(self.index)
    }

    /// Its position in [`super::Backend::servers`].
    pub fn index(&self) -> usize {
        self.index
    }

    /// Makes it take connections, or take none; open connections stay. Picks that begin after the return go by it. Returns the state
    /// that it was in.
    pub fn set_state(&self, state: ServerState) -> ServerState {
        self.roster.set_state(self.index, state, |old| {
            self.metrics.up.set(i64::from(state == ServerState::Up));
            if old != state {
                self.metrics.state_changes.inc();
            }
        })
    }
}

impl ServerSlot {
    /// The slot for a place that was taken in the roster.
    pub(super) fn of_taken(server: Arc<Server>) -> Self {
        server.metrics.active.inc();
        Self { server }
    }

    /// The server that the place is on.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server's position in [`super::Backend::servers`].
    pub fn index(&self) -> usize {
        self.server.index
    }
}

impl Drop for ServerSlot {
    fn drop(&mut self) {
        self.server.roster.give_back(self.server.index);
        self.server.metrics.active.dec();
    }
}
