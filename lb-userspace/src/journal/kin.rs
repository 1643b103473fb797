// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a connection belongs to. Where its flow needs nobody, that is all that the agent keeps of it: its story is told, and read again for its line.

use std::ops::Deref;
use std::sync::Arc;

use super::{Journal, Story};
use crate::backend::{Backend, Server, ServerSlot};
use crate::frontend::{Frontend, Permit};
use crate::observe::access_log::AccessLog;
use crate::path::Carried;

/// What a connection belongs to whose flow needs nobody, this agent's or one that another has left.
#[derive(Debug)]
pub struct Kin {
    pub(super) presence: Presence,
    pub(super) backend: Arc<Backend>,
    pub(super) slot: ServerSlot,
    pub(super) log: AccessLog,
}

/// A place in the limits, which `lb_frontend_connections_active` counts for as long as this lives.
#[derive(Debug)]
pub(super) struct Presence(Permit);

impl Kin {
    /// Of a connection that another agent has begun: its place in process and frontend, its backend, its place on the server, and the sink of its line.
    pub fn new(permit: Permit, backend: Arc<Backend>, slot: ServerSlot, log: AccessLog) -> Self {
        Self { presence: Presence::new(permit), backend, slot, log }
    }

    /// The frontend that it came in by.
    pub fn frontend(&self) -> &Frontend {
        self.presence.frontend()
    }

    /// Its backend.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Its server.
    pub fn server(&self) -> &Arc<Server> {
        self.slot.server()
    }

    /// Its journal, for its end, by its story: so much was carried, of which so much is in the counters.
    pub fn recall(self, story: Story, (carried, counted): (Carried, Carried)) -> Journal {
        let mut journal = Journal::recalled(story, self, counted);
        journal.meter().carried = carried;
        journal
    }
}

impl Journal {
    /// Tells what is told at the end by the story alone; what was carried is in the counters from here on.
    ///
    /// # Panics
    /// The flow was not handed over.
    pub fn depart(mut self) -> Kin {
        self.is_finished = true;
        let mut meter = self.meter.take().expect("only a flow departs");
        meter.count();
        let server = self.server();
        Kin {
            backend: self.backend(),
            // It has one until an end of the flow, which is still to come.
            slot: meter.take_slot().unwrap_or_else(|| ServerSlot::kept(server)),
            log: self.log.clone(),
            presence: self.presence.take().expect("it departs once"),
        }
    }
}

impl Presence {
    /// Of a connection that was let in.
    pub(super) fn new(permit: Permit) -> Self {
        permit.frontend().metrics.active.inc();
        Self(permit)
    }
}

impl Deref for Presence {
    type Target = Permit;

    fn deref(&self) -> &Permit {
        &self.0
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.frontend().metrics.active.dec();
    }
}
