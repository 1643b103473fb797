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

/// `path`, and what says how strictly and from when on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathChoice {
    /// `path`
    pub path: PathWish,
    /// `path-required`: refuse a connection rather than fall back.
    pub is_required: bool,
    /// From when on a path inside the kernel is worth its beginning.
    pub promotion: Promotion,
}

/// `promote-after-bytes` and `promote-after`: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// `promote-after-bytes`: of both directions together; 0: at once.
    pub after_bytes: u64,
    /// `promote-after`: with the next byte after this time.
    pub after: Duration,
}

impl PathChoice {
    /// What holds where nothing is said.
    pub const DEFAULT: Self =
        Self { path: PathWish::Auto, is_required: false, promotion: Promotion::DEFAULT };
}

impl Promotion {
    /// What holds where nothing is said: by then, what it costs to begin inside the kernel is less than what each further byte or
    /// message saves.
    pub const DEFAULT: Self = Self { after_bytes: 64 << 10, after: Duration::from_secs(1) };

    /// Before the first byte.
    pub const AT_ONCE: Self = Self { after_bytes: 0, after: Duration::ZERO };

    /// Whether a flow is not carried in user space first.
    pub fn is_at_once(self) -> bool {
        self.after_bytes == 0 || self.after.is_zero()
    }
}

/// `path`: how bytes should be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathWish {
    /// `auto`: the best that works everywhere. Where it stands for [`Self::Packet`], that is what a configuration says once it is read
    /// ([`Global::auto`](super::Global::auto)).
    Auto,
    /// `packet`
    Packet,
    /// `sockmap`
    Sockmap,
    /// `splice`
    Splice,
    /// `copy`
    Copy,
}
