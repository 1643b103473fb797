// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a client's first bytes without consuming one: the one input loop in front of the pure parsers.
//!
//! SO_RCVLOWAT is set to what the parser still needs, so that a client that drips bytes does not wake anybody, and set back
//! to 1 before a path takes over. Where the mark cannot be that high, a wake-up costs one ioctl: bytes are copied and parsed
//! only when as many are there as the parser needs, or no more will come.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;

use super::pending::{Pending, PendingHellos};
use super::receive_buffer::BoundedBuffer;
use crate::net::{self, Socket};
use crate::runtime::{Moment, sleep_until};

/// Kernel and user memory of a connection that waits, besides what the peer sends, in bytes: two structures of the socket
/// layer, the session and its timer, rounded up.
const WAITING_CONNECTION_BYTES: u64 = 8 * 1024;

/// The part of the receive buffer that the low-water mark may ask for. Beyond about a half the kernel cannot hold what the mark
/// asks for, or enlarges the buffer and clamps the window to the mark for the rest of the connection (net/ipv4/tcp.c,
/// tcp_set_rcvlowat).
const LOW_WATER_SHARE: u64 = 4;

/// What a parser makes of the bytes so far.
#[derive(Debug)]
pub(super) enum Judgement<T> {
    /// It knows what they are, whatever follows.
    Known(T),
    /// It needs so many in the socket's queue, at least 1.
    NeedInQueue(usize),
}

/// How waiting ended.
#[derive(Debug)]
pub(super) enum Waited<T> {
    /// The parser knows.
    Known(T),
    /// The deadline passed.
    TimedOut {
        /// Some bytes had come.
        has_begun: bool,
    },
    /// The client closed or reset before the parser knew.
    Gone,
    /// Gave way to others, because the memory for waiting connections was used up.
    Evicted,
}

/// Buffers that every connection of a worker shares; they hold nothing between two polls.
#[derive(Debug)]
pub struct HelloBuffers {
    wire: RefCell<Vec<u8>>,
    handshake: RefCell<Vec<u8>>,
    /// How often a parser ran.
    #[cfg(test)]
    pub(super) parses: std::cell::Cell<usize>,
}

impl HelloBuffers {
    /// Room for the largest `client-hello-wire-max` and `proxy-header-max` of the configuration, in bytes.
    pub fn new(wire_max: usize) -> Self {
        // One byte more than allowed tells "exactly full" from "too large".
        Self {
            wire: RefCell::new(vec![0; wire_max + 1]),
            handshake: RefCell::default(),
            #[cfg(test)]
            parses: std::cell::Cell::default(),
        }
    }

    /// Peeks at most `room` bytes and parses them; the parser gets a scratch buffer. `Ok(None)`: nothing has arrived.
    pub(super) fn look<T>(
        &self,
        socket: &Socket,
        room: usize,
        parse: impl FnOnce(&[u8], &mut Vec<u8>) -> T,
    ) -> io::Result<Option<(usize, T)>> {
        let mut wire = self.wire.borrow_mut();
        match net::peek(socket, &mut wire[..room]) {
            Ok(len) => {
                #[cfg(test)]
                self.parses.set(self.parses.get() + 1);
                Ok(Some((len, parse(&wire[..len], &mut self.handshake.borrow_mut()))))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes exactly `len` bytes that were peeked at.
    ///
    /// # Errors
    /// The connection broke in between.
    pub(super) fn take(&self, socket: &Socket, len: usize) -> io::Result<()> {
        let mut wire = self.wire.borrow_mut();
        let mut left = len;
        while left > 0 {
            match net::receive(socket, &mut wire[..left])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                taken => left -= taken,
            }
        }
        Ok(())
    }
}

/// Whether more bytes can arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrivals {
    Open,
    Closed,
}

/// The state of waiting on one socket. `look` peeks and parses, as [`HelloBuffers::look`] does.
pub(super) struct Wait<'a, L> {
    socket: &'a Socket,
    /// Most bytes that are waited for.
    wire_max: usize,
    /// Most bytes that are kept besides, such as those that `look` takes.
    kept_max: usize,
    look: L,
    /// Bytes seen at the last look.
    len: usize,
    /// Bytes that must be there before another look can tell more.
    needed: usize,
}

impl<'a, T, L: FnMut() -> io::Result<Option<(usize, Judgement<T>)>>> Wait<'a, L> {
    /// Nothing is known yet. At most `kept_max` bytes are kept besides what is in the socket.
    pub(super) fn new(socket: &'a Socket, wire_max: usize, kept_max: usize, look: L) -> Self {
        Self { socket, wire_max, kept_max, look, len: 0, needed: 1 }
    }

    /// Waits with a place in `pending`, in the name of `source`: the most that the kernel can hold for the connection, which is
    /// bounded meanwhile, and what it costs besides.
    pub(super) async fn until_done(
        mut self,
        deadline: Moment,
        pending: &PendingHellos,
        source: IpAddr,
    ) -> Waited<T> {
        let buffer = BoundedBuffer::new(self.socket, self.wire_max);
        let mut low_water = LowWater::new(self.socket, buffer.limit());
        let mut place =
            pending.enter(source, buffer.held_max() + WAITING_CONNECTION_BYTES + self.kept_max as u64);
        let outcome = tokio::select! {
            biased;
            outcome = self.until_known(&mut low_water) => outcome,
            () = Pending::evicted(&mut place) => Waited::Evicted,
            () = sleep_until(deadline) => Waited::TimedOut { has_begun: self.len > 0 },
        };
        low_water.reset();
        buffer.release();
        outcome
    }

    async fn until_known(&mut self, low_water: &mut LowWater<'_>) -> Waited<T> {
        loop {
            low_water.set(self.needed);
            let arrivals =
                if self.socket.readable().await.is_read_closed() { Arrivals::Closed } else { Arrivals::Open };
            if (arrivals == Arrivals::Closed || self.has_enough())
                && let Some(done) = self.look(arrivals)
            {
                // Still readable: the path that takes over relies on it, because no further edge may come.
                return done;
            }
            // Nothing is ever taken here, so readiness has to be cleared by hand; the kernel reports each further arrival.
            self.socket.clear_read_ready();
        }
    }

    /// Whether as many bytes are there as another look needs (FIONREAD, ioctl_tty(2); tcp(7)).
    fn has_enough(&self) -> bool {
        // A socket that cannot say is looked at, which tells why.
        rustix::io::ioctl_fionread(self.socket.get_ref())
            .map_or(true, |bytes| bytes == 0 || bytes >= self.needed as u64)
    }

    /// Looks once. `None`: more must arrive, and `needed` says how much.
    pub(super) fn look(&mut self, arrivals: Arrivals) -> Option<Waited<T>> {
        let (len, judgement) = match (self.look)() {
            Ok(Some(seen)) => seen,
            Ok(None) => return None,
            Err(_) => return Some(Waited::Gone),
        };
        self.len = len;
        match judgement {
            // The end of the stream, or of what could become something.
            _ if len == 0 => Some(Waited::Gone),
            Judgement::NeedInQueue(_) if arrivals == Arrivals::Closed => Some(Waited::Gone),
            Judgement::NeedInQueue(needed) => {
                self.needed = needed;
                None
            }
            Judgement::Known(known) => Some(Waited::Known(known)),
        }
    }
}

/// SO_RCVLOWAT of one socket.
struct LowWater<'a> {
    socket: &'a Socket,
    /// What it is, in bytes. The kernel begins with 1.
    mark: usize,
    max: usize,
}

impl<'a> LowWater<'a> {
    /// The mark of a socket that holds `buffer_limit` bytes.
    fn new(socket: &'a Socket, buffer_limit: u64) -> Self {
        Self { socket, mark: 1, max: usize::try_from(buffer_limit / LOW_WATER_SHARE).unwrap_or(usize::MAX) }
    }

    /// Asks to be woken when `bytes` are there, or a part of the buffer is full.
    fn set(&mut self, bytes: usize) {
        let mark = bytes.min(self.max);
        // If the kernel refuses, the client's bytes wake us one by one: slower, not wrong.
        if mark != self.mark && net::set_receive_low_water(self.socket.get_ref(), mark).is_ok() {
            self.mark = mark;
        }
    }

    /// Every path that takes over must see each byte as it arrives.
    fn reset(&mut self) {
        self.set(1);
    }
}
