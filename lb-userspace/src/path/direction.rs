// SPDX-License-Identifier: MIT OR Apache-2.0
//! One direction of a flow: bytes from one socket to the other, by splice or by copy, with what the receiver did not take yet.

use std::io;
use std::task::{Context, Poll, ready};

use lb_common::reason::PathKind;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::Strategy;
use super::lane::{COPY_CHUNK, Lane, Tools};
use super::pipes::Pipe;
use crate::net;
use crate::runtime::wake_later;

/// Most bytes of a header that goes out with the first chunk of a copy. All that say no more than addresses and a name are shorter, and
/// so much fits into every empty send buffer.
pub const JOINED_HEADER_MAX: usize = 536;

/// A header that goes to the receiver with the first bytes; at most [`JOINED_HEADER_MAX`] long. Boxed where it is kept, because every
/// flow has room for it.
#[derive(Debug)]
pub struct JoinedHeader(pub Vec<u8>);

/// Length of the buffer that copies pass through.
pub const COPY_BUFFER: usize = JOINED_HEADER_MAX + COPY_CHUNK;

/// Asked of one splice(2). In a pipe that is not wide, its slots are the real bound (pipe(7): 16, each up to one page fragment).
const SPLICE_CHUNK: u32 = 1 << 20;

/// Full reads in a row after which an adaptive direction splices.
const STREAMING_READS: u8 = 2;

/// Splices in a row that moved less than this before an adaptive direction copies again.
const SHORT_SPLICE: usize = 16 * 1024;
const SHORT_SPLICES: u8 = 4;

/// How a direction came to its end.
#[derive(Debug)]
pub enum DirectionEnd {
    /// The sender's FIN arrived and everything before it was taken by the receiver's socket.
    Fin,
    /// Reading failed: the sender is gone. Everything that arrived before was taken by the receiver's socket.
    SenderGone(io::Error),
    /// Writing failed: the receiver is gone.
    ReceiverGone(io::Error),
}

/// Bytes that were taken from the sender and that the receiver's socket has not taken.
#[derive(Debug)]
enum Held {
    Nothing,
    /// What is sent with the first bytes.
    Header(Box<JoinedHeader>),
    /// So many, at most [`SPLICE_CHUNK`].
    InPipe {
        pipe: Box<Pipe>,
        len: u32,
    },
    InBuffer(Box<Rest>),
}

/// The end of a copy.
#[derive(Debug)]
struct Rest {
    bytes: Box<[u8]>,
    start: usize,
    /// Bytes from `start` on that are the header's.
    header_len: usize,
}

/// How user space moves bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// splice(2) through a pooled pipe.
    Splice,
    /// read and write through a buffer.
    Copy,
}

/// One direction of a flow.
#[derive(Debug)]
pub struct Direction {
    held: Held,
    method: Method,
    is_adaptive: bool,
    streak: u8,
    /// Reads once without waiting to be told that there is something.
    is_eager: bool,
    /// The sender has closed: behind the bytes that wait, nothing but its FIN (or a reset) comes.
    has_fin_behind: bool,
    /// Everything before the sender's FIN was taken: what a further read would say is known.
    is_over: bool,
    /// Why the receiver takes no more. The kernel says it once (SO_ERROR, socket(7)): an error that is dropped is lost.
    refusal: Option<io::Error>,
}

impl Direction {
    /// A direction that has moved nothing.
    pub fn new(strategy: Strategy) -> Self {
        let (method, is_adaptive) = match strategy {
            Strategy::Always(method) => (method, false),
            Strategy::Adaptive => (Method::Copy, true),
        };
        Self {
            held: Held::Nothing,
            method,
            is_adaptive,
            streak: 0,
            is_eager: false,
            has_fin_behind: false,
            is_over: false,
            refusal: None,
        }
    }

    /// Tells that bytes of the sender wait already, and what goes out with them.
    pub fn with_bytes_waiting(mut self, has_bytes_waiting: bool, header: Option<Box<JoinedHeader>>) -> Self {
        self.is_eager = has_bytes_waiting;
        self.held = header.map_or(Held::Nothing, Held::Header);
        self
    }

    /// Whether bytes wait for the receiver.
    pub fn is_stalled(&self) -> bool {
        !matches!(self.held, Held::Nothing | Held::Header(_))
    }

    /// How long the header is that waits for the sender's first bytes.
    pub fn header_len(&self) -> usize {
        match &self.held {
            Held::Header(header) => header.0.len(),
            Held::Nothing | Held::InPipe { .. } | Held::InBuffer(_) => 0,
        }
    }

    /// Moves what can be moved. `Pending`: nothing to read, or nothing more fits.
    pub fn poll(&mut self, cx: &mut Context<'_>, lane: &mut Lane<'_>) -> Poll<DirectionEnd> {
        let turn_ends = lane.turn_ends();
        loop {
            if self.is_stalled()
                && let Err(error) = ready!(self.poll_deliver(cx, lane))
            {
                return Poll::Ready(DirectionEnd::ReceiverGone(error));
            }
            if lane.total() >= turn_ends {
                wake_later(cx);
                return Poll::Pending;
            }
            match ready!(self.poll_take(cx, lane)) {
                Ok(0) => return Poll::Ready(DirectionEnd::Fin),
                Ok(_) => {}
                Err(error) => return Poll::Ready(DirectionEnd::SenderGone(error)),
            }
            if let Some(error) = self.refusal.take() {
                return Poll::Ready(DirectionEnd::ReceiverGone(error));
            }
        }
    }

    /// Delivers what was taken, and takes no more. `Pending`: that is done, or nothing more fits.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>, lane: &mut Lane<'_>) -> Poll<DirectionEnd> {
        if self.is_stalled()
            && let Err(error) = ready!(self.poll_deliver(cx, lane))
        {
            return Poll::Ready(DirectionEnd::ReceiverGone(error));
        }
        Poll::Pending
    }

    /// Takes bytes from the sender into `held`; `Ok(0)` is its FIN.
    fn poll_take(&mut self, cx: &mut Context<'_>, lane: &mut Lane<'_>) -> Poll<io::Result<usize>> {
        if self.is_over {
            return Poll::Ready(Ok(0));
        }
        if std::mem::take(&mut self.is_eager) && lane.from.poll_read_ready(cx).is_pending() {
            match self.take(lane) {
                Err(error) if is_temporary(&error) => {}
                taken => return Poll::Ready(taken),
            }
        }
        loop {
            self.has_fin_behind = ready!(lane.from.poll_read_ready(cx)).is_read_closed();
            match self.take(lane) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => lane.from.clear_read_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(len) => {
                    // A read that did not fill its buffer emptied the queue: spare the read that would say so. Only urgent
                    // data stops a read before the end of the queue (net/ipv4/tcp.c, tcp_recvmsg_locked).
                    let is_short = self.method == Method::Copy && len < lane.chunk() && len > 0;
                    if is_short && !net::has_urgent_data(lane.from) {
                        lane.from.clear_read_ready();
                        // And if a FIN was in the queue before, it is all that is left of it.
                        self.is_over = self.has_fin_behind && !net::has_error(lane.from);
                    }
                    self.adapt(len);
                    return Poll::Ready(Ok(len));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn take(&mut self, lane: &mut Lane<'_>) -> io::Result<usize> {
        match self.method {
            Method::Splice => self.take_by_splice(lane),
            Method::Copy => self.take_by_copy(lane),
        }
    }

    fn take_by_splice(&mut self, lane: &mut Lane<'_>) -> io::Result<usize> {
        let Some(pipe) = lane.tools.pipes.borrow() else {
            lane.tools.pipes_exhausted.inc();
            return self.take_by_copy(lane);
        };
        let spliced = Self::splice_into(lane, &pipe);
        match spliced {
            Ok(Some(len)) => {
                self.held = Held::InPipe { pipe, len };
                return Ok(len as usize);
            }
            Ok(None) | Err(_) => lane.tools.pipes.give_back(pipe),
        }
        spliced?;
        self.take_by_copy(lane)
    }

    /// Moves bytes into an empty pipe. `Ok(None)`: there may be bytes, but only recv(2) gets at them or knows.
    ///
    /// splice(2) says "end of file" or "nothing there" also where urgent data or a shortage of memory stops it
    /// (net/ipv4/tcp.c, tcp_splice_read and tcp_read_sock), so that neither is believed before recv(2) has said the same.
    fn splice_into(lane: &Lane<'_>, pipe: &Pipe) -> io::Result<Option<u32>> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let chunk = SPLICE_CHUNK as usize;
        // At most as many as asked for, and that is a u32.
        let splice = || {
            rustix::pipe::splice(lane.from.get_ref(), None, &pipe.writer, None, chunk, flags)
                .map(|len| len as u32)
        };
        match splice() {
            Ok(0) | Err(Errno::AGAIN) => {}
            spliced => return Ok(spliced.map(Some)?),
        }
        if net::peek(lane.from, &mut [0])? == 0 {
            return Ok(None);
        }
        match splice() {
            Ok(0) | Err(Errno::AGAIN) => Ok(None),
            spliced => Ok(spliced.map(Some)?),
        }
    }

    /// Reads into the worker's buffer and writes from it at once; only what the receiver does not take gets memory of its own.
    fn take_by_copy(&mut self, lane: &mut Lane<'_>) -> io::Result<usize> {
        let tools = lane.tools;
        let mut buffer = tools.buffer.borrow_mut();
        let header_len = match &self.held {
            Held::Header(header) => {
                buffer[..header.0.len()].copy_from_slice(&header.0);
                header.0.len()
            }
            _ => 0,
        };
        let len = net::receive(lane.from, &mut buffer[header_len..header_len + lane.chunk()])?;
        if len == 0 {
            return Ok(0);
        }
        self.held = Held::Nothing;
        // The last bytes share a segment with the FIN that follows at once.
        let is_last = self.has_fin_behind && len < lane.chunk();
        let send = if is_last { net::send_with_more_to_come } else { net::send };
        let all = &buffer[..header_len + len];
        let sent = match send(lane.to, all) {
            Err(error) if !is_temporary(&error) => {
                self.refusal = Some(error);
                return Ok(len);
            }
            sent => sent.unwrap_or(0),
        };
        lane.moved[PathKind::Copy.index()] += sent.saturating_sub(header_len) as u64;
        if sent < all.len() {
            let header_len = header_len.saturating_sub(sent);
            self.held =
                Held::InBuffer(Box::new(Rest { bytes: Box::from(&all[sent..]), start: 0, header_len }));
        }
        Ok(len)
    }

    /// Delivers what is held. `Ok`: nothing is held any more.
    fn poll_deliver(&mut self, cx: &mut Context<'_>, lane: &mut Lane<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(lane.to.poll_write_ready(cx));
            match self.deliver_some(lane) {
                Ok(()) if self.held_len() == 0 => {
                    self.release(lane.tools);
                    return Poll::Ready(Ok(()));
                }
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => lane.to.clear_write_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn deliver_some(&mut self, lane: &mut Lane<'_>) -> io::Result<()> {
        match &mut self.held {
            Held::Nothing | Held::Header(_) => {}
            Held::InPipe { pipe, len } => {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                let to = lane.to.get_ref();
                let sent = rustix::pipe::splice(&pipe.reader, None, to, None, *len as usize, flags)?;
                // No more than `len`, so that it fits.
                *len -= sent as u32;
                lane.moved[PathKind::Splice.index()] += sent as u64;
            }
            Held::InBuffer(rest) => {
                let sent = net::send(lane.to, &rest.bytes[rest.start..])?;
                rest.start += sent;
                let header_len = sent.min(rest.header_len);
                rest.header_len -= header_len;
                lane.moved[PathKind::Copy.index()] += (sent - header_len) as u64;
            }
        }
        Ok(())
    }

    fn held_len(&self) -> usize {
        match &self.held {
            Held::Nothing | Held::Header(_) => 0,
            Held::InPipe { len, .. } => *len as usize,
            Held::InBuffer(rest) => rest.bytes.len() - rest.start,
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
            Method::Copy => (len < COPY_CHUNK, STREAMING_READS, Method::Splice),
            Method::Splice => (len >= SHORT_SPLICE, SHORT_SPLICES, Method::Copy),
        };
        self.streak = if goes_on { 0 } else { self.streak + 1 };
        if self.streak >= streak_max {
            self.method = other;
            self.streak = 0;
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
