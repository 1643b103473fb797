// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only flows need that last.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::{config, net};

/// A flow of at least this age gets keepalive and user timeout on the server's leg: shorter ones never need them.
pub(super) const SETTLED_AGE: Duration = Duration::from_secs(5);

/// Sets what a long-lived flow needs on the server's leg. The client's leg inherited it from the listener.
pub(super) fn settle(server: &OwnedFd, backend: &config::Backend) {
    // The kernel only refuses values that the configuration does not allow.
    if let Some(keepalive) = backend.keepalive {
        let _ = net::set_keepalive(server, keepalive);
    }
    if let Some(timeout) = backend.user_timeout {
        let _ = net::set_user_timeout(server, timeout);
    }
}
