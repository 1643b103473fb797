// SPDX-License-Identifier: MIT OR Apache-2.0
//! User space moves what the program may not judge any more: what the socket has received since it was taken out of the map.
//!
//! With splice(2), which does not say when a direction has ended; only counters do. It also stops in front of an urgent byte, for good
//! (net/ipv4/tcp.c, tcp_read_sock): that one is copied.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
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
    /// The sender's socket has nothing, for now.
    Sender,
    /// The receiver's socket takes nothing, for now.
    Receiver,
    /// Others want to move bytes, too.
    Turn,
    /// All pipes are lent, or memory lacks.
    Scarcity,
    /// The sender's connection is broken, and this was the only word about it: the kernel tells an error once.
    SenderGone,
    /// The receiver's is.
    ReceiverGone,
}

/// Bytes that were taken and not delivered, and how many were delivered.
#[derive(Debug, Default)]
pub(super) struct Pump {
    /// A pipe with so many bytes.
    pipe: Option<(Box<Pipe>, usize)>,
    /// Delivered, in bytes.
    pub(super) spliced: u64,
    /// How often bytes were there to take. Of who sends a message only after another has come, each counts, at least once.
    pub(super) takes: u64,
}

impl Pump {
    /// Whether bytes were taken that are not delivered.
    pub(super) fn is_holding(&self) -> bool {
        self.held() > 0
    }

    /// How many those are.
    pub(super) fn held(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |(_, len)| *len as u64)
    }

    /// Delivers what is there. Keeps its pipe while there may be more: who has none finds a part of a segment taken.
    pub(super) fn run(&mut self, from: &OwnedFd, to: &OwnedFd, tools: &Tools) -> Stop {
        let stop = self.deliver(from, to, tools);
        if stop != Stop::Turn
            && !self.is_holding()
            && let Some((pipe, _)) = self.pipe.take()
        {
            tools.pipes.give_back(pipe);
        }
        stop
    }

    fn deliver(&mut self, from: &OwnedFd, to: &OwnedFd, tools: &Tools) -> Stop {
        let turn_ends = self.spliced + TURN_BYTES;
        while self.spliced < turn_ends {
            if !self.is_holding()
                && let Some(stop) = self.take(from, tools)
            {
                let Some(stop) = self.copy_a_byte_after(stop, from, to) else { continue };
                return stop;
            }
            let Some((pipe, len)) = &mut self.pipe else { continue };
            let sent = match splice(&pipe.reader, to, *len) {
                Ok(0) => return Stop::Receiver,
                Ok(sent) => sent,
                Err(error) => return why(&error, Stop::Receiver, Stop::ReceiverGone),
            };
            *len -= sent;
            self.spliced += sent as u64;
        }
        Stop::Turn
    }

    /// Takes bytes into a pipe; `Some`: there are none.
    fn take(&mut self, from: &OwnedFd, tools: &Tools) -> Option<Stop> {
        if self.pipe.is_none() {
            let Some(pipe) = tools.pipes.borrow() else {
                tools.pipes_exhausted.inc();
                return Some(Stop::Scarcity);
            };
            self.pipe = Some((pipe, 0));
        }
        let (pipe, len) = self.pipe.as_mut()?;
        match splice(from, &pipe.writer, SPLICE_CHUNK) {
            // A FIN, or an urgent byte.
            Ok(0) => Some(Stop::Sender),
            Ok(taken) => {
                *len = taken;
                self.takes += 1;
                None
            }
            Err(error) => Some(why(&error, Stop::Sender, Stop::SenderGone)),
        }
    }

    /// If splice(2) has found nothing and there is something, delivers a byte of that. It is taken only then, so that it is never held.
    /// `Some`: there is nothing, or else it was not to be delivered.
    ///
    /// A socket that is out of the map has the usual recv(2) where bytes wait, and else one that says EAGAIN or 0
    /// (net/core/sock_map.c, sock_map_del_link; net/ipv4/tcp_bpf.c, tcp_bpf_recvmsg): 0 is no more than what splice(2) said.
    fn copy_a_byte_after(&mut self, stop: Stop, from: &OwnedFd, to: &OwnedFd) -> Option<Stop> {
        // Also of a FIN, and of segments that came too early.
        let may_wait = || net::received_memory(from).is_ok_and(|bytes| bytes > 0);
        if stop != Stop::Sender || !may_wait() {
            return Some(stop);
        }
        let mut byte = [0];
        match recv(from, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((_, 0)) => return Some(Stop::Sender),
            Ok(_) => {}
            Err(error) => return Some(why(&error, Stop::Sender, Stop::SenderGone)),
        }
        if let Err(error) = send(to, &byte, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            return Some(why(&error, Stop::Receiver, Stop::ReceiverGone));
        }
        self.spliced += 1;
        match recv(from, &mut byte, RecvFlags::DONTWAIT) {
            Ok((_, 1)) => None,
            // It would be delivered twice.
            _ => Some(Stop::SenderGone),
        }
    }
}

/// What an error means, where a socket that would block is `waits` and a broken one `gone`.
fn why(error: &Errno, waits: Stop, gone: Stop) -> Stop {
    match *error {
        Errno::AGAIN | Errno::INTR => waits,
        Errno::NOMEM | Errno::NOBUFS => Stop::Scarcity,
        _ => gone,
    }
}

fn splice(from: &OwnedFd, to: &OwnedFd, most: usize) -> Result<usize, Errno> {
    rustix::pipe::splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
}
