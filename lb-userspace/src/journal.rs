// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of one connection while it lives: its places in the limits, and what its metrics and its log line will say.
//! A connection that is cut by the end of the agent gets its line too: dropping an unfinished journal writes it.

mod kin;
mod story;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use lb_common::reason::{CloseReason, HelloReason, PathKind, ProxyReason};

use crate::backend::{Backend, Server, ServerSlot};
use crate::connect::Attempts;
use crate::frontend::{Frontend, Permit};
use crate::net::{self, Endpoint};
use crate::observe::access_log::{ALPN_TEXT_MAX, AccessLog, Proxied, Queued, Record, Translated};
use crate::path::packet::Port;
use crate::path::{Carried, Meter, Side};
use crate::prelude::hello::ClientHello;
use crate::proxy::{Endpoints, Received};
use kin::Presence;

pub use kin::Kin;
pub use story::Story;

/// The number of the next connection of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Most bytes of a journal, which an open connection keeps for its log line: one byte more costs every one of them 16 (malloc of
/// glibc). What most connections do not have is boxed, and what can be told from something shared is not in it.
const JOURNAL_MAX: usize = 184;

const _: () = assert!(size_of::<Journal>() <= JOURNAL_MAX);

/// The story of one connection.
#[derive(Debug)]
pub struct Journal {
    id: u64,
    accepted_at: SystemTime,
    started: Instant,
    client: Endpoint,
    local: Endpoint,
    hello: Option<Box<HelloStory>>,
    hello_exception: Option<HelloReason>,
    backend: Option<Arc<Backend>>,
    /// The last one tried.
    server: Option<Arc<Server>>,
    /// Boxed, because few connections have any of it.
    rare: Option<Box<Rare>>,
    connect_time: Option<Duration>,
    retries: u32,
    is_redispatched: bool,
    /// The path that the flow began with.
    path: Option<PathKind>,
    is_server_silent: bool,
    /// It holds the place on the server.
    meter: Option<Box<Meter>>,
    log: AccessLog,
    /// It is there until the connection [departs](Self::depart).
    presence: Option<Presence>,
    is_finished: bool,
}

/// What few connections have.
#[derive(Debug, Default)]
struct Rare {
    /// The wait in a backend's queue.
    queued: Option<Queued>,
    /// What the log line says of PROXY headers.
    proxied: Proxied,
    introduction: Introduction,
    /// Client and local address are those of a PROXY header, and not the socket's.
    is_told: bool,
    /// The local port of the connection to the server, if it is one of ours.
    port: Option<Arc<Port>>,
    /// For the flow, if programs have carried it.
    translated: Option<Translated>,
}

/// What the PROXY header towards the server needs besides the rest of the story. Gone as soon as that is written.
#[derive(Debug, Default)]
pub struct Introduction {
    /// The header that the connection began with.
    pub received: Option<Box<Received>>,
    /// When it was complete.
    pub received_at: Option<Instant>,
    /// The ALPN protocol that the client offers first, if the backend wants to know.
    pub alpn: Option<Box<[u8]>>,
}

/// What the log line says of a ClientHello.
#[derive(Debug)]
struct HelloStory {
    sni: Option<String>,
    alpn: String,
    has_ech: bool,
    time: Duration,
}

impl Journal {
    /// A connection that has just been accepted.
    pub fn new(permit: Permit, client: SocketAddr, local: SocketAddr, log: AccessLog) -> Self {
        permit.frontend().metrics.connections.inc();
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            accepted_at: SystemTime::now(),
            started: Instant::now(),
            client: client.into(),
            local: local.into(),
            hello: None,
            hello_exception: None,
            backend: None,
            server: None,
            rare: None,
            connect_time: None,
            retries: 0,
            is_redispatched: false,
            path: None,
            is_server_silent: false,
            meter: None,
            log,
            presence: Some(Presence::new(permit)),
            is_finished: false,
        }
    }

    /// The frontend that the connection came in by.
    pub fn frontend(&self) -> &Arc<Frontend> {
        self.presence().frontend()
    }

    fn presence(&self) -> &Presence {
        self.presence.as_ref().expect("nobody has a journal of what has departed")
    }

    /// When the connection was accepted.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The client's address, by its PROXY header if it came with one.
    pub fn client(&self) -> SocketAddr {
        self.client.into()
    }

    /// The address that the client connected to.
    pub fn local(&self) -> SocketAddr {
        self.local.into()
    }

    /// The peeked name.
    pub fn server_name(&self) -> Option<&str> {
        self.hello.as_ref()?.sni.as_deref()
    }

    /// Whether a whole ClientHello waits in the client's socket.
    pub fn has_hello(&self) -> bool {
        self.hello.is_some()
    }

    /// From when on a ClientHello is due: accept, or the end of the PROXY header before it.
    pub fn hello_expected_from(&self) -> Instant {
        self.rare.as_ref().and_then(|rare| rare.introduction.received_at).unwrap_or(self.started)
    }

    /// The connection began with a PROXY header from a listed source: from here on, who that says is the client.
    pub fn note_proxy_header(&mut self, received: Box<Received>) {
        let peer = self.client();
        if let Some(Endpoints { client, local }) = received.endpoints {
            self.client = net::canonical(client).into();
            self.local = net::canonical(local).into();
        }
        let peer = (peer != self.client()).then_some(peer);
        let rare = self.rare();
        rare.is_told = received.endpoints.is_some();
        rare.proxied = Proxied { peer, unique_id: received.unique_id().map(Box::from) };
        rare.introduction =
            Introduction { received: Some(received), received_at: Some(Instant::now()), alpn: None };
    }

    /// The connection should have begun with a PROXY header.
    pub fn note_proxy_rejection(&self, reason: ProxyReason) {
        self.frontend().metrics.proxy_rejected[reason.index()].inc();
    }

    /// What the client offers first, for a backend that wants to know.
    pub fn note_first_protocol(&mut self, alpn: &[u8]) {
        self.rare().introduction.alpn = Some(alpn.into());
    }

    /// Bytes of a received PROXY header that are kept for the one towards the server.
    pub fn kept(&self) -> usize {
        let received = self.rare.as_ref().and_then(|rare| rare.introduction.received.as_ref());
        received.map_or(0, |received| received.kept())
    }

    /// What the header towards the server needs, for the last time.
    pub fn take_introduction(&mut self) -> Introduction {
        self.rare.as_mut().map(|rare| std::mem::take(&mut rare.introduction)).unwrap_or_default()
    }

    /// What identifies the connection across proxies, if it has that.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.proxied.unique_id.as_deref()
    }

    /// Gives the connection a [`Self::unique_id`], unless it came with one.
    pub fn ensure_unique_id(&mut self) {
        let id = self.id;
        let unique_id = &mut self.rare().proxied.unique_id;
        unique_id.get_or_insert_with(|| new_unique_id(id).into_bytes().into());
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// A whole ClientHello has come.
    pub fn note_hello(&mut self, hello: ClientHello) {
        let elapsed = self.started.elapsed();
        let metrics = &self.frontend().metrics;
        metrics.hello_duration.observe(elapsed.as_secs_f64());
        metrics.hello_size.observe(hello.wire_len as f64);
        if hello.has_ech {
            metrics.hello_ech.inc();
        }
        self.hello = Some(Box::new(HelloStory {
            alpn: hello.alpn.to_clipped_string(ALPN_TEXT_MAX),
            has_ech: hello.has_ech,
            sni: hello.server_name,
            time: elapsed,
        }));
    }

    /// The first bytes do not name a backend.
    pub fn note_exception(&mut self, reason: HelloReason) {
        self.frontend().metrics.hello_exceptions[reason.index()].inc();
        self.hello_exception = Some(reason);
    }

    /// The backend is chosen.
    pub fn note_backend(&mut self, backend: &Arc<Backend>) {
        self.backend = Some(Arc::clone(backend));
    }

    /// Trying to connect has ended, one way or the other.
    pub fn note_attempts(&mut self, attempts: &Attempts, is_connected: bool) {
        if let Some(position) = attempts.queue_position {
            let position = position.try_into().unwrap_or(u32::MAX);
            self.rare().queued = Some(Queued { duration: attempts.queued, position });
        }
        if let Some(port) = attempts.port.clone().filter(|_| is_connected) {
            self.rare().port = Some(port);
        }
        self.connect_time = is_connected.then_some(attempts.duration);
        self.server.clone_from(&attempts.last);
        self.retries = attempts.retries;
        self.is_redispatched = attempts.is_redispatched;
    }

    /// The local port of the connection to the server, if it is one of ours.
    pub fn take_port(&mut self) -> Option<Arc<Port>> {
        self.rare.as_mut()?.port.take()
    }

    /// The flow is handed over to a path, which writes into [`Self::meter`] what it delivers.
    pub fn hand_over(&mut self, slot: ServerSlot, path: PathKind) -> &mut Meter {
        self.path = Some(path);
        let frontend = Arc::clone(self.frontend());
        self.meter.insert(Box::new(Meter::new(frontend, slot)))
    }

    /// The backend of a flow that was handed over.
    pub fn backend(&self) -> Arc<Backend> {
        Arc::clone(self.backend.as_ref().expect("a flow has a server, and so a backend"))
    }

    /// The server of a flow that was handed over.
    pub fn server(&self) -> Arc<Server> {
        Arc::clone(self.server.as_ref().expect("a flow has a server"))
    }

    /// Another path carries the flow from here on than the one that it was handed over to.
    pub fn change_path(&mut self, path: PathKind) {
        self.path = Some(path);
    }

    /// The meter of a flow that was handed over.
    pub fn meter(&mut self) -> &mut Meter {
        self.meter.as_mut().expect("the session hands a flow over before a path carries it")
    }

    /// Who was waited for, if a timeout ended the flow.
    pub fn note_silent_side(&mut self, side: Option<Side>) {
        self.is_server_silent = side == Some(Side::Server);
    }

    /// The connection has ended.
    pub fn finish(mut self, close: CloseReason) {
        self.write(close);
    }

    fn write(&mut self, close: CloseReason) {
        self.is_finished = true;
        let total_time = self.started.elapsed();
        let carried = self.account();
        if let Some(meter) = &self.meter {
            meter.server().vitals.traffic.note_end(close, carried.sent());
        }
        let metrics = &self.frontend().metrics;
        metrics.closed[close.index()].inc();
        metrics.session_duration.observe(total_time.as_secs_f64());
        if self.log.is_on() {
            let record = self.record(close, total_time, carried);
            self.log.log(record);
        }
    }

    /// Takes over what the path carried.
    fn account(&mut self) -> Carried {
        let Some(meter) = &mut self.meter else { return Carried::default() };
        meter.count();
        let carried = meter.carried;
        let metrics = &self.frontend().metrics;
        metrics.session_received.observe(carried.received() as f64);
        metrics.session_sent.observe(carried.sent() as f64);
        carried
    }

    /// The log line's content. The texts of the ClientHello move into it.
    fn record(&mut self, close: CloseReason, total_time: Duration, carried: Carried) -> Record {
        let hello = self.hello.take();
        let rare = self.rare.take().map_or_else(Rare::default, |rare| *rare);
        let has_ech = hello.as_ref().is_some_and(|hello| hello.has_ech);
        let hello_time = hello.as_ref().map(|hello| hello.time);
        let (sni, alpn) = hello.map_or_else(Default::default, |hello| (hello.sni, hello.alpn));
        let server = self.server.as_deref();
        let main = [PathKind::Packet, PathKind::Sockmap, PathKind::Splice]
            .into_iter()
            .find(|path| carried.by_path(*path) > 0);
        Record {
            id: self.id,
            accepted_at: self.accepted_at,
            client: self.client(),
            local: self.local(),
            proxied: (rare.proxied != Proxied::default()).then(|| Box::new(rare.proxied)),
            frontend: Arc::clone(&self.frontend().settings.name),
            sni,
            alpn,
            has_ech,
            hello_exception: self.hello_exception,
            backend: self.backend.as_ref().map(|backend| Arc::clone(&backend.settings.name)),
            server: server.map(|server| Arc::clone(&server.settings.name)),
            server_address: server.map(|server| server.address),
            path: main.or(self.path),
            hello_time,
            queued: rare.queued,
            connect_time: self.connect_time,
            total_time,
            received_bytes: carried.received(),
            sent_bytes: carried.sent(),
            retries: self.retries,
            is_redispatched: self.is_redispatched,
            close,
            is_server_silent: self.is_server_silent,
            translated: rare.translated,
            counts: self.counts(),
        }
    }

    /// Open connections: of the process, the frontend, the backend, the server.
    fn counts(&self) -> [u32; 4] {
        let (process, frontend) = self.presence().counts();
        let backend =
            self.backend.as_ref().map_or(0, |backend| u32::try_from(backend.active()).unwrap_or(u32::MAX));
        let server = self.meter.as_ref().map_or(0, |meter| meter.server().active());
        [process, frontend, backend, server]
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_finished {
            self.write(CloseReason::Shutdown);
        }
    }
}

/// 32 hexadecimal digits: which process, at random, and which of its connections.
fn new_unique_id(connection: u64) -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::Rng::new().u64(..));
    format!("{:016x}{connection:016x}", *PROCESS)
}

#[cfg(test)]
mod tests;
