// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows over loopback sockets, on every strategy: the same bytes and the same kind of end come out as went in.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_common::reason::{CloseReason, PathKind};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{COPY_CHUNK, Carried, Flow, Meter, PipeBudget, Pipes, Strategy, Tools, carry};
use crate::backend::testing;
use crate::config;
use crate::net;

const STRATEGIES: [Strategy; 3] =
    [Strategy::Always(PathKind::Copy), Strategy::Always(PathKind::Splice), Strategy::Adaptive];

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn bytes_arrive_in_order_both_ways_and_both_fins_too() {
    for strategy in STRATEGIES {
        let (up, down) = (pattern(3 << 20, 1), pattern(5 << 20, 2));
        let (client_down, server_up) = (down.clone(), up.clone());
        let end = run(
            strategy,
            |backend| backend,
            move |client| exchange(client, &up, &client_down),
            move |server| exchange(server, &down, &server_up),
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
        assert_eq!((end.carried.received, end.carried.sent), (3 << 20, 5 << 20), "{strategy:?}");
        let spliced = end.carried.by_path[PathKind::Splice.index()];
        match strategy {
            Strategy::Always(PathKind::Copy) => assert_eq!(spliced, 0),
            Strategy::Always(PathKind::Splice) => assert_eq!(spliced, 8 << 20),
            Strategy::Adaptive => assert!(spliced > 0, "a stream is spliced after a while"),
        }
    }
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                client.write_all(b"question").expect("write");
                client.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut client).expect("clean end"), b"a late answer");
            },
            |mut server| {
                assert_eq!(read_all(&mut server).expect("clean end"), b"question");
                server.write_all(b"a late answer").expect("write");
            },
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
    }
}

#[test]
fn a_reset_is_passed_on_behind_the_bytes_before_it() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                let mut got = Vec::new();
                let error = client.read_to_end(&mut got).expect_err("a reset, not an end");
                assert_eq!((error.kind(), got), (ErrorKind::ConnectionReset, b"half an answ".to_vec()));
            },
            |mut server| {
                server.write_all(b"half an answ").expect("write");
                thread::sleep(Duration::from_millis(100));
                reset(server);
            },
        );
        assert_eq!(end.close, CloseReason::ServerReset, "{strategy:?}");
    }
}

#[test]
fn a_reset_of_the_client_reaches_a_server_that_does_not_read() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| backend,
            |mut client| {
                // More than all buffers on the way take, so that the direction stalls.
                client.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
                let bytes = vec![7; 1 << 20];
                while client.write_all(&bytes).is_ok() {}
                reset(client);
            },
            |server| {
                // Readable bytes are there, none is read: only the error counts.
                let waited = wait_for_error(&server);
                assert!(waited, "the reset arrives while the server reads nothing");
            },
        );
        assert_eq!(end.close, CloseReason::ClientReset, "{strategy:?}");
    }
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    for strategy in STRATEGIES {
        let sent = pattern(24 << 20, 3);
        let expected = sent.clone();
        let end = run(
            strategy,
            |backend| backend,
            move |mut client| {
                client.write_all(&sent).expect("write");
                client.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut client).expect("clean end"), b"");
            },
            move |mut server| {
                thread::sleep(Duration::from_millis(300));
                assert!(read_all(&mut server).expect("clean end") == expected);
            },
        );
        assert_eq!(end.close, CloseReason::Finished, "{strategy:?}");
    }
}

#[test]
fn silence_ends_a_flow_with_a_reset() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| config::Backend { idle_timeout: Some(Duration::from_millis(200)), ..backend },
            |mut client| {
                client.write_all(b"hello").expect("write");
                assert_eq!(read_all(&mut client).expect_err("cut").kind(), ErrorKind::ConnectionReset);
            },
            |mut server| assert!(read_all(&mut server).is_err()),
        );
        assert_eq!((end.close, end.carried.received), (CloseReason::IdleTimeout, 5), "{strategy:?}");
    }
}

#[test]
fn a_half_closed_flow_has_a_timeout_of_its_own() {
    for strategy in STRATEGIES {
        let end = run(
            strategy,
            |backend| config::Backend { half_close_timeout: Some(Duration::from_millis(200)), ..backend },
            |mut client| {
                client.shutdown(Shutdown::Write).expect("half-close");
                assert_eq!(read_all(&mut client).expect_err("cut").kind(), ErrorKind::ConnectionReset);
            },
            |mut server| {
                assert_eq!(server.read(&mut [0; 16]).expect("the FIN"), 0);
                assert!(wait_for_error(&server));
            },
        );
        assert_eq!(end.close, CloseReason::HalfCloseTimeout, "{strategy:?}");
    }
}

#[test]
fn splice_copies_when_there_is_no_pipe() {
    let (bytes, expected) = (pattern(COPY_CHUNK * 5 + 3, 4), pattern(COPY_CHUNK * 5 + 3, 4));
    let end = run_with_pipes(
        0,
        Strategy::Always(PathKind::Splice),
        |backend| backend,
        move |client| exchange(client, &bytes, b""),
        move |server| exchange(server, b"", &expected),
    );
    assert_eq!(end.close, CloseReason::Finished);
    assert_eq!(end.carried.by_path[PathKind::Splice.index()], 0);
    assert!(end.pipes_exhausted > 0);
}

/// What a run came to.
struct End {
    close: CloseReason,
    carried: Carried,
    pipes_exhausted: u64,
}

fn run(
    strategy: Strategy,
    change: impl FnOnce(config::Backend) -> config::Backend,
    client: impl FnOnce(TcpStream) + Send + 'static,
    server: impl FnOnce(TcpStream) + Send + 'static,
) -> End {
    run_with_pipes(8, strategy, change, client, server)
}

/// Carries a flow between two scripts, each with a real socket of its own.
fn run_with_pipes(
    pipes_max: usize,
    strategy: Strategy,
    change: impl FnOnce(config::Backend) -> config::Backend,
    client: impl FnOnce(TcpStream) + Send + 'static,
    server: impl FnOnce(TcpStream) + Send + 'static,
) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client_leg, client_end) = connected();
        let (server_leg, server_end) = connected();
        let scripts = [thread::spawn(move || client(client_end)), thread::spawn(move || server(server_end))];
        let settings = change(testing::settings(vec![testing::server("a", 1, 0)]));
        let backend = testing::backend(settings.clone());
        let tools = Tools {
            pipes: Pipes::new(PipeBudget::new(pipes_max, Gauge::default())),
            buffer: RefCell::new(vec![0; COPY_CHUNK].into_boxed_slice()),
            pipes_exhausted: Counter::default(),
        };
        let mut meter =
            Meter::new(Arc::new(crate::frontend::testing::frontend()), Arc::clone(&backend.servers[0]));
        let flow = Flow {
            client: &client_leg,
            server: &server_leg,
            strategy,
            has_bytes_waiting: false,
            backend: &settings,
        };
        let close = tokio::time::timeout(PATIENCE, carry(flow, &tools, &mut meter)).await.expect("it ends");
        drop((client_leg, server_leg));
        for script in scripts {
            script.join().expect("the script holds");
        }
        End { close, carried: meter.carried, pipes_exhausted: tools.pipes_exhausted.get() }
    })
}

/// A leg as the agent has it, and the peer's end.
fn connected() -> (net::Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let far = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    far.set_read_timeout(Some(PATIENCE)).expect("set");
    let (near, _) = listener.accept().expect("the other end");
    near.set_nonblocking(true).expect("set");
    rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).expect("set");
    (net::register(near.into()).expect("registered"), far)
}

/// Writes one thing and reads another at the same time, to a clean end both ways.
fn exchange(mut stream: TcpStream, write: &[u8], expected: &[u8]) {
    let mut reader = stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(move || {
            stream.write_all(write).expect("write");
            stream.shutdown(Shutdown::Write).expect("half-close");
        });
        assert!(read_all(&mut reader).expect("clean end") == expected);
    });
}

fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
}

/// Waits for a reset without reading.
fn wait_for_error(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let _ = poll(&mut fds, Some(&patience));
    fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Bytes that differ everywhere, so that a piece out of place shows.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}
