// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets of a flow that is on its way to this path.

use lb_common::reason::PacketObstacle;

use super::Station;
use super::approach::RESTLESS_BYTES;
use crate::config::Promotion;
use crate::net::{self, Socket};

/// What may wait in a socket for being sent while a flow is on its way, in bytes: a reader that is slow takes it within the time in which both ends pause.
const UNSENT_MAX: u32 = 128 << 10;

/// Whether a flow with this promotion is soon on its way to this path.
pub fn leaves_soon(station: &Station, promotion: Promotion) -> bool {
    let is_soon = promotion.is_at_once() || promotion.after_bytes <= RESTLESS_BYTES;
    is_soon && !station.common.canary.is_off()
}

/// Has the sockets of a flow announce no more room than they have, and take little that they cannot send yet; or as much as the kernel likes: what an
/// end may send at once, and what waits for a slow reader, has to be delivered before the flow can leave.
pub fn keep_brief(sockets: [&Socket; 2], is_brief: bool) {
    for socket in sockets {
        // Kernels older than 5.15 do not know how, and a flow that never pauses leaves later.
        let _ = net::lock_receive_buffer(socket.get_ref(), is_brief);
        net::limit_unsent(socket.get_ref(), if is_brief { UNSENT_MAX } else { 0 });
    }
}

/// Why a flow has no port that stays its own: who is on this host gets none.
pub(super) fn why_no_port(sockets: [&Socket; 2]) -> PacketObstacle {
    let is_local = |socket: &Socket| net::is_with_this_host(socket.get_ref()).unwrap_or(false);
    if sockets.into_iter().any(is_local) { PacketObstacle::LocalPeer } else { PacketObstacle::NoPort }
}

/// What a socket that holds nothing of what it has received has outstanding, in bytes. `None`: it holds something, or is gone.
pub(super) fn resting(socket: &Socket) -> Option<u32> {
    let fd = socket.get_ref();
    let is_empty = net::holds_nothing(fd).ok()? && net::tcp_info(fd).ok()?.is_established;
    if is_empty { net::unacknowledged_bytes(fd).ok() } else { None }
}
