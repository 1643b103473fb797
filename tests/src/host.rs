// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the host has to allow before namespaces are made.

use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Once a process: room for thousands of sockets, and cubic allowed, because namespaces may only use what the host allows.
///
/// # Panics
/// The kernel lacks cubic, or this is not root.
#[track_caller]
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let wanted = Rlimit { current: maximum, maximum };
        setrlimit(Resource::Nofile, wanted).expect("the soft limit may always rise to the hard one");
        allow_cubic();
    });
}

fn allow_cubic() {
    const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let allowed = std::fs::read_to_string(ALLOWED).expect("Linux has this file");
    if allowed.split_whitespace().any(|name| name == "cubic") {
        return;
    }
    std::fs::write(ALLOWED, format!("{} cubic", allowed.trim())).unwrap_or_else(|error| {
        panic!(
            "{ALLOWED} lacks cubic and cannot be written ({error}): run as root with CONFIG_TCP_CONG_CUBIC"
        );
    });
}
