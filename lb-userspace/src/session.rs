// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection, from accept to its log line, as one straight function: [`run`].

use lb_common::reason::{CloseReason, HelloReason};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::config::{BackendId, Mode, Policy, TlsPassthrough};
use crate::connect::{self, Attempts, Connected, Opening};
use crate::frontend::Frontend;
use crate::journal::Journal;
use crate::net::Socket;
use crate::path::{self, Flow};
use crate::prelude::hello::HelloLimits;
use crate::prelude::peek::{FirstBytes, first_bytes};
use crate::prelude::reject::{Alert, reject};
use crate::proxy;
use crate::worker::Worker;

/// Serves one client: routes it, connects a server, hands over to a path. Returns why it ended, with both sockets closed.
pub async fn run(worker: &Worker, frontend: &Frontend, client: Socket, journal: &mut Journal) -> CloseReason {
    match route(worker, frontend, &client, journal).await {
        Ok(backend) => serve(worker, frontend, backend, &client, journal).await,
        Err(close) => close,
    }
}

/// Finds the backend: by mode, ClientHello, route or policy.
///
/// # Errors
/// Why the connection ends here.
async fn route(
    worker: &Worker,
    frontend: &Frontend,
    client: &Socket,
    journal: &mut Journal,
) -> Result<BackendId, CloseReason> {
    let tls = match &frontend.settings.mode {
        Mode::Tcp { backend } => return Ok(*backend),
        Mode::TlsPassthrough(tls) => tls,
    };
    let limits = HelloLimits { handshake_max: tls.client_hello_max, wire_max: tls.client_hello_wire_max };
    let deadline = Instant::from_std(journal.started()) + tls.client_hello_timeout;
    let source = journal.client().ip();
    let first =
        first_bytes(client, limits, deadline, &worker.hello_buffers, &worker.pending_hellos, source).await;
    let (reason, has_begun) = match first {
        FirstBytes::Hello(hello) => {
            let reason =
                if hello.server_name.is_some() { HelloReason::UnknownName } else { HelloReason::NoName };
            let name = hello.server_name.as_deref();
            let routed = frontend.router.as_ref().and_then(|router| router.route(name, &hello.alpn));
            journal.note_hello(hello);
            match routed {
                Some(matched) => return Ok(matched.backend),
                None => (reason, true),
            }
        }
        FirstBytes::NotTls => (HelloReason::NotTls, false),
        FirstBytes::Malformed => (HelloReason::Malformed, true),
        FirstBytes::TooLarge => (HelloReason::TooLarge, true),
        FirstBytes::TimedOut { has_begun } => (HelloReason::Timeout, has_begun),
        FirstBytes::Gone => return Err(CloseReason::HelloAborted),
        FirstBytes::Evicted => return Err(CloseReason::HelloEvicted),
    };
    journal.note_exception(reason);
    apply_policy(tls, reason, has_begun, client).await
}

/// Does what the configuration says about first bytes that name no backend.
async fn apply_policy(
    tls: &TlsPassthrough,
    reason: HelloReason,
    has_begun: bool,
    client: &Socket,
) -> Result<BackendId, CloseReason> {
    match tls.policy(reason) {
        Policy::Backend(backend) => Ok(backend),
        Policy::Reject => {
            reject(client, Alert::for_reason(reason).filter(|_| has_begun)).await;
            Err(CloseReason::HelloRejected)
        }
    }
}

/// Connects a server and carries the flow to its end.
async fn serve(
    worker: &Worker,
    frontend: &Frontend,
    backend: BackendId,
    client: &Socket,
    journal: &mut Journal,
) -> CloseReason {
    let backend = &worker.backends[backend.0];
    journal.note_backend(backend);
    let connected = match open_server(backend, client, journal).await {
        Ok(connected) => connected,
        Err(close) => {
            if journal.has_hello() && close != CloseReason::ConnectAborted {
                reject(client, Some(Alert::INTERNAL_ERROR)).await;
            }
            return close;
        }
    };
    let Connected { socket, slot } = connected;
    let strategy = backend.settings.path.unwrap_or(frontend.settings.path).path.into();
    let has_bytes_waiting = journal.has_hello();
    let flow = Flow { client, server: &socket, strategy, has_bytes_waiting, backend: &backend.settings };
    path::carry(flow, &worker.tools, journal.hand_over(slot, strategy)).await
}

/// Connects a server and sends it the PROXY header.
///
/// # Errors
/// Why the connection ends here.
async fn open_server(
    backend: &Backend,
    client: &Socket,
    journal: &mut Journal,
) -> Result<Connected, CloseReason> {
    let header = backend.settings.send_proxy.map_or_else(Vec::new, |settings| {
        proxy::header(settings, journal.client(), journal.local(), journal.server_name())
    });
    let opening = Opening { header: &header, has_bytes_waiting: journal.has_hello() };
    let mut attempts = Attempts::default();
    let connected = connect::connect(backend, client, opening, &mut attempts).await;
    journal.note_attempts(backend, &attempts, connected.is_ok());
    connected
}
