// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a whole ClientHello without consuming a byte.
//!
//! Each time the parser runs it knows at least a sixth of what was missing, a record of one byte being the worst, so it runs some
//! sixty times at most for a connection.

use std::net::IpAddr;

pub use super::arrivals::HelloBuffers;

use super::arrivals::{Arrivals, Judgement, Wait, Waited};
use super::hello::{ClientHello, HelloLimits, HelloOutcome, parse};
use super::pending::PendingHellos;
use crate::net::Socket;
use crate::runtime::Moment;

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

/// In whose name a connection waits, and what it holds already.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    /// The budget.
    pub pending: &'a PendingHellos,
    /// The client's address.
    pub source: IpAddr,
    /// Bytes that are kept of what came before, a PROXY header.
    pub kept: usize,
}

/// Waits for the first bytes until they make sense one way or the other, or `deadline`.
///
/// A connection that has to wait takes its part of the budget, as `waiting` says: the most that the kernel can hold for it, which is
/// bounded meanwhile, and what it costs besides.
pub async fn first_bytes(
    socket: &Socket,
    limits: HelloLimits,
    deadline: Moment,
    buffers: &HelloBuffers,
    waiting: Waiting<'_>,
) -> FirstBytes {
    // One byte more than allowed tells "exactly full" from "too large".
    let room = limits.wire_max + 1;
    let look =
        || buffers.look(socket, room, |wire, handshake| judge(parse(wire, limits, handshake), wire.len()));
    let mut wait = Wait::new(socket, limits.wire_max, waiting.kept, look);
    // Most clients send their ClientHello with the end of the TCP handshake: look before waiting.
    let waited = match wait.look(Arrivals::Open) {
        Some(done) => done,
        // Boxed: the task of a connection that does not wait is not to be larger for it.
        None => Box::pin(wait.until_done(deadline, waiting.pending, waiting.source)).await,
    };
    match waited {
        Waited::Known(first) => first,
        Waited::TimedOut { has_begun } => FirstBytes::TimedOut { has_begun },
        Waited::Gone => FirstBytes::Gone,
        Waited::Evicted => FirstBytes::Evicted,
    }
}

fn judge(outcome: HelloOutcome, len: usize) -> Judgement<FirstBytes> {
    Judgement::Known(match outcome {
        HelloOutcome::Complete(hello) => FirstBytes::Hello(hello),
        HelloOutcome::NotTls => FirstBytes::NotTls,
        HelloOutcome::Malformed => FirstBytes::Malformed,
        HelloOutcome::TooLarge => FirstBytes::TooLarge,
        HelloOutcome::NeedMore(more) => return Judgement::NeedInQueue(len + more),
    })
}

#[cfg(test)]
mod tests;
