// SPDX-License-Identifier: MIT OR Apache-2.0
//! What came before a reset: how long the other side has for it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::net::{self, Socket};
use crate::runtime::{Moment, sleep, sleep_until};

/// How long bytes that arrived before a reset may go without any of them being acknowledged, before the reset is passed on
/// without them.
pub(super) const RESET_DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long that may take altogether: a client that takes a byte now and then is not waited for for ever.
pub(super) const RESET_DRAIN_ALL_MAX: Duration = Duration::from_secs(600);

/// Waits until the peer's kernel has everything, so that a reset behind it discards nothing; not longer than
/// [`RESET_DRAIN_MAX`] without progress, nor beyond `deadline`, and not for a peer that is gone.
pub(super) async fn drain(socket: &Socket, deadline: Option<Moment>) {
    net::push(socket);
    let deadline = deadline.unwrap_or_else(Moment::now);
    tokio::select! {
        () = acknowledged(socket.get_ref(), || false) => {}
        () = sleep_until(deadline) => {}
        () = socket.failed() => {}
    }
}

/// Waits until the peer's kernel has everything, or takes nothing for [`RESET_DRAIN_MAX`], or `is_gone` says that it is gone.
pub(super) async fn acknowledged(socket: &OwnedFd, is_gone: impl Fn() -> bool) {
    let (mut pause, mut least, mut progress_at) = (Duration::from_millis(1), u32::MAX, Instant::now());
    while progress_at.elapsed() < RESET_DRAIN_MAX && !is_gone() {
        match net::unacknowledged_bytes(socket) {
            Ok(0) | Err(_) => return,
            Ok(bytes) if bytes < least => (least, progress_at) = (bytes, Instant::now()),
            Ok(_) => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
