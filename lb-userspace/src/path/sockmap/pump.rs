// SPDX-License-Identifier: MIT OR Apache-2.0
//! User space moves what the program has passed, and what it may not judge any more.
//!
//! What was passed is in the socket's message queue, where recv(2) finds it and splice(2) does not. What a socket receives while
//! nobody judges it is in its receive queue, where splice(2) finds it, and recv(2) may not: the kernel leaves a socket that was
//! judged once with the recv(2) of such sockets, which takes an empty message queue behind a FIN for the end (net/ipv4/tcp_bpf.c,
//! tcp_bpf_recvmsg_parser). So neither says when a direction has ended; only counters do.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use crate::net;
use crate::path::{Pipe, Tools};

/// Asked of one splice(2).
const SPLICE_CHUNK: usize = 1 << 20;

/// Bytes after which other flows of the worker have a turn.
const TURN_BYTES: u64 = 1 << 20;

/// What stopped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is nothing to move.
    Drained,
    /// The sender's socket has nothing, for now.
    Sender,
    /// The receiver's socket takes nothing, for now.
    Receiver,
    /// Others want to move bytes, too.
    Turn,
}

/// Bytes that were taken and not delivered, and how many were delivered.
#[derive(Debug, Default)]
pub(super) struct Pump {
    /// The end of what was received, from `start` on.
    rest: Vec<u8>,
    start: usize,
    /// A pipe with so many bytes.
    pipe: Option<(Box<Pipe>, usize)>,
    /// Delivered of what was passed, in bytes.
    pub(super) copied: u64,
    /// Delivered of the rest, in bytes.
    pub(super) spliced: u64,
}

impl Pump {
    /// Whether bytes were taken that are not delivered.
    pub(super) fn is_holding(&self) -> bool {
        self.start < self.rest.len() || self.pipe.is_some()
    }

    /// Delivers what was passed; `passed` says how much that is by now.
    pub(super) fn copy(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        tools: &Tools,
        passed: impl Fn() -> u64,
    ) -> Stop {
        let turn_ends = self.copied + TURN_BYTES;
        let mut buffer = tools.buffer.borrow_mut();
        while self.copied < turn_ends {
            if self.start < self.rest.len() {
                match net::send(to, &self.rest[self.start..]) {
                    Ok(sent) => self.delivered(sent),
                    // An error of the socket is also an event.
                    Err(_) => return Stop::Receiver,
                }
                continue;
            }
            let held = passed() - self.copied;
            if held == 0 {
                return Stop::Drained;
            }
            // Never more than was passed: the kernel runs the program inside recv(2), too, and what it then redirects must not be
            // counted back (the same function sets copied_seq at its end to what it was at its beginning).
            let most = usize::try_from(held).unwrap_or(usize::MAX).min(buffer.len());
            match net::receive(from, &mut buffer[..most]) {
                // Not the end: what was passed may stand behind what was redirected to this socket.
                Ok(0) | Err(_) => return Stop::Sender,
                Ok(len) => {
                    let sent = net::send(to, &buffer[..len]).unwrap_or(0);
                    self.rest = buffer[sent..len].to_vec();
                    self.start = 0;
                    self.copied += sent as u64;
                }
            }
        }
        Stop::Turn
    }

    fn delivered(&mut self, sent: usize) {
        self.start += sent;
        self.copied += sent as u64;
        if self.start == self.rest.len() {
            (self.rest, self.start) = (Vec::new(), 0);
        }
    }

    /// Delivers what nobody judges.
    pub(super) fn splice(&mut self, from: &OwnedFd, to: &OwnedFd, tools: &Tools) -> Stop {
        let turn_ends = self.spliced + TURN_BYTES;
        while self.spliced < turn_ends {
            let Some((pipe, len)) = &mut self.pipe else {
                let Some(pipe) = tools.pipes.borrow() else {
                    tools.pipes_exhausted.inc();
                    return Stop::Sender;
                };
                match splice(from, &pipe.writer, SPLICE_CHUNK) {
                    Ok(len) if len > 0 => self.pipe = Some((pipe, len)),
                    other => {
                        tools.pipes.give_back(pipe);
                        // No bytes and an error other than "not now": there will be no more.
                        let is_over = other.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
                        return if is_over { Stop::Drained } else { Stop::Sender };
                    }
                }
                continue;
            };
            match splice(&pipe.reader, to, *len) {
                Ok(sent) => {
                    *len -= sent;
                    self.spliced += sent as u64;
                    if *len == 0
                        && let Some((pipe, _)) = self.pipe.take()
                    {
                        tools.pipes.give_back(pipe);
                    }
                }
                Err(_) => return Stop::Receiver,
            }
        }
        Stop::Turn
    }
}

fn splice(from: &OwnedFd, to: &OwnedFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    rustix::pipe::splice(from, None, to, None, most, flags).map_err(|errno: Errno| errno.into())
}
