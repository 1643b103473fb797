// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way of segments from the filter to TCP, and how to know that nothing is on it.
//!
//! A socket must not leave the map while its program may be called: the kernel takes the program away before it takes back the call of it,
//! and a call that finds none throws away what it was called for (net/core/skmsg.c, sk_psock_stop_verdict and sk_psock_verdict_recv).
//! The filter keeps new segments away. But it runs before TCP takes the socket's lock (net/ipv4/tcp_ipv4.c, tcp_v4_rcv), so that
//! one which it has let pass may still be on its way, for as long as its processor is held up. So the filter counts what it lets pass, TCP
//! counts what has come as soon as it has the lock (include/net/tcp.h, tcp_segs_in), and when the two agree, nothing is in between.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;

use super::sockmap::Sockmap;
use crate::net::{self, TcpInfo};

/// How often counts are compared before somebody else may as well have the processor. A segment is on its way for less than that, unless
/// its own processor is held up.
const TRIES: u32 = 8;

/// The way into one socket in the map.
#[derive(Debug, PartialEq, Eq)]
pub struct Gate {
    slot: u32,
    /// What TCP had counted before the filter counted anything.
    before: Cell<u32>,
}

impl Gate {
    /// The way into a socket that has just got the filter.
    ///
    /// # Errors
    /// As [`net::tcp_info`].
    pub fn new(kernel: &Sockmap, slot: u32, socket: impl AsFd) -> io::Result<Self> {
        let info = net::tcp_info(socket)?;
        let gate = Self { slot, before: Cell::new(info.segments.wrapping_sub(admitted(kernel, slot))) };
        Ok(gate)
    }

    /// Takes in what TCP has counted by now, and what the filter has since. What comes in between the two counts as not yet with TCP: so the
    /// difference is never more than what had passed before there was a filter, and that once nothing is on its way.
    pub fn learn(&self, kernel: &Sockmap, info: &TcpInfo) {
        let ahead = info.segments.wrapping_sub(admitted(kernel, self.slot)).wrapping_sub(self.before.get());
        if ahead.cast_signed() > 0 {
            self.before.set(self.before.get().wrapping_add(ahead));
        }
    }

    /// Turns segments away from now on, until the program is told again what it may do; whether TCP is done with all that had passed
    /// before. If so, the program will not be called for any payload any more.
    pub fn close(&self, kernel: &Sockmap, socket: impl AsFd) -> bool {
        kernel.turn_away(self.slot);
        let is_closed = (0..TRIES).any(|_| self.is_empty(kernel, &socket));
        if is_closed {
            // What TCP had kept to itself, if anything.
            net::kick(socket);
        }
        is_closed
    }

    /// Whether TCP has seen whatever has passed the filter. Asking takes the socket's lock, so that it is also done with it.
    fn is_empty(&self, kernel: &Sockmap, socket: impl AsFd) -> bool {
        let admitted = admitted(kernel, self.slot);
        // A socket that is gone is quiet.
        let Ok(info) = net::tcp_info(socket) else { return true };
        self.learn(kernel, &info);
        info.segments.wrapping_sub(admitted).wrapping_sub(self.before.get()).cast_signed() >= 0
    }
}

/// As TCP counts: it wraps.
fn admitted(kernel: &Sockmap, slot: u32) -> u32 {
    kernel.admitted(slot) as u32
}
