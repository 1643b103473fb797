// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line a connection. Writing never blocks a worker: records go through a bounded queue to one thread that makes lines of
//! them and writes, and what does not fit is counted.

mod format;
mod queue;
mod stream;
mod syslog;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lb_common::reason::{CloseReason, HelloReason, PathKind};
use prometheus_client::metrics::counter::Counter;

use self::format::Formatter;
use self::queue::Queue;
use self::writer::{Target, Writer};
use crate::config::Log;
use crate::kernel::packet::Receipt;

/// Most bytes of [`Record::alpn`]. A client may offer names for thousands; what is commonly offered has some dozen.
pub const ALPN_TEXT_MAX: usize = 256;

/// Everything that is said about one connection, at its end.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique in the life of the process.
    pub id: u64,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// The client's address: the socket's, or what a PROXY header from a listed source says.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// What PROXY headers add, if there is something.
    pub proxied: Option<Box<Proxied>>,
    /// The frontend's name.
    pub frontend: Arc<str>,
    /// The peeked name, at most 253 bytes.
    pub sni: Option<String>,
    /// The ALPN protocols offered, comma-separated and escaped as `AlpnList` shows them, at most [`ALPN_TEXT_MAX`] bytes of that;
    /// empty: none.
    pub alpn: String,
    /// The ClientHello had encrypted_client_hello.
    pub has_ech: bool,
    /// Why the first bytes did not name a backend, if so, whatever the policy made of it.
    pub hello_exception: Option<HelloReason>,
    /// The chosen backend's name.
    pub backend: Option<Arc<str>>,
    /// The last server tried.
    pub server: Option<Arc<str>>,
    /// Its address.
    pub server_address: Option<SocketAddr>,
    /// How bytes were carried, if it came to that.
    pub path: Option<PathKind>,
    /// From accept to a complete ClientHello.
    pub hello_time: Option<Duration>,
    /// Whether and how it waited for a place on a server.
    pub queued: Option<Queued>,
    /// From the choice of a backend to an established connection, retries included, the queue not.
    pub connect_time: Option<Duration>,
    /// From accept to the end.
    pub total_time: Duration,
    /// Bytes from the client delivered to the server (without a PROXY header).
    pub received_bytes: u64,
    /// Bytes from the server delivered to the client.
    pub sent_bytes: u64,
    /// Tries to connect after the first.
    pub retries: u32,
    /// The last try was on another server than the first.
    pub is_redispatched: bool,
    /// Why it ended.
    pub close: CloseReason,
    /// A timeout ended it, and it was the server that was waited for.
    pub is_server_silent: bool,
    /// What there is to say of a flow whose packets programs have translated.
    pub translated: Option<Translated>,
    /// Open connections at the end: of the process, the frontend, the backend, the server (HAProxy's actconn etc.).
    pub counts: [u32; 4],
}

/// What a flow adds to a [`Record`] that programs have carried.
#[derive(Clone, Debug)]
pub struct Translated {
    /// Dropped when the line is written, or given up.
    pub receipt: Receipt,
    /// The shortest round trip to the client and to the server, if one was measured.
    pub round_trips: [Option<Duration>; 2],
}

/// What PROXY headers, in or out, add to a [`Record`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxied {
    /// The other end of the client's socket, if it is not the client: the proxy in front.
    pub peer: Option<SocketAddr>,
    /// What identifies the connection across proxies (PP2_TYPE_UNIQUE_ID), received or given: 1 to 128 bytes of any kind.
    pub unique_id: Option<Box<[u8]>>,
}

/// A connection's time in a backend's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// In all.
    pub duration: Duration,
    /// How many were in front of it when it came.
    pub position: u32,
}

/// The sink of [`Record`]s. Cheap to clone; the thread that writes ends after the last clone is gone and the queue is empty.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// `None`: the target is `off`.
    handle: Option<Arc<Handle>>,
}

/// Closes the queue when the last [`AccessLog`] goes.
#[derive(Debug)]
struct Handle {
    queue: Arc<Queue>,
}

impl AccessLog {
    /// Opens the target and starts the thread that writes. A syslog socket that is not there yet is no error: it is tried again
    /// for as long as there are lines, which are counted as dropped meanwhile.
    ///
    /// # Errors
    /// The file cannot be opened or created, standard output cannot be duplicated, or no thread can be started.
    pub fn start(settings: &Log, dropped: Counter) -> io::Result<Self> {
        let Some(target) = Target::open(&settings.target)? else {
            return Ok(Self { handle: None });
        };
        let queue = Arc::new(Queue::new(dropped));
        let writer = Writer::new(queue.clone(), target, Formatter::new(settings.format));
        std::thread::Builder::new().name("lb-log".into()).spawn(move || writer.run())?;
        Ok(Self { handle: Some(Arc::new(Handle { queue })) })
    }

    /// Whether lines are written at all: a record need not be made for a target that is `off`.
    pub fn is_on(&self) -> bool {
        self.handle.is_some()
    }

    /// Queues a line; drops and counts it if the queue is full. Never waits for the target.
    pub fn log(&self, record: Record) {
        if let Some(handle) = &self.handle {
            handle.queue.push(record);
        }
    }

    /// Opens a file target anew, for log rotation. Takes effect before the next line that is written. If that fails, lines go on
    /// to the old file and it is tried again. Other targets ignore it.
    pub fn reopen(&self) {
        if let Some(handle) = &self.handle {
            handle.queue.reopen();
        }
    }

    /// Prepares for the end of the process, when all connections that are left end in one burst: until this long from now, a line
    /// for which the queue has no room waits for it. So [`Self::log`] may wait from here on.
    pub fn hurry(&self, patience: Duration) {
        if let Some(handle) = &self.handle {
            handle.queue.hurry(patience);
        }
    }

    /// Writes what is queued, waiting at most this long. For the end of the process. Returns the lines that are still missing in
    /// the target and that nobody was warned of.
    #[must_use = "the lines that are missing are reported by nobody else"]
    pub fn flush(&self, patience: Duration) -> u64 {
        self.handle.as_ref().map_or(0, |handle| handle.queue.flush(patience))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests;
