// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes the PROXY header in front of a connection, and not a byte behind it: the only bytes of a client that are ever taken before
//! a path carries them.
//!
//! It is peeked at until it is whole, and then read by its exact length. What came in the same segment stays in the socket. The
//! segment is then half read, so nothing that takes whole segments out of a socket's queue may come after it (net/core/skmsg.c does).
//! A long one is taken piece by piece as it comes, because a receive buffer need not hold all of it.

use std::io;
use std::net::IpAddr;

use lb_common::reason::ProxyReason;

use super::arrivals::{Arrivals, HelloBuffers, Judgement, Wait, Waited};
use super::pending::PendingHellos;
use crate::net::Socket;
use crate::proxy::{HeaderOutcome, Received, parse};
use crate::runtime::Moment;

/// The longest header that is peeked at as a whole, in bytes: the smallest receive buffer has room for it (SOCK_MIN_RCVBUF, 2,304
/// bytes or more; include/net/sock.h).
const WHOLE_MAX: usize = 1024;

/// Of a longer one, as many bytes at a time as are worth waking up for.
const PIECE: usize = 1024;

/// What came where a PROXY header has to come first.
#[derive(Debug)]
pub enum Preface {
    /// A header, which was taken.
    Header(Box<Received>),
    /// None.
    Invalid(ProxyReason),
    /// The client closed or reset before it was complete.
    Gone,
    /// Gave way to others, because the memory for waiting connections was used up.
    Evicted,
}

/// Waits for a header of at most `header_max` bytes until `deadline`, and takes it. While it waits, the connection has its part of
/// `pending`, as one does that waits for a ClientHello.
pub async fn take_header(
    socket: &Socket,
    header_max: usize,
    deadline: Moment,
    buffers: &HelloBuffers,
    pending: &PendingHellos,
    source: IpAddr,
) -> Preface {
    let mut taken = Vec::new();
    let look = || look(socket, header_max, buffers, &mut taken);
    // What is taken may grow to twice its size (Vec).
    let mut wait = Wait::new(socket, header_max, 2 * header_max, look);
    // A proxy sends its header with the end of the TCP handshake: look before waiting.
    let waited = match wait.look(Arrivals::Open) {
        Some(done) => done,
        None => Box::pin(wait.until_done(deadline, pending, source)).await,
    };
    match waited {
        Waited::Known(Ok(received)) => Preface::Header(received),
        Waited::Known(Err(reason)) => Preface::Invalid(reason),
        Waited::TimedOut { .. } => Preface::Invalid(ProxyReason::Timeout),
        Waited::Gone => Preface::Gone,
        Waited::Evicted => Preface::Evicted,
    }
}

/// What comes of looking: how many bytes were in the queue, and what all so far are.
type Seen = Option<(usize, Judgement<Result<Box<Received>, ProxyReason>>)>;

/// Peeks at what follows `taken`. Takes the rest of a header that is whole, and what there is of a long one.
///
/// # Errors
/// The connection broke.
fn look(socket: &Socket, max: usize, buffers: &HelloBuffers, taken: &mut Vec<u8>) -> io::Result<Seen> {
    let before = taken.len();
    let seen = buffers.look(socket, max - before, |wire, _| {
        if before > 0 {
            taken.extend_from_slice(wire);
            return parse(taken, max);
        }
        let outcome = parse(wire, max);
        if matches!(outcome, HeaderOutcome::NeedMore(more) if wire.len() + more > WHOLE_MAX) {
            taken.extend_from_slice(wire);
        }
        outcome
    })?;
    let Some((len, outcome)) = seen else { return Ok(None) };
    let judgement = match outcome {
        HeaderOutcome::Complete(received) => {
            buffers.take(socket, received.wire_len - before)?;
            Judgement::Known(Ok(Box::new(received)))
        }
        HeaderOutcome::Invalid(reason) => Judgement::Known(Err(reason)),
        HeaderOutcome::NeedMore(more) if taken.is_empty() => Judgement::NeedInQueue(len + more),
        HeaderOutcome::NeedMore(more) => {
            buffers.take(socket, len)?;
            Judgement::NeedInQueue(more.min(PIECE))
        }
    };
    Ok(Some((len, judgement)))
}

#[cfg(test)]
mod tests;
