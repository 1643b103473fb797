// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP surface for people and machines: `/metrics`, `/healthz`, `/readyz`, and `servers`, `sessions` and `warnings` below `/api/v1`.
//!
//! Everything that a peer can use up is bounded: connections, in all and by source, the time for a request's header,
//! its size, the life of a connection, and the work of checking passwords.

mod api;
mod auth;
mod pages;
mod places;
mod sessions;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinError, JoinSet};

use self::auth::Gate;
use self::places::{IsAnswered, Places, Source};
use crate::backend::Backend;
use crate::coalescing::Findings;
use crate::config::Admin;
use crate::config::needs::ADMIN_CONNECTIONS;
use crate::kernel::Packet;
use crate::observe::metrics::Metrics;

/// Most bytes of a request's header; hyper answers longer ones with 431.
const HEADER_MAX: usize = 16 * 1024;

/// How long accepting pauses after it failed, as it does for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of the surface. Only tests use others than [`LIMITS`].
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections served at once, at most [`ADMIN_CONNECTIONS`]; see [`places`] for whom further ones replace.
    connections: usize,
    /// Of them, connections from one source.
    source_connections: usize,
    /// For a request's header.
    header_timeout: Duration,
    /// For all of a connection, so that a client that does not read its answer goes.
    connection_life: Duration,
    /// How long the answer to wrong credentials is held back.
    failure_delay: Duration,
}

const LIMITS: Limits = Limits {
    connections: ADMIN_CONNECTIONS as usize,
    source_connections: 8,
    header_timeout: Duration::from_secs(5),
    connection_life: Duration::from_secs(30),
    failure_delay: Duration::from_secs(1),
};

/// What the surface shows.
#[derive(Clone, Debug)]
pub struct Surface {
    /// Everything counted.
    pub metrics: Arc<Metrics>,
    /// For readiness, at least one server up in every backend, and for the list of servers.
    pub backends: Arc<[Arc<Backend>]>,
    /// Set while the agent drains: `/readyz` answers 503.
    pub is_draining: Arc<AtomicBool>,
    /// Path `packet`, where it is available, for the list of sessions.
    pub packet: Option<Arc<Packet>>,
    /// Certificates that cover names of other backends, for the list of warnings.
    pub findings: Arc<Findings>,
}

/// The surface on a listening socket, with everything that can fail behind it.
#[derive(Debug)]
pub struct Service {
    limits: Limits,
    listener: TcpListener,
    gate: Arc<Gate>,
    surface: Surface,
}

impl Service {
    /// Prepares to serve on a listening socket. Needs the context of the runtime that will run it.
    ///
    /// # Errors
    /// The listener cannot be made non-blocking or registered with the runtime, a user's password hash is not an argon2 hash in
    /// PHC string format, or the kernel gives no random bytes.
    pub fn new(listener: std::net::TcpListener, settings: &Admin, surface: Surface) -> io::Result<Self> {
        Self::within(LIMITS, listener, settings, surface)
    }

    fn within(
        limits: Limits,
        listener: std::net::TcpListener,
        settings: &Admin,
        surface: Surface,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let gate = Arc::new(Gate::new(&settings.users, limits.failure_delay)?);
        Ok(Self { limits, listener, gate, surface })
    }

    /// Serves until it is dropped; its connections end with it.
    pub async fn run(self) {
        let mut places = Places::new(self.limits.connections, self.limits.source_connections);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // In this order, so that no flood of connections keeps those that ended from being reaped.
                biased;
                Some(ended) = connections.join_next_with_id() => places.give_back(id_of(ended)),
                // Full only while those that had to make room have not ended yet.
                accepted = self.listener.accept(), if connections.len() <= self.limits.connections => match accepted {
                    Ok((stream, peer)) => {
                        let (source, is_answered) = (Source::of(peer.ip()), IsAnswered::default());
                        places.make_room(source);
                        let task = connections.spawn(self.serve(stream, Arc::clone(&is_answered)));
                        places.add(source, is_answered, task);
                        // What it has sent already should be seen before further ones can take its place.
                        tokio::task::yield_now().await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept an admin connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Serves one request, which is all that a connection is for: one that is kept would have to be told from one that is idle.
    fn serve(&self, stream: TcpStream, is_answered: IsAnswered) -> impl Future<Output = ()> + use<> {
        // Answers are small and whole: waiting to fill a segment would only delay them.
        let _ = stream.set_nodelay(true);
        let (surface, gate) = (self.surface.clone(), Arc::clone(&self.gate));
        let service = service_fn(move |request| {
            let (surface, gate, is_answered) = (surface.clone(), gate.clone(), is_answered.clone());
            async move { Ok::<_, Infallible>(pages::answer(&request, &surface, &gate, &is_answered).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .keep_alive(false)
            .max_header_size(HEADER_MAX)
            .max_buf_size(HEADER_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let life = self.limits.connection_life;
        async move {
            match tokio::time::timeout(life, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended early"),
                Err(_) => tracing::debug!("an admin connection was too old"),
            }
        }
    }
}

fn id_of(ended: Result<(Id, ()), JoinError>) -> Id {
    ended.map_or_else(|error| error.id(), |(id, ())| id)
}

#[cfg(test)]
mod tests;
