// SPDX-License-Identifier: MIT OR Apache-2.0
//! Refuses a client so that it learns why: what it sent is drained first, or else the kernel would answer the close with a
//! reset that overtakes the alert (RFC 2525 section 2.17), then comes the alert, then a FIN.

use std::io;
use std::time::Duration;

use crate::net::{self, Socket};
use crate::runtime::timeout;
use lb_common::reason::HelloReason;

/// How long a refused client may take to close its side before the socket is left to the kernel.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes that are drained from a refused client, in bytes; one that sends more gets a reset.
const DRAIN_MAX: usize = 1 << 20;

/// A TLS alert: level and description (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    level: u8,
    description: u8,
}

impl Alert {
    /// No server can take the connection: internal_error.
    pub const INTERNAL_ERROR: Self = Self::fatal(80);

    const fn fatal(description: u8) -> Self {
        Self { level: 2, description }
    }

    /// The alert for a reason; `None`: the client did not speak TLS.
    pub const fn for_reason(reason: HelloReason) -> Option<Self> {
        match reason {
            // RFC 6066 section 3: unrecognized_name.
            HelloReason::UnknownName => Some(Self::fatal(112)),
            // RFC 8446 section 9.2: a server that requires the extension answers missing_extension.
            HelloReason::NoName => Some(Self::fatal(109)),
            HelloReason::Malformed => Some(Self::fatal(50)),
            // The message is well-formed as far as it was read; a field, its length, is out of range: illegal_parameter.
            HelloReason::TooLarge => Some(Self::fatal(47)),
            // No alert exists for it; close_notify says that nothing more will be sent (RFC 8446 section 6.1).
            HelloReason::Timeout => Some(Self { level: 1, description: 0 }),
            HelloReason::NotTls => None,
        }
    }

    /// The alert in a record of its own, in plain text (RFC 8446 section 5.1).
    const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, self.level, self.description]
    }
}

/// Sends the alert, if there is one, and a FIN, and waits a moment for the client's.
pub async fn reject(socket: &Socket, alert: Option<Alert>) {
    let Ok(drained) = drain(socket, 0) else { return };
    if let Some(alert) = alert
        && net::send(socket, &alert.record()).is_err()
    {
        return;
    }
    net::send_fin(socket);
    if timeout(LINGER, until_closed(socket, drained)).await.unwrap_or(true) {
        net::end_cleanly(socket);
    }
}

/// What draining came to.
#[derive(Clone, Copy, Debug)]
struct Drained {
    bytes: usize,
    has_ended: bool,
}

/// Takes and forgets what has arrived.
fn drain(socket: &Socket, before: usize) -> io::Result<Drained> {
    let mut bytes = before;
    let mut buffer = [0; 16 * 1024];
    loop {
        match net::receive(socket, &mut buffer) {
            Ok(0) => return Ok(Drained { bytes, has_ended: true }),
            Ok(len) => bytes += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Drained { bytes, has_ended: false });
            }
            Err(error) => return Err(error),
        }
        if bytes > DRAIN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// Drains until the client closes. `false`: it reset, or sent too much.
async fn until_closed(socket: &Socket, mut drained: Drained) -> bool {
    while !drained.has_ended {
        socket.readable().await;
        socket.clear_read_ready();
        match drain(socket, drained.bytes) {
            Ok(more) => drained = more,
            Err(_) => return false,
        }
    }
    true
}
