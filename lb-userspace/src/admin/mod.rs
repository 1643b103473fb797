// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP surface for people and machines: `/metrics`, `/healthz`, `/readyz`.
//!
//! Everything that a peer can use up is bounded: connections, the time for a request's header, its size, the life of a
//! connection, and the work of checking passwords.

mod auth;
mod pages;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::auth::Gate;
use crate::backend::Backend;
use crate::config::Admin;
use crate::observe::metrics::Metrics;

/// Most bytes of a request's header; hyper answers longer ones with 431.
const HEADER_MAX: usize = 16 * 1024;

/// How long accepting pauses after it failed, as it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of the surface. Only tests use others than [`LIMITS`].
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections served at once; others wait in the kernel's backlog.
    connections: usize,
    /// For a request's header, and for the time between two requests.
    header_timeout: Duration,
    /// For all of a connection, so that a client that does not read its answer goes.
    connection_life: Duration,
    /// How long the answer to wrong credentials is held back.
    failure_delay: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    header_timeout: Duration::from_secs(5),
    connection_life: Duration::from_secs(30),
    failure_delay: Duration::from_secs(1),
};

/// What the surface shows.
#[derive(Clone, Debug)]
pub struct Surface {
    /// Everything counted.
    pub metrics: Arc<Metrics>,
    /// For readiness: at least one server up in every backend.
    pub backends: Arc<[Arc<Backend>]>,
    /// Set while the agent drains: `/readyz` answers 503.
    pub is_draining: Arc<AtomicBool>,
}

/// Serves the surface on a bound listener on the current runtime until it is dropped; its connections end with it.
///
/// # Errors
/// The listener cannot be made non-blocking or registered with the runtime, a user's password hash is not an argon2 hash in
/// PHC string format, or the kernel gives no random bytes. Once it serves, it does not end by itself.
pub async fn serve(listener: std::net::TcpListener, settings: Admin, surface: Surface) -> io::Result<()> {
    serve_within(LIMITS, listener, settings, surface).await
}

async fn serve_within(
    limits: Limits,
    listener: std::net::TcpListener,
    settings: Admin,
    surface: Surface,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let gate = Arc::new(Gate::new(&settings.users, limits.failure_delay)?);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(limits, stream, surface.clone(), gate.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(limits: Limits, stream: TcpStream, surface: Surface, gate: Arc<Gate>) {
    // Answers are small and whole: waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (surface, gate) = (surface.clone(), gate.clone());
        async move { Ok::<_, Infallible>(pages::answer(&request, &surface, &gate).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(HEADER_MAX)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection_life, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
        Err(_) => tracing::debug!("an admin connection was too old"),
    }
}

#[cfg(test)]
mod tests;
