// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a flow has delivered, and its way into the counters: while it runs, at most a second late, and exactly at its end. And the
//! place on the server that it takes meanwhile.

use std::sync::Arc;

use lb_common::reason::PathKind;

use crate::backend::{Server, ServerSlot};
use crate::config;
use crate::frontend::Frontend;

/// Bytes that one direction delivered, by [`PathKind::index`].
pub type Moved = [u64; PathKind::ALL.len()];

/// Bytes delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the client, taken by the server's socket.
    pub up: Moved,
    /// From the server, taken by the client's socket.
    pub down: Moved,
}

impl Carried {
    /// Bytes from the client.
    pub fn received(&self) -> u64 {
        self.up.iter().sum()
    }

    /// Bytes from the server.
    pub fn sent(&self) -> u64 {
        self.down.iter().sum()
    }

    /// Bytes of both that went by one path.
    pub fn by_path(&self, kind: PathKind) -> u64 {
        self.up[kind.index()] + self.down[kind.index()]
    }
}

/// The meter of one flow. Dropping it counts what is not counted yet.
#[derive(Debug)]
pub struct Meter {
    /// What the flow has delivered so far.
    pub carried: Carried,
    counted: Carried,
    frontend: Arc<Frontend>,
    server: Arc<Server>,
    /// The flow's place on the server, until that is gone.
    slot: Option<ServerSlot>,
}

impl Meter {
    /// A meter at zero for a flow between a frontend and the server that it has a place on.
    pub fn new(frontend: Arc<Frontend>, slot: ServerSlot) -> Self {
        let (server, slot) = (Arc::clone(slot.server()), Some(slot));
        Self { carried: Carried::default(), counted: Carried::default(), frontend, server, slot }
    }

    /// The same for a flow of which so much was carried and counted before.
    pub fn recalled(frontend: Arc<Frontend>, slot: ServerSlot, carried: Carried) -> Self {
        let mut meter = Self::new(frontend, slot);
        (meter.carried, meter.counted) = (carried, carried);
        meter
    }

    /// The server of the flow.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The server has nothing to do with the flow any more, though the client may still be receiving: others get its place.
    pub fn leave_server(&mut self) {
        self.slot = None;
    }

    /// The flow's place on the server, for who looks after it from here on.
    pub fn take_slot(&mut self) -> Option<ServerSlot> {
        self.slot.take()
    }

    /// The settings of the frontend that the flow came in by.
    pub fn frontend(&self) -> &config::Frontend {
        &self.frontend.settings
    }

    /// Whether bytes were delivered that the counters do not show.
    pub fn is_behind(&self) -> bool {
        self.carried != self.counted
    }

    /// Adds to the counters what is not in them.
    pub fn count(&mut self) {
        count(&self.frontend, &self.server, &self.counted, &self.carried);
        self.counted = self.carried;
    }
}

/// Adds to the counters what a flow has delivered, less what it had delivered before.
pub fn count(frontend: &Frontend, server: &Server, before: &Carried, now: &Carried) {
    let (received, sent) = (now.received() - before.received(), now.sent() - before.sent());
    let metrics = &frontend.metrics;
    metrics.received_bytes.inc_by(received);
    metrics.sent_bytes.inc_by(sent);
    server.metrics.sent_bytes.inc_by(received);
    server.metrics.received_bytes.inc_by(sent);
    if sent > 0 {
        server.vitals.traffic.note_bytes();
    }
    for kind in PathKind::ALL {
        let bytes = now.by_path(kind) - before.by_path(kind);
        if bytes > 0 && before.by_path(kind) == 0 {
            metrics.path_flows[kind.index()].inc();
        }
        metrics.path_bytes[kind.index()].inc_by(bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.is_behind() {
            self.count();
        }
    }
}
