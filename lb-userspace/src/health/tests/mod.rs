// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of real servers on loopback: the states that follow from them. What they share with the tests of single checks.

mod probes;
mod sharing;
mod tls;
mod traffic;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use lb_common::reason::ServerState;
use tokio::task::JoinSet;

use super::probe::{Checked, Prober, Target};
use super::watch::Watch;
use super::*;
use crate::backend::testing::{backend, server, settings};
use crate::config::{self, Check, Probe, ProxyTlvs, ProxyVersion, SendProxy};

/// For what should happen at once: far longer than a busy machine needs.
const GENEROUS: Duration = Duration::from_secs(20);
const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
const PROXY: SendProxy =
    SendProxy::V2(ProxyTlvs { authority: false, crc32c: true, alpn: false, unique_id: false });

fn tcp() -> Check {
    Check {
        probe: Probe::Tcp,
        tls: None,
        port: None,
        interval: Duration::from_millis(50),
        fast_interval: Duration::from_millis(50),
        down_interval: Duration::from_millis(50),
        timeout: GENEROUS,
        rise: 2.try_into().unwrap(),
        fall: 3.try_into().unwrap(),
        jitter_percent: 20,
        send_proxy: None,
        observe: None,
    }
}

fn http(expect: &[(u16, u16)]) -> Check {
    let probe = Probe::Http {
        method: "GET".into(),
        path: "/replica".into(),
        host: None,
        headers: Vec::new(),
        expect: expect.into(),
        body: None,
    };
    Check { probe, ..tcp() }
}

fn at(name: &str, address: SocketAddr) -> config::Server {
    config::Server { address: config::Address::Ip(address), ..server(name, 1, 0) }
}

fn checked(check: Check, servers: Vec<config::Server>) -> Arc<Backend> {
    Arc::new(backend(config::Backend { check: Some(check), send_proxy: Some(PROXY), ..settings(servers) }))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address on which nobody listens, taken by a socket so that nobody begins to.
fn nobody() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(LOOPBACK.into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
    request
}

/// A server that reads a request, sends what `answer` says, and closes.
async fn answering(answer: impl Fn() -> Vec<u8> + Send + 'static) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_request(&mut stream).await;
            // The check may leave in the middle of a long answer.
            let _ = stream.write_all(&answer()).await;
        }
    });
    address
}

/// Starts the checks; they end when what comes back is dropped.
fn checks_of(backend: &Arc<Backend>) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    checks.spawn(run([backend.clone()].into(), Checks::default()));
    checks
}

/// Waits until `condition` holds.
async fn until(mut condition: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let condition = async {
        while !condition() {
            look.tick().await;
        }
    };
    timeout(GENEROUS, condition).await.expect("the condition holds in time");
}

#[tokio::test]
async fn the_first_failure_takes_a_server_down() {
    let check = Check { interval: Duration::from_secs(3600), ..tcp() };
    let (_socket, address) = nobody();
    let exempt = config::Server { is_checked: false, ..at("b", address) };
    let backend = checked(check, vec![at("a", address), exempt]);
    let [a, b] = &*backend.servers() else { unreachable!() };
    let _checks = checks_of(&backend);
    until(|| a.state() == ServerState::Down).await;
    assert_eq!((a.metrics.checks.get(), a.metrics.check_failures.get(), a.metrics.up.get()), (1, 1, 0));
    assert!(a.metrics.check_duration.get() > 0.0);
    assert_eq!((b.state(), b.metrics.checks.get()), (ServerState::Up, 0));
    assert_eq!(backend.pick(0, &[]).unwrap().server().id(), 1);
}

#[tokio::test]
async fn a_server_goes_down_and_comes_up_again() {
    let status = Arc::new(AtomicU16::new(200));
    let answers = status.clone();
    let answer = move || format!("HTTP/1.1 {} \r\n\r\n", answers.load(Ordering::Relaxed)).into_bytes();
    let backend = checked(http(&[(200, 399)]), vec![at("a", answering(answer).await)]);
    let server = &backend.servers()[0];
    let metrics = &server.metrics;

    let _checks = checks_of(&backend);
    until(|| metrics.checks.get() >= 2).await;
    assert_eq!(server.state(), ServerState::Up);
    status.store(503, Ordering::Relaxed);
    until(|| server.state() == ServerState::Down).await;
    assert!(!backend.is_available());
    status.store(200, Ordering::Relaxed);
    until(|| server.state() == ServerState::Up).await;
    assert!(backend.is_available());
    assert_eq!((metrics.up.get(), metrics.state_changes.get()), (1, 2));
    let (checks, failures) = (metrics.checks.get(), metrics.check_failures.get());
    assert!(failures >= 3 && checks >= failures + 4, "{failures} of {checks}");
}

#[tokio::test]
async fn checks_of_a_server_never_overlap() {
    let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut last: Option<std::net::TcpStream> = None;
        for _ in 0..4 {
            let (stream, _) = listener.accept().unwrap();
            // This one was opened after the last was given up, so the reset of that one is here already.
            if let Some(mut last) = last.replace(stream) {
                last.set_nonblocking(true).unwrap();
                let error = last.read_to_end(&mut Vec::new()).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
    });
    // A check lasts longer than the interval.
    let check = Check { timeout: Duration::from_millis(120), ..http(&[(200, 399)]) };
    let backend = checked(check, vec![at("a", address)]);
    let _checks = checks_of(&backend);
    until(|| server.is_finished()).await;
    server.join().unwrap();
}

#[tokio::test]
async fn a_want_of_resources_is_not_held_against_a_server() {
    let backend = checked(tcp(), vec![at("a", nobody().1)]);
    let server = &backend.servers()[0];
    let mut watch = Watch::new(&backend, server, &tcp(), &Arc::default());
    let result = |outcome| Checked::new(outcome, Duration::from_millis(1));
    (0..5).for_each(|_| watch.judge(&result(Outcome::LocalResources)));
    assert_eq!((server.state(), server.metrics.checks.get()), (ServerState::Up, 0));
    // The first real result still decides alone.
    watch.judge(&result(Outcome::Refused));
    assert_eq!((server.state(), server.metrics.checks.get()), (ServerState::Down, 1));
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_change_of_state_is_logged_with_its_reason() {
    let backend = checked(tcp(), vec![at("web-1", nobody().1)]);
    let mut watch = Watch::new(&backend, &backend.servers()[0], &tcp(), &Arc::default());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let outcomes =
            [Outcome::BadStatus(503), Outcome::Refused, Outcome::Status(200), Outcome::Status(200)];
        outcomes.iter().for_each(|outcome| watch.judge(&Checked::new(*outcome, Duration::from_millis(7))));
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let expected = " WARN server changed state backend=\"web\" server=\"web-1\" old=up new=down reason=bad status 503 \
                    duration=7ms servers_up=0\n INFO server changed state backend=\"web\" server=\"web-1\" old=down \
                    new=up reason=status 200 duration=7ms servers_up=1\n";
    assert_eq!(log, expected);
}

fn prober(check: &Check, address: SocketAddr) -> Prober {
    let settings = config::Backend { send_proxy: Some(PROXY), ..settings(Vec::new()) };
    prober_of(&settings, &at("web-1", address), check)
}

fn prober_of(backend: &config::Backend, server: &config::Server, check: &Check) -> Prober {
    Prober::new(
        Target::new(backend, server, server.address.ip().unwrap(), check),
        check,
        &mut Default::default(),
    )
    .unwrap()
}

/// The outcome of a single check, ended in order.
async fn outcome(check: &Check, address: SocketAddr) -> Outcome {
    let checked = prober(check, address).check().await;
    let outcome = checked.outcome;
    checked.finish().await;
    outcome
}
