// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scripted servers: a thread that accepts, and a thread a connection that follows a script.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::net::{Listener, Namespace};
use crate::proxy_header::{self, Header};
use crate::stream::{finish, receive_all, say};
use crate::wait::PATIENCE;

/// A scripted server. Dropping it closes the listening socket; connections live until their script ends.
#[derive(Debug)]
pub struct Service<T> {
    listener: Arc<Listener>,
    is_stopped: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    outcomes: Receiver<std::thread::Result<T>>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a reporting server saw of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The PROXY header in front, if the server expects one.
    pub header: Option<Header>,
    /// The bytes behind it, until the client's FIN.
    pub bytes: Vec<u8>,
    /// The other end of the server's connection.
    pub peer: SocketAddr,
}

impl<T: Send + 'static> Service<T> {
    /// Follows `script` on each connection.
    pub fn start(listener: Listener, script: impl Fn(TcpStream) -> T + Send + Sync + 'static) -> Self {
        let (listener, script) = (Arc::new(listener), Arc::new(script));
        let (is_stopped, accepted) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (sender, outcomes) = channel();
        let acceptor = std::thread::spawn({
            let (listener, is_stopped) = (Arc::clone(&listener), Arc::clone(&is_stopped));
            let accepted = Arc::clone(&accepted);
            move || {
                while !is_stopped.load(Ordering::Relaxed) {
                    let Some(stream) = listener.accept_within(Duration::from_secs(1)) else { continue };
                    accepted.fetch_add(1, Ordering::Relaxed);
                    follow(&script, stream, sender.clone());
                }
            }
        });
        Self { listener, is_stopped, accepted, outcomes, acceptor: Some(acceptor) }
    }

    /// What the next script that ended returned.
    ///
    /// # Panics
    /// If none ends in time, or as the script did.
    #[track_caller]
    pub fn outcome(&self) -> T {
        match self.outcomes.recv_timeout(PATIENCE) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => panic!("no connection's script ended: {error}"),
        }
    }

    /// What further scripts that have ended by now returned.
    pub fn outcomes(&self) -> Vec<T> {
        let unwrapped = |outcome: std::thread::Result<T>| {
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        self.outcomes.try_iter().map(unwrapped).collect()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Service<T> {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.listener.shut();
        if let Some(acceptor) = self.acceptor.take() {
            // A panic of the acceptor has been printed; the test is about to fail for its effect.
            let _ = acceptor.join();
        }
    }
}

/// A server that reads until the client's FIN, then answers `name` and the SHA-256 of what it read, and reports it.
pub fn reporter(place: &Namespace, port: u16, name: &str, expects_header: bool) -> Service<Report> {
    let name = name.to_owned();
    Service::start(place.listen(port), move |stream| {
        // A check may have closed the connection already; then nobody asks for its address.
        let peer = stream.peer_addr().map_or((Ipv4Addr::UNSPECIFIED, 0).into(), crate::net::canonical);
        let header = expects_header.then(|| proxy_header::read(&stream));
        let (bytes, _) = receive_all(&stream);
        // The client may have gone already, as many tests want it.
        let _ = (&stream).write_all(answer(&name, &bytes).as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        Report { header, bytes, peer }
    })
}

/// The answer of a [`reporter`].
pub fn answer(name: &str, bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {} {hex}\n", bytes.len())
}

/// Sends a request, ends the sending direction and returns the whole answer, which must end with a FIN.
#[track_caller]
pub fn ask(stream: &TcpStream, request: &[u8]) -> Vec<u8> {
    say(stream, request);
    finish(stream);
    let (answer, end) = receive_all(stream);
    assert_eq!(end, crate::stream::End::Finished, "after {:?}", String::from_utf8_lossy(&answer));
    answer
}

/// A server that says its name at once and then returns every byte.
pub fn greeter(place: &Namespace, port: u16, name: &str) -> Service<()> {
    let greeting = format!("{name}\n");
    Service::start(place.listen(port), move |stream| {
        if (&stream).write_all(greeting.as_bytes()).is_ok() {
            echo_back(&stream);
        }
    })
}

/// A server that returns every byte.
pub fn echo(place: &Namespace, port: u16) -> Service<()> {
    Service::start(place.listen(port), |stream| echo_back(&stream))
}

fn echo_back(mut stream: &TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    // Ends as the client does, or when it has been silent for the socket's timeout.
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn follow<T: Send + 'static>(
    script: &Arc<impl Fn(TcpStream) -> T + Send + Sync + 'static>,
    stream: TcpStream,
    outcomes: Sender<std::thread::Result<T>>,
) {
    let script = Arc::clone(script);
    let run = move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script(stream)));
        // Nobody may be listening any more.
        let _ = outcomes.send(outcome);
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(run).expect("room for a thread");
}
