// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bounds what the kernel holds for a connection whose bytes nobody takes yet.
//!
//! SO_RCVBUF says what a socket may hold at this moment, not what a peer can make it hold. The window grows with what
//! arrives, read or not (net/ipv4/tcp_input.c, tcp_grow_window), and a full buffer is enlarged up to net.ipv4.tcp_rmem\[2\]
//! (tcp_clamp_window): with one-byte segments out of order, each of which costs a whole packet, a Linux 6.18 held 25 MiB for
//! a socket that began with 128 KiB (tcp_rmem 4096 131072 33554432), and as much as was allowed where tcp_rmem\[2\] is 6 MiB.
//! Only a buffer size that the application has set, and so locked, is not enlarged; with the lock, the same peer got 128 KiB.
//! SO_BUF_LOCK (Linux 5.15) takes that lock back, so that the paths later find the kernel's own tuning as it was.

use rustix::net::sockopt;

use crate::net::{self, Socket};

/// The least that the buffer is bounded to, in bytes: the kernel's own default (net/ipv4/tcp.c, tcp_init), twice the window of
/// at most 64 KiB that a client was offered in the handshake (net/ipv4/tcp_output.c, tcp_select_initial_window). What a client
/// sends by right is not dropped.
const BOUND_MIN: u64 = 128 * 1024;

/// What the kernel may hold beyond the bound, in bytes: a packet that begins to arrive below it is taken whole
/// (net/ipv4/tcp_input.c, tcp_can_ingest), and the largest that is put together from segments has 64 KiB and its overhead.
/// 76 KiB were the most that was measured, with a buffer that was bounded while segments arrived.
const OVERSHOOT: u64 = 80 * 1024;

/// A socket whose receive buffer does not grow. [`BoundedBuffer::release`] ends that.
#[derive(Debug)]
pub(super) struct BoundedBuffer<'a> {
    socket: &'a Socket,
    /// SO_RCVBUF, in bytes.
    limit: u64,
    /// SO_RCVBUF before, if that was changed.
    before: Option<u64>,
    is_locked: bool,
}

impl<'a> BoundedBuffer<'a> {
    /// Bounds the buffer to twice `wanted` bytes of payload, the kernel's rule for the overhead of segments (SO_RCVBUF,
    /// socket(7)), and at least 128 KiB. A smaller one stays as it is.
    ///
    /// A kernel without SO_BUF_LOCK (before 5.15) bounds nothing: a lock could not be taken back.
    pub(super) fn new(socket: &'a Socket, wanted: usize) -> Self {
        let mut buffer =
            Self { socket, limit: net::receive_buffer_limit(socket), before: None, is_locked: false };
        buffer.is_locked = net::lock_receive_buffer(socket.get_ref(), true).is_ok();
        let bound = (2 * wanted as u64).max(BOUND_MIN);
        if buffer.is_locked && bound < buffer.limit {
            buffer.before = Some(buffer.limit);
            set_limit(socket, bound);
            buffer.limit = net::receive_buffer_limit(socket);
        }
        buffer
    }

    /// SO_RCVBUF, in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The most that the kernel holds of what the peer sends, in bytes.
    pub(super) fn held_max(&self) -> u64 {
        self.limit + OVERSHOOT
    }

    /// Gives the buffer back its size, at most twice net.core.rmem_max, and to the kernel's tuning.
    pub(super) fn release(self) {
        if let Some(before) = self.before {
            set_limit(self.socket, before);
        }
        if self.is_locked {
            // It was possible to set, so it is to take back, unless the socket is gone.
            let _ = net::lock_receive_buffer(self.socket.get_ref(), false);
        }
    }
}

/// Sets SO_RCVBUF so that the limit is `bytes`: the kernel doubles the value (socket(7)).
fn set_limit(socket: &Socket, bytes: u64) {
    // A socket that refuses keeps the size that it has, which the caller asks for.
    let _ = sockopt::set_socket_recv_buffer_size(
        socket.get_ref(),
        usize::try_from(bytes / 2).unwrap_or(usize::MAX),
    );
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::runtime::testing::run;

    #[test]
    fn a_large_buffer_is_bounded_and_given_back() {
        run(async {
            check(300_000, 1, Some(BOUND_MIN));
            check(300_000, 70_000, Some(140_000));
        });
    }

    #[test]
    fn a_small_buffer_stays() {
        run(async {
            check(300_000, 200_000, None);
            check(100_000, 1, None);
        });
    }

    #[track_caller]
    fn check(before: u64, wanted: usize, bounded: Option<u64>) {
        let (_client, socket) = pair();
        set_limit(&socket, before);
        net::lock_receive_buffer(socket.get_ref(), false).unwrap();
        let buffer = BoundedBuffer::new(&socket, wanted);
        assert_eq!(buffer.limit(), bounded.unwrap_or(before));
        assert_eq!(buffer.held_max(), buffer.limit() + OVERSHOOT);
        assert_eq!(net::receive_buffer_limit(&socket), buffer.limit());
        assert!(net::is_receive_buffer_locked(socket.get_ref()).unwrap());
        buffer.release();
        assert_eq!(net::receive_buffer_limit(&socket), before);
        assert!(!net::is_receive_buffer_locked(socket.get_ref()).unwrap());
    }

    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, Socket::connection(OwnedFd::from(server)).unwrap())
    }
}
