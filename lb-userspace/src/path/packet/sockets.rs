// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets of a flow that is on its way to this path.

use std::io;

use lb_common::reason::PacketObstacle;
use rustix::io::Errno;

use super::approach::RESTLESS_BYTES;
use super::{Reach, Station};
use crate::config::Promotion;
use crate::net::{self, Socket, repair};
use crate::path::lane::CAREFUL_BYTES;

/// What may wait in a socket for being sent while a flow is on its way, in bytes: a reader that is slow takes it within the time in which both ends pause.
const UNSENT_MAX: u32 = 128 << 10;

/// Whether a flow with this promotion is soon on its way to this path.
pub fn leaves_soon(station: &Station, promotion: Promotion) -> bool {
    let is_soon = promotion.is_at_once() || promotion.after_bytes <= RESTLESS_BYTES;
    is_soon && !station.common.canary.is_off()
}

/// Tells the ends of both how much room there really is.
pub fn announce_windows(sockets: [&Socket; 2]) {
    for socket in sockets {
        // One that is gone has no room.
        let _ = repair::announce_window(socket.get_ref());
    }
}

/// The sockets of a flow that is on its way. While they are brief, they announce no more room than they have, and take little that they cannot send yet:
/// what an end may send at once, and what waits for a slow reader, has to be delivered before the flow can leave. That takes four system calls, and begins
/// only after so many bytes as many a connection has not got; until then care is taken that the kernel gives them no more room.
#[derive(Debug)]
pub struct Brevity<'a> {
    sockets: [&'a Socket; 2],
    is_wanted: bool,
    is_kept: bool,
}

impl<'a> Brevity<'a> {
    /// Of these sockets; whether it `is_wanted` yet.
    pub fn new(sockets: [&'a Socket; 2], is_wanted: bool) -> Self {
        Self { sockets, is_wanted, is_kept: false }
    }

    /// It is wanted from here on.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Whether it is wanted, and did not begin yet: then care is to be taken.
    pub fn is_awaited(&self) -> bool {
        self.is_wanted && !self.is_kept
    }

    /// Keeps them brief, if that is wanted and worth it: so many bytes have been delivered.
    pub fn look(&mut self, delivered: u64) {
        if self.is_awaited() && delivered >= CAREFUL_BYTES {
            self.is_kept = true;
            self.set(true);
        }
    }

    /// Lets them grow as the kernel likes, for good.
    pub fn end(&mut self) {
        self.is_wanted = false;
        if std::mem::take(&mut self.is_kept) {
            self.set(false);
        }
    }

    fn set(&self, is_brief: bool) {
        for socket in self.sockets {
            // Kernels older than 5.15 do not know how, and a flow that never pauses leaves later.
            let _ = net::lock_receive_buffer(socket.get_ref(), is_brief);
            net::limit_unsent(socket.get_ref(), if is_brief { UNSENT_MAX } else { 0 });
        }
    }
}

/// Why a flow has no port that stays its own: who is out of reach, on this host, gets none.
pub(super) fn why_no_port(sockets: [&Socket; 2], reach: Reach) -> PacketObstacle {
    let is_local = |socket: &Socket| net::is_with_this_host(socket.get_ref()).unwrap_or(false);
    if reach == Reach::OtherHosts && sockets.into_iter().any(is_local) {
        PacketObstacle::LocalPeer
    } else {
        PacketObstacle::NoPort
    }
}

/// Why nobody could be told who a flow is.
pub(super) fn why_untold(error: &io::Error) -> PacketObstacle {
    // A map with all the entries that it may have (bpf(2)).
    let is_full = error.raw_os_error() == Some(Errno::TOOBIG.raw_os_error());
    if is_full { PacketObstacle::Full } else { PacketObstacle::Kernel }
}

/// What a socket that holds nothing of what it has received has outstanding, in bytes. `None`: it holds something, or is gone.
pub(super) fn resting(socket: &Socket) -> Option<u32> {
    let fd = socket.get_ref();
    let is_empty = net::holds_nothing(fd).ok()? && net::tcp_info(fd).ok()?.is_established;
    if is_empty { net::unacknowledged_bytes(fd).ok() } else { None }
}
