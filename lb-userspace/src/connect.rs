// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a backend to an established connection with one of its servers, the PROXY header sent: tries, and tries elsewhere.

use std::io;
use std::time::Duration;

use lb_common::reason::CloseReason;
use tokio::io::Interest;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::{Backend, NoServer, ServerSlot};
use crate::net::{self, Socket};

/// How long to wait before a server is tried again that has just failed, there being no other (as HAProxy: at most 1 s).
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// An established connection with a server.
#[derive(Debug)]
pub struct Connected {
    /// The socket; everything written to it so far is the PROXY header.
    pub socket: Socket,
    /// The place on the server.
    pub slot: ServerSlot,
}

/// How the search for a server went, for the log; filled in also when it fails.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// Positions of the servers tried, in order.
    pub tried: Vec<usize>,
    /// Tries after the first.
    pub retries: u32,
    /// The last try was on another server than the first.
    pub is_redispatched: bool,
    /// From the first try to the end of the last.
    pub duration: Duration,
}

/// What goes to the server in front of the client's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The PROXY header; empty: none.
    pub header: &'a [u8],
    /// The client's first bytes are there already: they may share the header's segment.
    pub has_bytes_waiting: bool,
}

/// Connects a server of the backend for `client`, within the backend's retries.
///
/// # Errors
/// Why the connection has to end, as its [`CloseReason`].
pub async fn connect(
    backend: &Backend,
    client: &Socket,
    opening: Opening<'_>,
    attempts: &mut Attempts,
) -> Result<Connected, CloseReason> {
    let started = Instant::now();
    let result = tokio::select! {
        biased;
        result = try_servers(backend, opening, attempts) => result,
        _ = client.ready(Interest::ERROR) => Err(CloseReason::ConnectAborted),
    };
    attempts.duration = started.elapsed();
    match &result {
        Ok(_) => backend.metrics.connect_duration.observe(attempts.duration.as_secs_f64()),
        Err(CloseReason::NoServer | CloseReason::ServersFull) => {
            backend.metrics.unavailable.inc();
        }
        Err(_) => {}
    }
    result
}

async fn try_servers(
    backend: &Backend,
    opening: Opening<'_>,
    attempts: &mut Attempts,
) -> Result<Connected, CloseReason> {
    let mut failure = CloseReason::ConnectFailed;
    loop {
        let slot = backend.pick(&attempts.tried).map_err(|reason| match reason {
            // After a failed try, that failure is the reason that a person can act on.
            _ if !attempts.tried.is_empty() => failure,
            NoServer::AllDown => CloseReason::NoServer,
            NoServer::AllFull => CloseReason::ServersFull,
        })?;
        note_try(backend, &slot, attempts).await;
        let error = match try_server(backend, &slot, opening).await {
            Ok(socket) => {
                slot.server().metrics.connections.inc();
                return Ok(Connected { socket, slot });
            }
            Err(error) => error,
        };
        failure = judge(backend, &slot, &error);
        if attempts.retries >= backend.settings.retries {
            return Err(failure);
        }
    }
}

/// Writes down a try; waits first if the same server has just failed.
async fn note_try(backend: &Backend, slot: &ServerSlot, attempts: &mut Attempts) {
    let index = slot.index();
    if let Some(&first) = attempts.tried.first() {
        attempts.retries += 1;
        attempts.is_redispatched = index != first;
        backend.metrics.retries.inc();
        if attempts.is_redispatched {
            backend.metrics.redispatches.inc();
        }
    }
    if attempts.tried.contains(&index) {
        sleep(backend.settings.connect_timeout.min(RETRY_PAUSE_MAX)).await;
    }
    attempts.tried.push(index);
}

/// One try: connects and sends the header.
async fn try_server(backend: &Backend, slot: &ServerSlot, opening: Opening<'_>) -> io::Result<Socket> {
    let socket = net::start_connect(slot.server().settings.address)?;
    timeout(backend.settings.connect_timeout, net::connect_decided(&socket))
        .await
        .map_err(io::Error::from)??;
    if opening.header.is_empty() {
        net::connect_result(&socket)?;
        return Ok(socket);
    }
    // Sending reports a failed connect as well as asking for it would.
    let sent = if opening.has_bytes_waiting {
        net::send_with_more_to_come(&socket, opening.header)?
    } else {
        net::send(&socket, opening.header)?
    };
    // An empty send buffer takes a header of at most 536 bytes (PROXY protocol, section 2) whole.
    if sent == opening.header.len() { Ok(socket) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Counts and logs a failed try, and says what the connection's end would be called.
fn judge(backend: &Backend, slot: &ServerSlot, error: &io::Error) -> CloseReason {
    let server = slot.server();
    tracing::debug!(backend = %backend.settings.name, server = %server.settings.name, %error, "cannot connect");
    if net::is_shortage(error) {
        return CloseReason::Resources;
    }
    server.metrics.connect_failures.inc();
    match error.kind() {
        io::ErrorKind::TimedOut => CloseReason::ConnectTimeout,
        _ => CloseReason::ConnectFailed,
    }
}
