// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a whole ClientHello without consuming a byte: the one input loop in front of the pure parser.
//!
//! SO_RCVLOWAT is set to what the parser still needs, so that a client that drips bytes does not wake anybody, and set back
//! to 1 before a path takes over.

use std::cell::RefCell;
use std::io;

use tokio::time::Instant;

use super::hello::{ClientHello, HelloLimits, HelloOutcome, parse};
use super::pending::{Pending, PendingHellos};
use crate::net::{self, Socket};

/// Kernel and user memory of a connection that waits, besides its receive buffer, in bytes: two structures of the socket
/// layer, the session and its timer, rounded up.
const WAITING_CONNECTION_BYTES: u64 = 8 * 1024;

/// The part of the receive buffer that the low-water mark may ask for. Beyond about a half the kernel enlarges the buffer and
/// clamps the window to the mark for the rest of the connection (net/ipv4/tcp.c, tcp_set_rcvlowat).
const LOW_WATER_SHARE: u64 = 4;

/// What the client's first bytes turned out to be.
#[derive(Debug)]
pub enum FirstBytes {
    /// A whole ClientHello.
    Hello(ClientHello),
    /// Not a TLS ClientHello.
    NotTls,
    /// Began as TLS and broke the grammar.
    Malformed,
    /// Longer than the limits.
    TooLarge,
    /// The deadline passed; `has_begun`: some bytes of a ClientHello had come.
    TimedOut {
        /// Some bytes of a ClientHello had come.
        has_begun: bool,
    },
    /// The client closed or reset before its ClientHello was complete.
    Gone,
    /// Gave way to others, because the memory for waiting connections was used up.
    Evicted,
}

/// Buffers that every connection of a worker shares; they hold nothing between two polls.
#[derive(Debug)]
pub struct HelloBuffers {
    wire: RefCell<Vec<u8>>,
    handshake: RefCell<Vec<u8>>,
}

impl HelloBuffers {
    /// Room for the largest `client-hello-wire-max` of the configuration, in bytes.
    pub fn new(wire_max: usize) -> Self {
        // One byte more than allowed tells "exactly full" from "too large".
        Self { wire: RefCell::new(vec![0; wire_max + 1]), handshake: RefCell::default() }
    }

    /// Peeks and parses. `Ok(None)`: nothing has arrived.
    fn look(&self, socket: &Socket, limits: HelloLimits) -> io::Result<Option<(usize, HelloOutcome)>> {
        let mut wire = self.wire.borrow_mut();
        let room = limits.wire_max + 1;
        match net::peek(socket, &mut wire[..room]) {
            Ok(len) => Ok(Some((len, parse(&wire[..len], limits, &mut self.handshake.borrow_mut())))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Waits for the first bytes until they make sense one way or the other, or `deadline`.
pub async fn first_bytes(
    socket: &Socket,
    limits: HelloLimits,
    deadline: Instant,
    buffers: &HelloBuffers,
    pending: &PendingHellos,
    source: std::net::IpAddr,
) -> FirstBytes {
    let mut wait = Wait { socket, len: 0, low_water: 1, low_water_max: usize::MAX };
    // Most clients send their ClientHello with the end of the TCP handshake: look before waiting.
    if let Some(done) = wait.look(limits, buffers, false) {
        return done;
    }
    let buffer_limit = net::receive_buffer_limit(socket);
    wait.low_water_max = usize::try_from(buffer_limit / LOW_WATER_SHARE).unwrap_or(usize::MAX);
    let charge = buffer_limit + WAITING_CONNECTION_BYTES;
    let mut place = pending.enter(source, charge);
    let outcome = tokio::select! {
        biased;
        outcome = wait.until_known(limits, buffers) => outcome,
        () = Pending::evicted(&mut place) => FirstBytes::Evicted,
        () = tokio::time::sleep_until(deadline) => FirstBytes::TimedOut { has_begun: wait.len > 0 },
    };
    wait.reset_low_water();
    outcome
}

/// The state of waiting on one socket.
struct Wait<'a> {
    socket: &'a Socket,
    /// Bytes seen at the last look.
    len: usize,
    low_water: usize,
    low_water_max: usize,
}

impl Wait<'_> {
    async fn until_known(&mut self, limits: HelloLimits, buffers: &HelloBuffers) -> FirstBytes {
        loop {
            let Ok(mut readiness) = self.socket.readable().await else { return FirstBytes::Gone };
            let has_closed = readiness.ready().is_read_closed();
            if let Some(done) = self.look(limits, buffers, has_closed) {
                // Still readable: the path that takes over relies on it, because no further edge may come.
                return done;
            }
            // Nothing is ever taken here, so readiness has to be cleared by hand; the kernel reports each further arrival.
            readiness.clear_ready();
        }
    }

    /// Looks once. `None`: more must arrive, and the low-water mark says how much.
    fn look(&mut self, limits: HelloLimits, buffers: &HelloBuffers, has_closed: bool) -> Option<FirstBytes> {
        let (len, outcome) = match buffers.look(self.socket, limits) {
            Ok(Some(seen)) => seen,
            Ok(None) => return None,
            Err(_) => return Some(FirstBytes::Gone),
        };
        self.len = len;
        match outcome {
            HelloOutcome::Complete(hello) => Some(FirstBytes::Hello(hello)),
            HelloOutcome::NotTls if len == 0 => Some(FirstBytes::Gone),
            HelloOutcome::NeedMore(_) if len == 0 || has_closed => Some(FirstBytes::Gone),
            HelloOutcome::NeedMore(more) => {
                self.set_low_water(len + more);
                None
            }
            HelloOutcome::NotTls => Some(FirstBytes::NotTls),
            HelloOutcome::Malformed => Some(FirstBytes::Malformed),
            HelloOutcome::TooLarge => Some(FirstBytes::TooLarge),
        }
    }

    fn set_low_water(&mut self, bytes: usize) {
        self.low_water = bytes.min(self.low_water_max);
        // Without it the client's bytes wake us one by one: slower, not wrong.
        let _ = net::set_receive_low_water(self.socket.get_ref(), self.low_water);
    }

    /// Every path that takes over must see each byte as it arrives.
    fn reset_low_water(&mut self) {
        if self.low_water != 1 {
            self.set_low_water(1);
        }
    }
}
