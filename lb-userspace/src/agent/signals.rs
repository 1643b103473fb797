// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent is told by signals (README, "Signals").

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

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
    /// SIGUSR1: no agent follows this one, which is about to be told to drain.
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

/// How long SIGUSR1 counts: who sends it sends SIGTERM right behind it.
const LAST_FOR: Duration = Duration::from_secs(10);

/// Has the agent end flows of path `packet` with itself, where it would leave them to the next one else. Only if it is told to drain next: others mean
/// other things by the same signal, and long after it a restart would end all flows.
pub(super) async fn be_last_when_told(
    mut last: Signal,
    packet: Option<Arc<Packet>>,
    is_draining: Arc<AtomicBool>,
) {
    while last.recv().await.is_some() {
        let Some(packet) = &packet else { continue };
        tracing::info!("no lb follows: flows of path packet end with this one");
        packet.be_last(true);
        sleep(LAST_FOR).await;
        if !is_draining.load(Ordering::Relaxed) {
            tracing::warn!(waited = ?LAST_FOR, "nobody has stopped lb since SIGUSR1: flows of path packet do not end with this one");
            packet.be_last(false);
        }
    }
}
