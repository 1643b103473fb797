// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies in maps that the kernel side and user space both read: sizes, orders, names. The BPF programs use this module and
//! [`crate::verdict`], and no other of the crate, so that nothing else here can change the built object.
//!
//! Every socket of a flow on path `sockmap` has a *slot*, a number below the capacity of the maps. It stands for the direction that
//! the socket receives: what comes in at the client's socket goes to the server.

use core::mem::{offset_of, size_of};

/// Sockets in the maps unless user space says otherwise when it loads them.
pub const SLOTS_MAX: u32 = 1024;

/// The hash map from a socket's cookie (SO_COOKIE, socket(7)) to its slot.
pub const SLOTS: &str = "SLOTS";

/// The array of [`Direction`], by slot. User space maps it into its memory.
pub const DIRECTIONS: &str = "DIRECTIONS";

/// The socket map without a program: by slot, the socket that the bytes go to.
pub const TARGETS: &str = "TARGETS";

/// The socket map with the program [`SOCKMAP_VERDICT`]: by slot, the socket whose received bytes it judges.
pub const HOOKS: &str = "HOOKS";

/// The ring buffer by which the program calls user space: slots, as `u32`.
pub const BELLS: &str = "BELLS";

/// The program of type `sk_skb/stream_verdict`.
pub const SOCKMAP_VERDICT: &str = "sockmap_verdict";

/// Bytes of one call in [`BELLS`]: a header of 8 and a slot, padded to 8 (kernel/bpf/ringbuf.c).
pub const BELL_BYTES: u32 = 16;

/// Counters that the program alone writes, under the lock of the receiving socket. They only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// What the segments that were handed to the target cost, see [`crate::verdict::charge`].
    pub charged: u64,
    /// Payload handed to the target, in bytes.
    pub redirected: u64,
    /// Segments handed to the target.
    pub segments: u64,
    /// The last [`Allowed::bell`] that user space was called for.
    pub rung: u64,
    /// Payload thrown away, in bytes, because it was beyond [`Allowed::limit`] or had no target. The flow is broken then, and must end in
    /// a reset.
    pub dropped: u64,
    /// Nothing yet; fills a cache line.
    pub spare: [u64; 3],
}

/// What user space alone writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// [`Moved::charged`] from which on segments are dropped.
    pub limit: u64,
    /// [`Moved::charged`] from which on user space wants to be called, once.
    pub bell: u64,
    /// Nothing yet; fills a cache line.
    pub spare: [u64; 6],
}

/// One direction of a flow.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// The program's side.
    pub moved: Moved,
    /// User space's side.
    pub allowed: Allowed,
}

/// Words of 64 bits in a [`Direction`].
pub const DIRECTION_WORDS: usize = size_of::<Direction>() / 8;

/// Words of 64 bits before [`Direction::allowed`].
pub const ALLOWED_WORD: usize = offset_of!(Direction, allowed) / 8;

const _: () = assert!(size_of::<Moved>() == 64 && size_of::<Allowed>() == 64);
const _: () = assert!(DIRECTION_WORDS == 16 && ALLOWED_WORD == 8);

impl Moved {
    /// From the words of the map, in their order.
    pub fn from_words(words: [u64; ALLOWED_WORD]) -> Self {
        let [charged, redirected, segments, rung, dropped, spare @ ..] = words;
        Self { charged, redirected, segments, rung, dropped, spare }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_fields_in_their_order() {
        let moved = Moved::from_words([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((moved.charged, moved.redirected, moved.segments), (1, 2, 3));
        assert_eq!((moved.rung, moved.dropped, moved.spare), (4, 5, [6, 7, 8]));
        assert_eq!([offset_of!(Moved, charged), offset_of!(Moved, redirected)], [0, 8]);
        assert_eq!([offset_of!(Moved, rung), offset_of!(Moved, dropped)], [24, 32]);
        assert_eq!([offset_of!(Allowed, limit), offset_of!(Allowed, bell)], [0, 8]);
    }
}
