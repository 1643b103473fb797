// SPDX-License-Identifier: MIT OR Apache-2.0
//! One direction of a flow: bytes from one socket to the other, by splice or by copy, with what the receiver did not take yet.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use lb_common::reason::PathKind;
use prometheus_client::metrics::counter::Counter;
use rustix::pipe::SpliceFlags;

use super::Strategy;
use super::pipes::{Pipe, Pipes};
use crate::net::{self, Socket};

/// Most bytes that one read of path `copy` takes, and so the most that a direction holds in user space.
pub const COPY_CHUNK: usize = 64 * 1024;

/// Asked of one splice(2). The pipe's slots are the real bound (pipe(7): 16 by default, each up to one page fragment).
const SPLICE_CHUNK: usize = 1 << 20;

/// Bytes after which a direction lets other flows of the worker have a turn.
const TURN_BYTES: u64 = 1 << 20;

/// Full reads in a row after which an adaptive direction splices.
const STREAMING_READS: u8 = 2;

/// Splices in a row that moved less than this before an adaptive direction copies again.
const SHORT_SPLICE: usize = 16 * 1024;
const SHORT_SPLICES: u8 = 4;

/// What the directions of a worker share.
#[derive(Debug)]
pub struct Tools {
    /// Pipes for splice.
    pub pipes: Pipes,
    /// The buffer that copies pass through, [`COPY_CHUNK`] long; never holds anything between two polls.
    pub buffer: RefCell<Box<[u8]>>,
    /// Chunks that were copied because no pipe was free.
    pub pipes_exhausted: Counter,
}

/// How a direction came to its end.
#[derive(Debug)]
pub enum DirectionEnd {
    /// The sender's FIN arrived and everything before it was taken by the receiver's socket.
    Fin,
    /// Reading failed: the sender is gone. Everything that arrived before was taken by the receiver's socket.
    SenderGone,
    /// Writing failed: the receiver is gone.
    ReceiverGone,
}

/// Bytes that were taken from the sender and that the receiver's socket has not taken.
#[derive(Debug)]
enum Held {
    Nothing,
    InPipe { pipe: Pipe, len: usize },
    InBuffer { bytes: Box<[u8]>, start: usize },
}

/// One direction of a flow.
#[derive(Debug)]
pub struct Direction<'a> {
    from: &'a Socket,
    to: &'a Socket,
    held: Held,
    method: PathKind,
    is_adaptive: bool,
    streak: u8,
    /// Reads once without waiting to be told that there is something.
    is_eager: bool,
    /// Bytes that the receiver's socket took, by [`PathKind::index`].
    pub moved: [u64; PathKind::ALL.len()],
}

impl<'a> Direction<'a> {
    /// A direction that has moved nothing.
    pub fn new(from: &'a Socket, to: &'a Socket, strategy: Strategy) -> Self {
        let (method, is_adaptive) = match strategy {
            Strategy::Always(kind) => (kind, false),
            Strategy::Adaptive => (PathKind::Copy, true),
        };
        Self {
            from,
            to,
            held: Held::Nothing,
            method,
            is_adaptive,
            streak: 0,
            is_eager: false,
            moved: [0; PathKind::ALL.len()],
        }
    }

    /// Tells that bytes of the sender wait already.
    pub fn with_bytes_waiting(mut self, has_bytes_waiting: bool) -> Self {
        self.is_eager = has_bytes_waiting;
        self
    }

    /// All bytes that the receiver's socket took.
    pub fn total(&self) -> u64 {
        self.moved.iter().sum()
    }

    /// Whether bytes wait for the receiver.
    pub fn is_stalled(&self) -> bool {
        !matches!(self.held, Held::Nothing)
    }

    /// Moves what can be moved. `Pending`: nothing to read, or nothing more fits.
    pub fn poll(&mut self, cx: &mut Context<'_>, tools: &Tools) -> Poll<DirectionEnd> {
        let turn_ends = self.total() + TURN_BYTES;
        loop {
            if self.is_stalled() && ready!(self.poll_deliver(cx, tools)).is_err() {
                return Poll::Ready(DirectionEnd::ReceiverGone);
            }
            if self.total() >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.poll_take(cx, tools)) {
                Ok(0) => return Poll::Ready(DirectionEnd::Fin),
                Ok(_) => {}
                Err(_) => return Poll::Ready(DirectionEnd::SenderGone),
            }
        }
    }

    /// Takes bytes from the sender into `held`; `Ok(0)` is its FIN.
    fn poll_take(&mut self, cx: &mut Context<'_>, tools: &Tools) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.is_eager) {
            match self.take(tools) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return Poll::Ready(taken),
            }
        }
        loop {
            let mut readiness = ready!(self.from.poll_read_ready(cx))?;
            match self.take(tools) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readiness.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(len) => {
                    // A read that did not fill its buffer emptied the queue: spare the read that would say so.
                    if self.method == PathKind::Copy && len < COPY_CHUNK && len > 0 {
                        readiness.clear_ready();
                    }
                    self.adapt(len);
                    return Poll::Ready(Ok(len));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn take(&mut self, tools: &Tools) -> io::Result<usize> {
        match self.method {
            PathKind::Splice => self.take_by_splice(tools),
            PathKind::Copy => self.take_by_copy(tools),
        }
    }

    fn take_by_splice(&mut self, tools: &Tools) -> io::Result<usize> {
        let Some(pipe) = tools.pipes.borrow() else {
            tools.pipes_exhausted.inc();
            return self.take_by_copy(tools);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match rustix::pipe::splice(self.from.get_ref(), None, &pipe.writer, None, SPLICE_CHUNK, flags) {
            Ok(0) => {
                tools.pipes.give_back(pipe);
                Ok(0)
            }
            Ok(len) => {
                self.held = Held::InPipe { pipe, len };
                Ok(len)
            }
            Err(errno) => {
                tools.pipes.give_back(pipe);
                Err(errno.into())
            }
        }
    }

    /// Reads into the worker's buffer and writes from it at once; only what the receiver does not take gets memory of its own.
    fn take_by_copy(&mut self, tools: &Tools) -> io::Result<usize> {
        let mut buffer = tools.buffer.borrow_mut();
        let len = net::receive(self.from, &mut buffer)?;
        if len == 0 {
            return Ok(0);
        }
        // An error that matters comes again, and is dealt with, when the rest is delivered.
        let sent = net::send(self.to, &buffer[..len]).unwrap_or_default();
        self.moved[PathKind::Copy.index()] += sent as u64;
        if sent < len {
            self.held = Held::InBuffer { bytes: Box::from(&buffer[sent..len]), start: 0 };
        }
        Ok(len)
    }

    /// Delivers what is held. `Ok`: nothing is held any more.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, tools: &Tools) -> Poll<io::Result<()>> {
        loop {
            let mut readiness = ready!(self.to.poll_write_ready(cx))?;
            match self.deliver_some() {
                Ok(()) if self.held_len() == 0 => {
                    self.release(tools);
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readiness.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn deliver_some(&mut self) -> io::Result<()> {
        match &mut self.held {
            Held::Nothing => {}
            Held::InPipe { pipe, len } => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                let sent = rustix::pipe::splice(&pipe.reader, None, self.to.get_ref(), None, *len, flags)?;
                *len -= sent;
                self.moved[PathKind::Splice.index()] += sent as u64;
            }
            Held::InBuffer { bytes, start } => {
                let sent = net::send(self.to, &bytes[*start..])?;
                *start += sent;
                self.moved[PathKind::Copy.index()] += sent as u64;
            }
        }
        Ok(())
    }

    fn held_len(&self) -> usize {
        match &self.held {
            Held::Nothing => 0,
            Held::InPipe { len, .. } => *len,
            Held::InBuffer { bytes, start } => bytes.len() - start,
        }
    }

    fn release(&mut self, tools: &Tools) {
        if let Held::InPipe { pipe, .. } = std::mem::replace(&mut self.held, Held::Nothing) {
            tools.pipes.give_back(pipe);
        }
    }

    /// Chooses the method for the next bytes from how much the last ones were.
    fn adapt(&mut self, len: usize) {
        if !self.is_adaptive || len == 0 {
            return;
        }
        let (goes_on, streak_max, other) = match self.method {
            PathKind::Copy => (len < COPY_CHUNK, STREAMING_READS, PathKind::Splice),
            PathKind::Splice => (len >= SHORT_SPLICE, SHORT_SPLICES, PathKind::Copy),
        };
        self.streak = if goes_on { 0 } else { self.streak + 1 };
        if self.streak >= streak_max {
            self.method = other;
            self.streak = 0;
        }
    }
}
