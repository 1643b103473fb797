// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a backend to an established connection with one of its servers, the PROXY header sent: tries, and tries elsewhere.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::reason::CloseReason;

use crate::backend::{Backend, NoServer, Server, ServerSlot, Ticket, Turn};
use crate::net::{self, Socket, Source};
use crate::path::packet::{Modesty, Outset, Port};
use crate::runtime::{Moment, sleep, timeout_at};

/// How long to wait before a server is tried again that has just failed, there being no other (as HAProxy: at most 1 s).
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Own ports that are tried before the kernel chooses.
const OWN_PORT_TRIES: u32 = 3;

/// An established connection with a server.
#[derive(Debug)]
pub struct Connected {
    /// The socket; everything written to it so far is the PROXY header, if that does not go with the client's first bytes.
    pub socket: Socket,
    /// The place on the server.
    pub slot: ServerSlot,
}

/// How the search for a server went, for the log; filled in also when it fails.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// What the choice of servers goes by: [`Backend::key`].
    key: u64,
    /// The servers tried, in order, by [`Server::id`].
    pub tried: Vec<usize>,
    /// The last of them.
    pub last: Option<Arc<Server>>,
    /// Tries after the first.
    pub retries: u32,
    /// The last try was on another server than the first.
    pub is_redispatched: bool,
    /// From the first try to the end of the last, without [`Self::queued`].
    pub duration: Duration,
    /// In the queue, altogether.
    pub queued: Duration,
    /// How many were in front when it first stood in the queue; `None`: it never did.
    pub queue_position: Option<usize>,
    /// The local port of the last try, if it is one of ours.
    pub port: Option<Arc<Port>>,
    /// The number in the queue, if it stood there.
    ticket: Option<u64>,
    /// Since when it stands there, if it does.
    queued_since: Option<Instant>,
}

/// What goes to the server in front of the client's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The PROXY header; empty: none, or it goes with the client's first bytes.
    pub header: &'a [u8],
    /// The client's first bytes are there already: they may share the header's segment.
    pub has_bytes_waiting: bool,
    /// If the connection is to take path `packet`: where its local port comes from, and what its SYN offers.
    pub outset: Option<Outset<'a>>,
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
        result = try_servers(backend, client, opening, attempts) => result,
        () = client.failed() => Err(CloseReason::ConnectAborted),
    };
    let result = match attempts.leave_queue(backend) {
        true if result.is_err() => Err(CloseReason::QueueAborted),
        _ => result,
    };
    attempts.duration = started.elapsed().saturating_sub(attempts.queued);
    match &result {
        Ok(_) => backend.metrics.connect_duration.observe(attempts.duration.as_secs_f64()),
        Err(CloseReason::NoServer | CloseReason::ServersFull | CloseReason::QueueTimeout) => {
            backend.metrics.unavailable.inc();
        }
        Err(_) => {}
    }
    result
}

async fn try_servers(
    backend: &Backend,
    client: &Socket,
    opening: Opening<'_>,
    attempts: &mut Attempts,
) -> Result<Connected, CloseReason> {
    let mut failure = CloseReason::ConnectFailed;
    // A client that ends its direction behind a ClientHello cannot finish the handshake; others may still want an answer.
    let has_left = || opening.has_bytes_waiting && net::has_fin_behind(client);
    loop {
        let mut slot = take_place(backend, attempts, failure, has_left).await?;
        if attempts.tried.contains(&slot.server().id()) {
            // Nobody else is left. The place is free while we wait, and who is up then is asked again.
            drop(slot);
            sleep(backend.settings.connect_timeout.min(RETRY_PAUSE_MAX)).await;
            slot = take_place(backend, attempts, failure, has_left).await?;
        }
        note_try(backend, &slot, attempts);
        let error = match try_server(backend, &slot, opening, attempts).await {
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

/// Takes a place on a server, in turn with others who wait; `failure` is what the last try came to. `has_left`: whether the client is
/// gone, so that a place would be wasted on it.
async fn take_place(
    backend: &Backend,
    attempts: &mut Attempts,
    failure: CloseReason,
    has_left: impl Fn() -> bool,
) -> Result<ServerSlot, CloseReason> {
    let turn = backend.pick_or_queue(attempts.key, &attempts.tried, attempts.ticket);
    let turn = turn.map_err(|reason| match reason {
        // After a failed try, that failure is the reason that a person can act on.
        _ if !attempts.tried.is_empty() => failure,
        NoServer::AllDown => CloseReason::NoServer,
        NoServer::AllFull => CloseReason::ServersFull,
    })?;
    let ticket = match turn {
        Turn::Now(slot) => return Ok(slot),
        Turn::Later(ticket) => ticket,
    };
    attempts.enter_queue(&ticket);
    let place = ticket.place(sleep(backend.settings.queue_timeout)).await;
    attempts.leave_queue(backend);
    match place {
        Some(_) if has_left() => Err(CloseReason::QueueAborted),
        place => place.ok_or(CloseReason::QueueTimeout),
    }
}

impl Attempts {
    /// None yet, for a client with this key ([`Backend::key`]).
    pub fn new(key: u64) -> Self {
        Self { key, ..Self::default() }
    }

    fn enter_queue(&mut self, ticket: &Ticket) {
        self.ticket = Some(ticket.number());
        self.queue_position.get_or_insert(ticket.position());
        self.queued_since = Some(Instant::now());
    }

    /// Adds up the time in the queue; whether it was there.
    fn leave_queue(&mut self, backend: &Backend) -> bool {
        let Some(since) = self.queued_since.take() else { return false };
        let duration = since.elapsed();
        backend.metrics.queue_duration.observe(duration.as_secs_f64());
        self.queued += duration;
        true
    }
}

/// Writes down a try.
fn note_try(backend: &Backend, slot: &ServerSlot, attempts: &mut Attempts) {
    let id = slot.server().id();
    if let Some(&first) = attempts.tried.first() {
        attempts.retries += 1;
        attempts.is_redispatched = id != first;
        backend.metrics.retries.inc();
        if attempts.is_redispatched {
            backend.metrics.redispatches.inc();
        }
    }
    attempts.tried.push(id);
    attempts.last = Some(Arc::clone(slot.server()));
}

/// One try: connects and sends the header, within `connect-timeout`.
async fn try_server(
    backend: &Backend,
    slot: &ServerSlot,
    opening: Opening<'_>,
    attempts: &mut Attempts,
) -> io::Result<Socket> {
    let speaks_first = opening.has_bytes_waiting || !opening.header.is_empty();
    attempts.port = None;
    // Dropped the other way round: a port is given back when its socket is closed.
    let (own, socket) = match start_from_own_port(backend, slot, opening.outset.as_ref(), speaks_first) {
        Some((socket, own)) => (Some(own), socket),
        None => (None, start_connect(backend, slot, speaks_first)?),
    };
    let deadline = Moment::now() + backend.settings.connect_timeout;
    timeout_at(deadline, net::connected(&socket)).await.map_err(io::Error::from)??;
    attempts.port = own.map(|(modesty, port)| {
        if let Some(modesty) = modesty {
            modesty.settle(&port, &socket);
        }
        Arc::new(port)
    });
    if opening.header.is_empty() {
        return Ok(socket);
    }
    let sent = if opening.has_bytes_waiting {
        net::send_with_more_to_come(&socket, opening.header)?
    } else {
        net::send(&socket, opening.header)?
    };
    let rest = &opening.header[sent..];
    if !rest.is_empty() {
        // Only a header with much relayed in it: an empty send buffer takes 536 bytes (PROXY protocol, section 2) whole. Boxed, as
        // it is so rare.
        Box::pin(timeout_at(deadline, send_rest(&socket, rest))).await.map_err(io::Error::from)??;
    }
    Ok(socket)
}

/// Sends what the send buffer had no room for, as the server takes what is before it.
async fn send_rest(socket: &Socket, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        socket.writable().await;
        match net::send(socket, rest) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.clear_write_ready(),
            sent => rest = &rest[sent?..],
        }
    }
    Ok(())
}

/// A port of ours, and what its SYN offers. Dropped in this order: nobody else may have the port meanwhile.
type Own<'a> = (Option<Modesty<'a>>, Port);

/// Begins to connect from a port that the kernel gives to nobody. `None`: there is none, or it cannot be used; any other will do.
fn start_from_own_port<'a>(
    backend: &Backend,
    slot: &ServerSlot,
    outset: Option<&Outset<'a>>,
    speaks_first: bool,
) -> Option<(Socket, Own<'a>)> {
    let address = slot.server().address;
    let outset = outset.filter(|outset| outset.may_lead_to(address));
    let source = backend.sources(address).next().unwrap_or_default();
    let here = source.address.unwrap_or_else(|| net::unspecified(address));
    // A connection of before may be in TIME_WAIT there.
    (0..OWN_PORT_TRIES).find_map(|_| {
        let port = outset?.ports().take(address)?;
        let modesty = outset?.before(address, &port);
        let source = Source { address: Some(here), port: Some(port.number()), ..source };
        net::start_connect(address, source, speaks_first).ok().map(|socket| (socket, (modesty, port)))
    })
}

/// Begins to connect, from another address of ours where one has no port left towards the server.
fn start_connect(backend: &Backend, slot: &ServerSlot, speaks_first: bool) -> io::Result<Socket> {
    let address = slot.server().address;
    let mut sources = backend.sources(address).peekable();
    while let Some(source) = sources.next() {
        match net::start_connect(address, source, speaks_first) {
            Err(error) if net::is_out_of_ports(&error) => {
                backend.metrics.source_ports_exhausted.inc();
                if sources.peek().is_none() {
                    return Err(error);
                }
            }
            decided => return decided,
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// Counts and logs a failed try, and says what the connection's end would be called.
fn judge(backend: &Backend, slot: &ServerSlot, error: &io::Error) -> CloseReason {
    let server = slot.server();
    tracing::debug!(backend = %backend.settings.name, server = %server.settings.name, address = %server.address, %error, "cannot connect");
    if net::is_shortage(error) {
        return CloseReason::Resources;
    }
    if net::is_source_problem(error) {
        backend.warn_of_source(error);
        return CloseReason::Resources;
    }
    server.metrics.connect_failures.inc();
    server.vitals.traffic.note_connect_failure();
    match error.kind() {
        io::ErrorKind::TimedOut => CloseReason::ConnectTimeout,
        _ => CloseReason::ConnectFailed,
    }
}
