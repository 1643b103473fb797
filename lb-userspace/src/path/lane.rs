// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a direction of a flow works with: two sockets, what the worker lends, and how much at a time.

use std::cell::RefCell;

use prometheus_client::metrics::counter::Counter;

use super::meter::Moved;
use super::pipes::Pipes;
use crate::net::Socket;

/// Most bytes that one read of path `copy` takes, and so the most that a direction holds in user space.
pub const COPY_CHUNK: usize = 64 * 1024;

/// Bytes after which a direction lets other flows of the worker have a turn.
const TURN_BYTES: u64 = 1 << 20;

/// Bytes of a direction after which it is careful no more, or waits for somebody who decides that. With one read of [`CAREFUL_CHUNK`] they are less than
/// ten segments of 1,434 bytes and more, up to which the kernel gives the sender no more room than it has (net/ipv4/tcp_input.c, tcp_init_buffer_space and tcp_rcv_space_adjust).
pub const CAREFUL_BYTES: u64 = 6 << 10;

/// The same for one read.
const CAREFUL_CHUNK: usize = 8 << 10;

/// What the directions of a worker share.
#[derive(Debug)]
pub struct Tools {
    /// Pipes for splice.
    pub pipes: Pipes,
    /// The buffer that copies pass through, [`COPY_BUFFER`] long; never holds anything between two polls.
    pub buffer: RefCell<Box<[u8]>>,
    /// Chunks that were copied because no pipe was free, or the user had no pages left for one.
    pub pipes_exhausted: Counter,
}

/// What a direction works with while it is polled, and so does not keep.
#[derive(Debug)]
pub struct Lane<'a> {
    /// The sender.
    pub from: &'a Socket,
    /// The receiver.
    pub to: &'a Socket,
    /// What the worker lends.
    pub tools: &'a Tools,
    /// Bytes that the receiver's socket ever took.
    pub moved: &'a mut Moved,
    /// Little is read at a time, and no more than [`CAREFUL_BYTES`] and a read in all.
    pub is_careful: bool,
}

impl Lane<'_> {
    /// All bytes that the receiver's socket took.
    pub fn total(&self) -> u64 {
        self.moved.iter().sum()
    }

    /// At how many of them other flows have a turn.
    pub fn turn_ends(&self) -> u64 {
        if self.is_careful { CAREFUL_BYTES } else { self.total() + TURN_BYTES }
    }

    /// Most bytes that one read takes.
    pub fn chunk(&self) -> usize {
        if self.is_careful { CAREFUL_CHUNK } else { COPY_CHUNK }
    }
}
