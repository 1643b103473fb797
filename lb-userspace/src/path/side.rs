// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two ends of a flow.

use lb_common::reason::CloseReason;

use super::start::Flow;
use crate::net::Socket;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

impl Side {
    /// Across.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Its socket.
    pub(super) fn of<'a>(self, flow: &Flow<'a>) -> &'a Socket {
        match self {
            Self::Client => flow.client,
            Self::Server => flow.server,
        }
    }

    /// Why a flow ends that it resets.
    pub(super) fn reset_reason(self) -> CloseReason {
        match self {
            Self::Client => CloseReason::ClientReset,
            Self::Server => CloseReason::ServerReset,
        }
    }
}
