// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds for the connections of either leg.

use std::time::Duration;

/// `keepalive`: TCP keepalive (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `idle`: before the first probe.
    pub idle: Duration,
    /// `interval`: between probes.
    pub interval: Duration,
    /// `count`: probes without an answer before the connection is dead.
    pub count: u8,
}

/// `path` and `path-required`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathChoice {
    /// `path`
    pub path: PathWish,
    /// `path-required`: refuse a connection rather than fall back.
    pub is_required: bool,
}

/// `path`: how bytes should be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathWish {
    /// `auto`: the best that works here.
    Auto,
    /// `sockmap`
    Sockmap,
    /// `splice`
    Splice,
    /// `copy`
    Copy,
}
