// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent is told by signals (README, "Signals").

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::kernel::Packet;
use crate::observe::access_log::AccessLog;

/// Each signal that means something.
pub(super) struct Signals {
    /// Drain and end; a second one: at once.
    pub(super) terminate: Signal,
    /// The same.
    pub(super) interrupt: Signal,
    /// The log was rotated.
    pub(super) hangup: Signal,
    /// SIGUSR1: no agent follows this one.
    pub(super) last: Signal,
}

impl Signals {
    /// Takes the signals over from the kernel, which would end the process for them. Those that come from here on are kept until
    /// somebody asks.
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            last: signal(SignalKind::user_defined1())?,
        })
    }
}

/// Opens the log's file again, each time that it was rotated.
pub(super) async fn reopen_when_told(mut hangup: Signal, log: AccessLog) {
    while hangup.recv().await.is_some() {
        tracing::info!("re-opening the log");
        log.reopen();
    }
}

/// Has the agent end flows of path `packet` with itself, where it would leave them to the next one else.
pub(super) async fn be_last_when_told(mut last: Signal, packet: Option<Arc<Packet>>) {
    while last.recv().await.is_some() {
        let Some(packet) = &packet else { continue };
        tracing::info!("no lb follows: flows of path packet end with this one");
        packet.be_last();
    }
}
