// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a flow is, and how it begins.

use super::silence::Outstanding;
use super::{JoinedHeader, Strategy};
use crate::config;
use crate::net::{self, Socket};

/// Two connected sockets and what the configuration says of bytes between them.
#[derive(Debug)]
pub struct Flow<'a> {
    /// The client's leg.
    pub client: &'a Socket,
    /// The server's leg.
    pub server: &'a Socket,
    /// Timeouts and socket options of the server's leg.
    pub backend: &'a config::Backend,
}

/// How a flow begins.
#[derive(Debug)]
pub struct Start {
    /// How bytes move.
    pub strategy: Strategy,
    /// The client's first bytes wait in its socket.
    pub has_bytes_waiting: bool,
    /// What goes to the server with them, in one segment, and is not counted; only where [`Strategy::joins`] says so.
    pub header: Option<Box<JoinedHeader>>,
}

impl Flow<'_> {
    /// What waits in the send buffers.
    pub(super) fn outstanding(&self) -> Outstanding {
        // A socket that is gone has nothing outstanding.
        [self.client, self.server].map(|socket| net::unacknowledged_bytes(socket.get_ref()).unwrap_or(0))
    }
}
