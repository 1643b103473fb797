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

/// Everything that is said about one connection, at its end.
#[derive(Clone, Debug)]
pub struct Record {
    /// Unique in the life of the process.
    pub id: u64,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// The client's address.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The frontend's name.
    pub frontend: Arc<str>,
    /// The peeked name.
    pub sni: Option<String>,
    /// The first ALPN protocols offered, comma-separated; empty: none.
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
    /// From the choice of a backend to an established connection, retries included.
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
    /// Open connections at the end: of the process, the frontend, the backend, the server (HAProxy's actconn etc.).
    pub counts: [u32; 4],
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

    /// Queues a line; drops and counts it if the queue is full. Never waits for the target.
    pub fn log(&self, record: &Record) {
        if let Some(handle) = &self.handle {
            handle.queue.push(record.clone());
        }
    }

    /// Opens a file target anew, for log rotation. Takes effect before the next line that is written. If that fails, lines go on
    /// to the old file and it is tried again. Other targets ignore it.
    pub fn reopen(&self) {
        if let Some(handle) = &self.handle {
            handle.queue.reopen();
        }
    }

    /// Writes what is queued, waiting at most this long. For the end of the process.
    pub fn flush(&self, patience: Duration) {
        if let Some(handle) = &self.handle {
            handle.queue.flush(patience);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

#[cfg(test)]
mod tests;
