// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a flow has delivered, and its way into the counters: while it runs, at most a second late, and exactly at its end.

use std::sync::Arc;

use lb_common::reason::PathKind;

use crate::backend::Server;
use crate::frontend::Frontend;

/// Bytes delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the client, taken by the server's socket.
    pub received: u64,
    /// From the server, taken by the client's socket.
    pub sent: u64,
    /// Both, by [`PathKind::index`].
    pub by_path: [u64; PathKind::ALL.len()],
}

/// The meter of one flow. Dropping it counts what is not counted yet.
#[derive(Debug)]
pub struct Meter {
    /// What the flow has delivered so far.
    pub carried: Carried,
    counted: Carried,
    frontend: Arc<Frontend>,
    server: Arc<Server>,
}

impl Meter {
    /// A meter at zero for a flow between a frontend and a server.
    pub fn new(frontend: Arc<Frontend>, server: Arc<Server>) -> Self {
        Self { carried: Carried::default(), counted: Carried::default(), frontend, server }
    }

    /// Whether bytes were delivered that the counters do not show.
    pub fn is_behind(&self) -> bool {
        self.carried != self.counted
    }

    /// Adds to the counters what is not in them.
    pub fn count(&mut self) {
        let (now, before) = (self.carried, self.counted);
        let (received, sent) = (now.received - before.received, now.sent - before.sent);
        let metrics = &self.frontend.metrics;
        metrics.received_bytes.inc_by(received);
        metrics.sent_bytes.inc_by(sent);
        self.server.metrics.sent_bytes.inc_by(received);
        self.server.metrics.received_bytes.inc_by(sent);
        for index in 0..PathKind::ALL.len() {
            let bytes = now.by_path[index] - before.by_path[index];
            if bytes > 0 && before.by_path[index] == 0 {
                metrics.path_flows[index].inc();
            }
            metrics.path_bytes[index].inc_by(bytes);
        }
        self.counted = now;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.is_behind() {
            self.count();
        }
    }
}
