// SPDX-License-Identifier: MIT OR Apache-2.0
//! One check: connect, perhaps a PROXY header, perhaps an HTTP request, and an end that leaves nothing behind.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::http::{self, HttpProbe};
use super::outcome::Outcome;
use crate::config::{Backend, Check, Probe, SendProxy, Server};
use crate::proxy;

/// How long a server that has passed or failed may take to close the connection, before it is reset.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes after the head of a response (or after connecting) that are read and thrown away while the server closes, before the
/// connection is reset.
const END_BYTES_MAX: usize = 64 * 1024;

/// Makes the checks of one server, one at a time.
#[derive(Debug)]
pub(super) struct Prober {
    target: SocketAddr,
    /// The PROXY LOCAL header; empty if none goes out.
    header: Vec<u8>,
    /// For a whole check.
    timeout: Duration,
    http: Option<HttpProbe>,
}

/// A check that is decided, with a connection that may still have to be ended.
#[derive(Debug)]
pub(super) struct Checked {
    /// What came of it.
    pub(super) outcome: Outcome,
    /// From its start to its outcome.
    pub(super) duration: Duration,
    /// A connection that the server may close first.
    open: Option<TcpStream>,
}

impl Prober {
    /// For one server of a backend.
    ///
    /// # Errors
    /// If method, path or host cannot be written in an HTTP request.
    pub(super) fn new(backend: &Backend, server: &Server, check: &Check) -> Result<Self, hyper::http::Error> {
        let mut target = server.address;
        if let Some(port) = server.check_port.or(check.port) {
            target.set_port(port);
        }
        let plain = SendProxy { authority: false, crc32c: false };
        let header = if check.send_proxy {
            proxy::local_header(backend.send_proxy.unwrap_or(plain))
        } else {
            Vec::new()
        };
        let http = match &check.probe {
            Probe::Tcp => None,
            Probe::Http { method, path, host, expect } => {
                Some(HttpProbe::new(method, path, host.as_deref(), expect, target)?)
            }
        };
        Ok(Self { target, header, timeout: check.timeout, http })
    }

    /// Makes a check.
    pub(super) async fn check(&self) -> Checked {
        let started = Instant::now();
        let (outcome, open) = match timeout(self.timeout, self.exchange()).await {
            Ok(Ok((outcome, open))) => (outcome, open),
            Ok(Err(outcome)) => (outcome, None),
            Err(_) => (Outcome::Timeout, None),
        };
        Checked { open, ..Checked::new(outcome, started.elapsed()) }
    }

    /// Everything that the timeout is for. The connection comes back if it is worth an orderly end.
    async fn exchange(&self) -> Result<(Outcome, Option<TcpStream>), Outcome> {
        let mut stream = connect(self.target).await.map_err(|error| Outcome::of_io(&error))?;
        if !self.header.is_empty() {
            stream.write_all(&self.header).await.map_err(|error| Outcome::of_io(&error))?;
        }
        if let Some(probe) = &self.http {
            let (outcome, stream) = http::ask(stream, probe).await?;
            return Ok((outcome, Some(stream)));
        }
        if self.header.is_empty() {
            return Ok((Outcome::Connected, None));
        }
        // A reset could overtake the header; a server that then complains of a broken one is not what a check is for.
        let is_finished = linger_off(&stream).and(stream.shutdown().await).is_ok();
        Ok((Outcome::Connected, is_finished.then_some(stream)))
    }
}

impl Checked {
    /// A check without a connection to end.
    pub(super) fn new(outcome: Outcome, duration: Duration) -> Self {
        Self { outcome, duration, open: None }
    }

    /// Ends the connection, within [`END_TIMEOUT`]: in order if the server closes it or this side has finished already, or else with
    /// a reset.
    pub(super) async fn finish(self) {
        let Some(mut stream) = self.open else { return };
        let is_closed = timeout(END_TIMEOUT, read_to_end(&mut stream)).await.unwrap_or(false);
        if is_closed {
            // The server closed first and keeps TIME_WAIT: a FIN completes the end.
            let _ = linger_off(&stream);
        }
    }
}

/// Connects so that dropping the connection resets it, also if the check is abandoned: no check leaves a TIME_WAIT behind on this
/// host (socket(7), SO_LINGER).
async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_zero_linger()?;
    // A request right after a PROXY header must not wait for the header's delayed acknowledgement.
    socket.set_nodelay(true)?;
    socket.connect(target).await
}

/// Reads and throws away; true if the server closed within [`END_BYTES_MAX`].
async fn read_to_end(stream: &mut TcpStream) -> bool {
    let mut scratch = [0; 4096];
    let mut left = END_BYTES_MAX;
    loop {
        match stream.read(&mut scratch).await {
            Ok(0) => return true,
            Ok(bytes) if bytes <= left => left -= bytes,
            _ => return false,
        }
    }
}

/// Undoes what [`connect`] has set, so that dropping the connection finishes it in order.
fn linger_off(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}
