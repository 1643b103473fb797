// SPDX-License-Identifier: MIT OR Apache-2.0
//! One check: connect, perhaps a PROXY header, perhaps TLS, perhaps a request or a script, and an end that no server takes for a
//! failure.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::certificate::LastCertificate;
use super::http::{self, HttpProbe};
use super::outcome::Outcome;
use super::script;
use super::tls::{TlsError, TlsProbe, Verifiers};
use crate::config::{Backend, Check, Probe, ScriptStep, SendProxy, Server};
use crate::net::{self, Source};
use crate::proxy;

/// How long a server that has passed or failed may take to close the connection, before it is reset.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes after the head of a response (or after connecting) that are read and thrown away while the server closes, before the
/// connection is reset.
const END_BYTES_MAX: usize = 64 * 1024;

/// Why a server cannot be checked. A valid configuration gives no cause.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Method, path, host or headers cannot be written in an HTTP request.
    #[error("the request cannot be built")]
    Request(#[from] hyper::http::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
}

/// Whom a check connects, and what it sends before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The address.
    pub(super) address: SocketAddr,
    /// The PROXY header, which says that nobody is relayed; `None`: none goes out.
    pub(super) send_proxy: Option<SendProxy>,
    /// The address of this host that checks come from, the first of the backend's for the family; `None`: what the route says.
    pub(super) source: Option<IpAddr>,
    /// The interface that they leave by.
    pub(super) interface: Option<Arc<str>>,
}

impl Target {
    /// Of one server of a backend, at its address.
    pub(super) fn new(backend: &Backend, server: &Server, mut address: SocketAddr, check: &Check) -> Self {
        if let Some(port) = server.check_port.or(check.port) {
            address.set_port(port);
        }
        let send_proxy = check.send_proxy.map(|version| {
            let same = backend.send_proxy.filter(|settings| settings.version() == version);
            same.unwrap_or_else(|| SendProxy::plain(version))
        });
        let source = backend.source.iter().find(|source| source.is_ipv4() == address.is_ipv4()).copied();
        Self { address, send_proxy, source, interface: backend.source_interface.clone() }
    }

    /// Connects so that dropping the connection resets it, also if the check is abandoned, and leaves no TIME_WAIT behind on this host
    /// (socket(7), SO_LINGER). Checks that end a connection themselves, because the server is not asked to, are the exception: they
    /// finish first, and so keep a TIME_WAIT if the server finishes too.
    async fn connect(&self) -> Result<TcpStream, Outcome> {
        let connected = async { self.socket()?.connect(self.address).await };
        connected
            .await
            .map_err(|error| Outcome::of_io(&net::explain_connect(error, self.address, self.bound_to())))
    }

    fn bound_to(&self) -> Source<'_> {
        Source { address: self.source, port: None, interface: self.interface.as_deref() }
    }

    /// Sends the PROXY header, if there is one.
    async fn introduce(&self, stream: &mut TcpStream) -> io::Result<()> {
        let Some(settings) = self.send_proxy else { return Ok(()) };
        let header = proxy::local_header(settings, stream.local_addr()?, stream.peer_addr()?);
        stream.write_all(&header).await
    }

    fn socket(&self) -> io::Result<TcpSocket> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // What traffic could not use either; its message is traffic's to log.
        net::bind_source(&socket, self.bound_to()).map_err(|_| Errno::HOSTUNREACH)?;
        socket.set_zero_linger()?;
        // A request right after a PROXY header must not wait for the header's delayed acknowledgement.
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// Makes the checks of one target, one at a time.
#[derive(Debug)]
pub(super) struct Prober {
    target: Target,
    /// For a whole check.
    timeout: Duration,
    tls: Option<TlsProbe>,
    talk: Talk,
}

/// What is said on a connection.
#[derive(Debug)]
enum Talk {
    Nothing,
    Http(Box<HttpProbe>),
    Script(Vec<ScriptStep>),
}

/// A check that is decided, with a connection that may still have to be ended.
#[derive(Debug)]
pub(super) struct Checked {
    /// What came of it.
    pub(super) outcome: Outcome,
    /// From its start to its outcome.
    pub(super) duration: Duration,
    /// The server's certificate, if the check is over TLS and has ever seen one.
    pub(super) certificate: Option<Arc<LastCertificate>>,
    open: Option<Open>,
}

/// A connection to end.
#[derive(Debug)]
enum Open {
    /// The server may close it first.
    Plain(TcpStream),
    /// Both sides say goodbye.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Prober {
    /// For one target.
    ///
    /// # Errors
    /// [`ProbeError`]
    pub(super) fn new(target: Target, check: &Check, verifiers: &mut Verifiers) -> Result<Self, ProbeError> {
        let talk = match (&check.probe, HttpProbe::new(&check.probe, target.address)?) {
            (_, Some(http)) => Talk::Http(Box::new(http)),
            (Probe::Script(steps), None) => Talk::Script(steps.clone()),
            _ => Talk::Nothing,
        };
        let tls = match &check.tls {
            Some(tls) => Some(TlsProbe::new(tls, target.address, verifiers)?),
            None => None,
        };
        Ok(Self { target, timeout: check.timeout, tls, talk })
    }

    /// Makes a check.
    pub(super) async fn check(&self) -> Checked {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let (outcome, open) = match timeout_at(deadline, self.exchange(deadline)).await {
            Ok(Ok((outcome, open))) => (outcome, open),
            Ok(Err(outcome)) => (outcome, None),
            Err(_) => (Outcome::Timeout, None),
        };
        let certificate = self.tls.as_ref().and_then(TlsProbe::certificate);
        Checked { open, certificate, ..Checked::new(outcome, started.elapsed()) }
    }

    /// Everything that the timeout is for. The connection comes back if it is worth an orderly end.
    async fn exchange(&self, deadline: Instant) -> Result<(Outcome, Option<Open>), Outcome> {
        let mut stream = self.target.connect().await?;
        self.target.introduce(&mut stream).await.map_err(|error| Outcome::of_io(&error))?;
        if let Some(tls) = &self.tls {
            let stream = tls.handshake(stream).await?;
            let (outcome, stream) = self.talk.hold(stream, Outcome::Encrypted, deadline).await?;
            return Ok((outcome, Some(Open::Tls(Box::new(stream)))));
        }
        let (outcome, mut stream) = self.talk.hold(stream, Outcome::Connected, deadline).await?;
        match self.talk {
            // The server was asked to close.
            Talk::Http(_) => return Ok((outcome, Some(Open::Plain(stream)))),
            Talk::Nothing if self.target.send_proxy.is_none() => return Ok((outcome, None)),
            // A reset could overtake what was sent; a server that then complains is not what a check is for.
            Talk::Nothing | Talk::Script(_) => {}
        }
        let is_finished = linger_off(&stream).and(stream.shutdown().await).is_ok();
        Ok((outcome, is_finished.then_some(Open::Plain(stream))))
    }
}

impl Talk {
    /// Says what is to be said; `silent` is the outcome if that is nothing.
    async fn hold<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        silent: Outcome,
        deadline: Instant,
    ) -> Result<(Outcome, S), Outcome> {
        match self {
            Self::Nothing => Ok((silent, stream)),
            Self::Http(probe) => http::ask(stream, probe).await,
            Self::Script(steps) => {
                let outcome = script::follow(&mut stream, steps, deadline).await?;
                Ok((outcome, stream))
            }
        }
    }
}

impl Checked {
    /// A check without a connection to end.
    pub(super) fn new(outcome: Outcome, duration: Duration) -> Self {
        Self { outcome, duration, certificate: None, open: None }
    }

    /// Ends the connection, within [`END_TIMEOUT`]: in order if the server closes it or this side has finished already, or else with
    /// a reset.
    pub(super) async fn finish(self) {
        let Some(open) = self.open else { return };
        let _ = timeout(END_TIMEOUT, end(open)).await;
    }
}

async fn end(open: Open) {
    let mut stream = match open {
        Open::Plain(stream) => stream,
        Open::Tls(mut tls) => {
            // close_notify (RFC 8446 section 6.1) and a FIN: servers take anything else for an attack that cuts data off.
            if tls.shutdown().await.is_err() {
                return;
            }
            tls.into_inner().0
        }
    };
    if read_to_end(&mut stream).await {
        // Both sides have finished: closing completes the end.
        let _ = linger_off(&stream);
    }
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

/// Undoes what [`Target::connect`] has set, so that dropping the connection finishes it in order.
fn linger_off(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(None)
}
