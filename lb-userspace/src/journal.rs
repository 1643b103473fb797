// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of one connection while it lives: its places in the limits, and what its metrics and its log line will say.
//! A connection that is cut by the end of the agent gets its line too: dropping an unfinished journal writes it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use lb_common::reason::{CloseReason, HelloReason, PathKind};

use crate::backend::{Backend, ServerSlot};
use crate::connect::Attempts;
use crate::frontend::Permit;
use crate::observe::access_log::{AccessLog, Record};
use crate::path::{Carried, Meter, Strategy};
use crate::prelude::hello::ClientHello;

/// The number of the next connection of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The story of one connection.
#[derive(Debug)]
pub struct Journal {
    record: Box<Record>,
    started: Instant,
    has_hello: bool,
    backend: Option<Arc<Backend>>,
    slot: Option<ServerSlot>,
    meter: Option<Meter>,
    log: AccessLog,
    permit: Permit,
    is_finished: bool,
}

impl Journal {
    /// A connection that has just been accepted.
    pub fn new(permit: Permit, client: SocketAddr, local: SocketAddr, log: AccessLog) -> Self {
        let frontend = permit.frontend();
        frontend.metrics.connections.inc();
        let record = Box::new(Record {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            accepted_at: SystemTime::now(),
            client,
            local,
            frontend: Arc::clone(&frontend.settings.name),
            sni: None,
            alpn: String::new(),
            has_ech: false,
            hello_exception: None,
            backend: None,
            server: None,
            server_address: None,
            path: None,
            hello_time: None,
            connect_time: None,
            total_time: std::time::Duration::ZERO,
            received_bytes: 0,
            sent_bytes: 0,
            retries: 0,
            is_redispatched: false,
            close: CloseReason::Shutdown,
            counts: [0; 4],
        });
        Self {
            record,
            started: Instant::now(),
            has_hello: false,
            backend: None,
            slot: None,
            meter: None,
            log,
            permit,
            is_finished: false,
        }
    }

    /// When the connection was accepted.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.record.client
    }

    /// The address that the client connected to.
    pub fn local(&self) -> SocketAddr {
        self.record.local
    }

    /// The peeked name.
    pub fn server_name(&self) -> Option<&str> {
        self.record.sni.as_deref()
    }

    /// Whether a whole ClientHello waits in the client's socket.
    pub fn has_hello(&self) -> bool {
        self.has_hello
    }

    /// A whole ClientHello has come.
    pub fn note_hello(&mut self, hello: ClientHello) {
        let elapsed = self.started.elapsed();
        let metrics = &self.permit.frontend().metrics;
        metrics.hello_duration.observe(elapsed.as_secs_f64());
        metrics.hello_size.observe(hello.wire_len as f64);
        if hello.has_ech {
            metrics.hello_ech.inc();
        }
        self.has_hello = true;
        self.record.hello_time = Some(elapsed);
        if !hello.alpn.is_empty() {
            self.record.alpn = hello.alpn.to_string();
        }
        self.record.has_ech = hello.has_ech;
        self.record.sni = hello.server_name;
    }

    /// The first bytes do not name a backend.
    pub fn note_exception(&mut self, reason: HelloReason) {
        self.permit.frontend().metrics.hello_exceptions[reason.index()].inc();
        self.record.hello_exception = Some(reason);
    }

    /// The backend is chosen.
    pub fn note_backend(&mut self, backend: &Arc<Backend>) {
        self.record.backend = Some(Arc::clone(&backend.settings.name));
        self.backend = Some(Arc::clone(backend));
    }

    /// Trying to connect has ended, one way or the other.
    pub fn note_attempts(&mut self, backend: &Backend, attempts: &Attempts, is_connected: bool) {
        self.record.connect_time = is_connected.then_some(attempts.duration);
        if let Some(&last) = attempts.tried.last() {
            let server = &backend.servers[last].settings;
            self.record.server = Some(Arc::clone(&server.name));
            self.record.server_address = Some(server.address);
        }
        self.record.retries = attempts.retries;
        self.record.is_redispatched = attempts.is_redispatched;
    }

    /// The flow is handed over to a path, which writes into the meter what it delivers.
    pub fn hand_over(&mut self, slot: ServerSlot, strategy: Strategy) -> &mut Meter {
        let server = Arc::clone(slot.server());
        self.slot = Some(slot);
        self.record.path = Some(match strategy {
            Strategy::Always(kind) => kind,
            Strategy::Adaptive => PathKind::Copy,
        });
        let frontend = Arc::clone(self.permit.frontend());
        self.meter.insert(Meter::new(frontend, server))
    }

    /// The connection has ended.
    pub fn finish(mut self, close: CloseReason) {
        self.write(close);
    }

    fn write(&mut self, close: CloseReason) {
        self.is_finished = true;
        self.record.close = close;
        self.record.total_time = self.started.elapsed();
        self.account();
        let metrics = &self.permit.frontend().metrics;
        metrics.closed[close.index()].inc();
        metrics.session_duration.observe(self.record.total_time.as_secs_f64());
        let (process, frontend) = self.permit.counts();
        let backend =
            self.backend.as_ref().map_or(0, |backend| u32::try_from(backend.active()).unwrap_or(u32::MAX));
        let server = self.slot.as_ref().map_or(0, |slot| slot.server().active());
        self.record.counts = [process, frontend, backend, server];
        self.log.log(&self.record);
    }

    /// Takes over what the path carried.
    fn account(&mut self) {
        let Some(mut meter) = self.meter.take() else { return };
        meter.count();
        let Carried { received, sent, by_path } = meter.carried;
        self.record.received_bytes = received;
        self.record.sent_bytes = sent;
        if by_path[PathKind::Splice.index()] > 0 {
            self.record.path = Some(PathKind::Splice);
        }
        let metrics = &self.permit.frontend().metrics;
        metrics.session_received.observe(received as f64);
        metrics.session_sent.observe(sent as f64);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_finished {
            self.write(CloseReason::Shutdown);
        }
    }
}
