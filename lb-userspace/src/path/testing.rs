// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two scripts with real sockets, and a flow carried between them.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_common::reason::CloseReason;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::{COPY_BUFFER, Carried, Flow, Meter, PipeBudget, Pipes, Side, Start, Strategy, Tools, carry};
use crate::backend::{Backend, testing};
use crate::config;
use crate::{net, runtime};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a run came to.
pub(super) struct End {
    pub(super) close: CloseReason,
    pub(super) silent: Option<Side>,
    pub(super) carried: Carried,
    pub(super) pipes_exhausted: u64,
}

pub(super) fn run(
    strategy: Strategy,
    change: impl FnOnce(config::Backend) -> config::Backend,
    client: impl FnOnce(TcpStream) + Send + 'static,
    server: impl FnOnce(TcpStream) + Send + 'static,
) -> End {
    run_with_pipes(8, strategy, change, client, server)
}

/// Carries a flow between two scripts, each with a real socket of its own.
pub(super) fn run_with_pipes(
    pipes_max: usize,
    strategy: Strategy,
    change: impl FnOnce(config::Backend) -> config::Backend,
    client: impl FnOnce(TcpStream) + Send + 'static,
    server: impl FnOnce(TcpStream) + Send + 'static,
) -> End {
    let settings = change(testing::settings(vec![testing::server("a", 1, 0)]));
    run_on(&testing::backend(settings), pipes_max, strategy, client, server)
}

/// The same, with a place on a server of this backend.
pub(super) fn run_on(
    backend: &Backend,
    pipes_max: usize,
    strategy: Strategy,
    client: impl FnOnce(TcpStream) + Send + 'static,
    server: impl FnOnce(TcpStream) + Send + 'static,
) -> End {
    let start = Start { strategy, has_bytes_waiting: false, header: None };
    run_from(start, backend, pipes_max, client, server)
}

/// The same, from a beginning of its own.
pub(super) fn run_from(
    start: Start,
    backend: &Backend,
    pipes_max: usize,
    client: impl FnOnce(TcpStream) + Send + 'static,
    server: impl FnOnce(TcpStream) + Send + 'static,
) -> End {
    runtime::testing::run(async {
        let (client_leg, client_end) = connected();
        let (server_leg, server_end) = connected();
        let scripts = [thread::spawn(move || client(client_end)), thread::spawn(move || server(server_end))];
        let tools = Tools {
            pipes: Pipes::new(PipeBudget::new(pipes_max, Gauge::default()), 1),
            buffer: RefCell::new(vec![0; COPY_BUFFER].into_boxed_slice()),
            pipes_exhausted: Counter::default(),
        };
        let slot = backend.pick(0, &[]).expect("a server without a limit");
        let mut meter = Meter::new(Arc::new(crate::frontend::testing::frontend()), slot);
        let flow = Flow { client: &client_leg, server: &server_leg, backend: &backend.settings };
        let end = runtime::timeout(PATIENCE, carry(&flow, start, &tools, &mut meter)).await.expect("it ends");
        drop((client_leg, server_leg));
        for script in scripts {
            script.join().expect("the script holds");
        }
        End {
            close: end.reason,
            silent: end.silent,
            carried: meter.carried,
            pipes_exhausted: tools.pipes_exhausted.get(),
        }
    })
}

/// A leg as the agent has it, and the peer's end.
pub(super) fn connected() -> (net::Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let far = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    far.set_read_timeout(Some(PATIENCE)).expect("set");
    let (near, _) = listener.accept().expect("the other end");
    near.set_nonblocking(true).expect("set");
    rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).expect("set");
    for end in [&near, &far] {
        rustix::net::sockopt::set_socket_oobinline(end, true).expect("set");
    }
    (net::Socket::connection(near.into()).expect("registered"), far)
}

/// Writes one thing and reads another at the same time, to a clean end both ways.
pub(super) fn exchange(mut stream: TcpStream, write: &[u8], expected: &[u8]) {
    let mut reader = stream.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(move || {
            stream.write_all(write).expect("write");
            stream.shutdown(Shutdown::Write).expect("half-close");
        });
        assert!(read_all(&mut reader).expect("clean end") == expected);
    });
}

pub(super) fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

pub(super) fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
}

/// Waits for a reset without reading.
pub(super) fn wait_for_error(stream: &TcpStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let _ = poll(&mut fds, Some(&patience));
    fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Bytes that differ everywhere, so that a piece out of place shows.
pub(super) fn pattern(len: usize, seed: u64) -> Vec<u8> {
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
