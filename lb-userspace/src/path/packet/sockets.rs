// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sockets of a flow that is on its way to this path.

use crate::net::{self, Socket};

/// Has the sockets of a flow announce no more room than they have, or as much as the kernel likes: what an end may send at once has to be delivered
/// before the flow can leave.
pub fn keep_brief(sockets: [&Socket; 2], is_brief: bool) {
    for socket in sockets {
        // Kernels older than 5.15 do not know how, and a flow that never pauses leaves later.
        let _ = net::lock_receive_buffer(socket.get_ref(), is_brief);
    }
}

/// What a socket that holds nothing of what it has received has outstanding, in bytes. `None`: it holds something, or is gone.
pub(super) fn resting(socket: &Socket) -> Option<u32> {
    let fd = socket.get_ref();
    let is_empty = net::holds_nothing(fd).ok()? && net::tcp_info(fd).ok()?.is_established;
    if is_empty { net::unacknowledged_bytes(fd).ok() } else { None }
}
