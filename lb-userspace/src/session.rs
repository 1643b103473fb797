// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection, from accept to its log line, as one straight function: [`run`].

mod inside;
mod spliced;

pub use spliced::resume;

use std::rc::Rc;
use std::sync::Arc;

use lb_common::reason::{CloseReason, HelloReason};

use crate::backend::{Backend, Server};
use crate::config::{AcceptProxy, BackendId, Mode, PathChoice, PathWish, Policy, SendProxy, TlsPassthrough};
use crate::connect::{self, Attempts, Connected, Opening};
use crate::frontend::Frontend;
use crate::journal::{Introduction, Journal};
use crate::net::Socket;
use crate::path::packet::Outset;
use crate::path::{self, Flow, FlowEnd, JoinedHeader, Start, Strategy};
use crate::prelude::hello::HelloLimits;
use crate::prelude::peek::{FirstBytes, Waiting, first_bytes};
use crate::prelude::proxy_header::{Preface, take_header};
use crate::prelude::reject::{Alert, reject};
use crate::proxy::{self, Content};
use crate::runtime::Moment;
use crate::worker::Worker;

/// Most bytes of a session while its flow is idle, so that nobody makes it larger without noticing: every open connection has one.
/// A build without optimization keeps a word more, for what may or may not have moved, and so does one that unwinds, as benchmarks do.
const SESSION_MAX: usize = if cfg!(any(debug_assertions, panic = "unwind")) { 272 } else { 264 };

/// Serves one client: routes it, connects a server, hands over to a path; writes down why it ended, with both sockets closed.
///
/// A task keeps room for the largest future that it ever awaits, as long as it lives. What comes before the flow is boxed, so that
/// an idle flow costs what carrying it costs.
// Not `async`: that would keep every parameter twice, as it came and as it is used.
pub fn run(worker: Rc<Worker>, client: Socket, mut journal: Box<Journal>) -> impl Future<Output = ()> {
    small(async move {
        let (backend, Connected { socket, slot }, header) =
            match Box::pin(open(&worker, &client, &mut journal)).await {
                Ok(opened) => opened,
                Err(close) => return end(&worker, client, *journal, close),
            };
        let wish = path_choice(backend, &journal).path;
        match wish {
            PathWish::Packet => {
                return spliced::move_away(&worker, Legs { client, server: socket }, journal, slot, header);
            }
            PathWish::Sockmap => {
                return inside::move_inside(&worker, Legs { client, server: socket }, journal, slot);
            }
            PathWish::Auto | PathWish::Splice | PathWish::Copy => {}
        }
        let strategy = Strategy::of(wish);
        let start = Start { strategy, has_bytes_waiting: journal.has_hello(), header };
        let flow = Flow { client: &client, server: &socket, backend: &backend.settings };
        let may_be_cut = slot.server().may_be_cut().then(|| Arc::clone(slot.server()));
        let meter = journal.hand_over(slot, strategy.first());
        let flow_end = match may_be_cut {
            None => path::carry(&flow, start, &worker.tools, meter).await,
            Some(server) => Box::pin(until_cut(path::carry(&flow, start, &worker.tools, meter), server))
                .await
                .unwrap_or_else(FlowEnd::cut),
        };
        drop(socket);
        journal.note_silent_side(flow_end.silent);
        end(&worker, client, *journal, flow_end.reason);
    })
}

/// How a connection to a backend is to be carried.
fn path_choice(backend: &Backend, journal: &Journal) -> PathChoice {
    backend.settings.path.unwrap_or(journal.frontend().settings.path)
}

/// The two connections of a flow.
struct Legs {
    client: Socket,
    server: Socket,
}

/// Closes the sockets of a flow that user space carried to its end, and then writes down why it ended.
fn finish_flow(worker: &Worker, legs: Legs, mut journal: Journal, flow_end: FlowEnd) {
    drop(legs.server);
    journal.note_silent_side(flow_end.silent);
    end(worker, legs.client, journal, flow_end.reason);
}

/// The same as [`until_cut`], where the server's sessions may end, as one outcome.
async fn or_cut<T>(
    carrying: impl Future<Output = T>,
    may_be_cut: &Option<Arc<Server>>,
    cut: fn(CloseReason) -> T,
) -> T {
    match may_be_cut {
        None => carrying.await,
        Some(server) => until_cut(carrying, Arc::clone(server)).await.unwrap_or_else(cut),
    }
}

/// Carries a flow to its end, or to that of the server's sessions: then both ends get a reset.
///
/// # Errors
/// Why the server's sessions end.
async fn until_cut<T>(carrying: impl Future<Output = T>, server: Arc<Server>) -> Result<T, CloseReason> {
    tokio::select! {
        biased;
        end = carrying => Ok(end),
        reason = server.cut() => Err(reason),
    }
}

/// Closes the client's socket, and then writes down why.
fn end(worker: &Worker, client: Socket, journal: Journal, close: CloseReason) {
    drop(client);
    finish(worker, journal, close);
}

/// Writes down why a connection ended whose sockets are closed.
fn finish(worker: &Worker, journal: Journal, close: CloseReason) {
    journal.finish(close);
    worker.note_end();
}

/// The same future; it does not compile if it is larger than [`SESSION_MAX`].
fn small<F: Future>(session: F) -> F {
    const { assert!(size_of::<F>() <= SESSION_MAX) };
    session
}

/// Routes the client and connects a server.
///
/// # Errors
/// Why the connection ends here.
async fn open<'w>(
    worker: &'w Worker,
    client: &Socket,
    journal: &mut Journal,
) -> Result<(&'w Backend, Connected, Option<Box<JoinedHeader>>), CloseReason> {
    let frontend = &Arc::clone(journal.frontend());
    if let Some(accept) = &frontend.settings.accept_proxy
        && accept.is_from(journal.client().ip())
    {
        // Boxed as the others, and gone before they come.
        Box::pin(take_proxy_header(worker, accept, client, journal)).await?;
    }
    let backend = &worker.backends[route(worker, frontend, client, journal).await?.0];
    journal.note_backend(backend);
    // Boxed once more: in one piece they exceed what the C library reuses at once (1,032 bytes with glibc's malloc), and what
    // outlives them leaves gaps that cost every idle flow 130 bytes.
    match Box::pin(open_server(worker, backend, client, journal)).await {
        Ok((connected, header)) => Ok((backend, connected, header)),
        Err(close) => {
            let is_gone = matches!(close, CloseReason::ConnectAborted | CloseReason::QueueAborted);
            if journal.has_hello() && !is_gone {
                reject(client, Some(Alert::INTERNAL_ERROR)).await;
            }
            Err(close)
        }
    }
}

/// Takes the PROXY header, with which a connection from a listed source must begin. Who is no such source never gets here, so that
/// what he sends is never taken for a header.
///
/// # Errors
/// Why the connection ends here.
async fn take_proxy_header(
    worker: &Worker,
    accept: &AcceptProxy,
    client: &Socket,
    journal: &mut Journal,
) -> Result<(), CloseReason> {
    let deadline = Moment::from(journal.started()) + accept.timeout;
    let (buffers, pending) = (&worker.hello_buffers, &worker.pending_hellos);
    let source = journal.client().ip();
    match take_header(client, accept.header_max, deadline, buffers, pending, source).await {
        Preface::Header(received) => {
            journal.note_proxy_header(received);
            Ok(())
        }
        Preface::Invalid(reason) => {
            journal.note_proxy_rejection(reason);
            Err(CloseReason::ProxyRejected)
        }
        Preface::Gone => Err(CloseReason::ProxyAborted),
        Preface::Evicted => Err(CloseReason::HelloEvicted),
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
    let deadline = Moment::from(journal.hello_expected_from()) + tls.client_hello_timeout;
    let waiting =
        Waiting { pending: &worker.pending_hellos, source: journal.client().ip(), kept: journal.kept() };
    let first = first_bytes(client, limits, deadline, &worker.hello_buffers, waiting).await;
    let (reason, has_begun) = match first {
        FirstBytes::Hello(hello) => {
            let reason =
                if hello.server_name.is_some() { HelloReason::UnknownName } else { HelloReason::NoName };
            let name = hello.server_name.as_deref();
            let routed = frontend.router.as_ref().and_then(|router| router.route(name, &hello.alpn));
            let backend =
                routed.as_ref().map(|matched| matched.backend).or_else(|| tls.policy(reason).backend());
            if let Some(alpn) = hello.alpn.iter().next()
                && backend.is_some_and(|id| worker.backends[id.0].settings.sends_alpn())
            {
                journal.note_first_protocol(alpn);
            }
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

/// Connects a server and sends it the PROXY header, unless that goes out with the client's first bytes.
///
/// # Errors
/// Why the connection ends here.
async fn open_server(
    worker: &Worker,
    backend: &Backend,
    client: &Socket,
    journal: &mut Journal,
) -> Result<(Connected, Option<Box<JoinedHeader>>), CloseReason> {
    let header = opening_header(backend, journal);
    let path = path_choice(backend, journal).path;
    let is_joined = journal.has_hello()
        && path != PathWish::Sockmap
        && !header.is_empty()
        && Strategy::of(path).joins(header.len());
    let (header, joined) =
        if is_joined { (Vec::new(), Some(Box::new(JoinedHeader(header)))) } else { (header, None) };
    let station = worker.packet.as_ref().filter(|_| path == PathWish::Packet);
    let outset = station.and_then(|station| Outset::new(station, client, journal.client().ip()));
    let opening = Opening { header: &header, has_bytes_waiting: journal.has_hello(), outset };
    let key = backend.key(journal.client().ip(), journal.server_name());
    let mut attempts = Attempts::new(key);
    let connected = connect::connect(backend, client, opening, &mut attempts).await;
    journal.note_attempts(&attempts, connected.is_ok());
    Ok((connected?, joined))
}

/// The PROXY header towards the server, if one goes out. What it is made of is gone then, also if none does: it may be 64 KiB, and
/// neither who waits in a queue nor the flow is to keep it.
fn opening_header(backend: &Backend, journal: &mut Journal) -> Vec<u8> {
    let introduction = journal.take_introduction();
    let settings = backend.settings.send_proxy;
    settings.map_or_else(Vec::new, |settings| introduce(settings, &introduction, journal))
}

/// The PROXY header towards the server: who the client is, and what else the settings want said.
fn introduce(settings: SendProxy, introduction: &Introduction, journal: &mut Journal) -> Vec<u8> {
    if settings.tlvs().unique_id {
        journal.ensure_unique_id();
    }
    let content = Content {
        client: journal.client(),
        local: journal.local(),
        authority: journal.server_name(),
        alpn: introduction.alpn.as_deref(),
        unique_id: journal.unique_id(),
        received: introduction.received.as_deref(),
    };
    proxy::header(settings, &content)
}
