// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies in maps of path `sockmap` that the kernel side and user space both read: sizes, orders, names. What path `packet` has is in
//! [`crate::packet::record`].
//!
//! Every socket of a flow on path `sockmap` has a *slot*, a number below the capacity of the maps. It stands for the direction that
//! the socket receives: what comes in at the client's socket goes to the server.

use core::mem::{offset_of, size_of};

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

/// The array of one word: what all directions together have waiting beyond their [`Allowed::pause_at`], in bytes of cost. Programs add and
/// take back, user space takes back what no program will. User space maps it into its memory.
pub const OVERDRAFT: &str = "OVERDRAFT";

/// The program of type `sk_skb/stream_verdict`.
pub const SOCKMAP_VERDICT: &str = "sockmap_verdict";

/// The program of type `socket_filter`, which every socket in [`HOOKS`] has.
pub const SOCKMAP_FILTER: &str = "sockmap_filter";

/// The constant of the programs that says where struct tcp_sock of this kernel has its field `write_seq`, in bytes.
pub const WRITE_SEQ_OFFSET: &str = "WRITE_SEQ_OFFSET";

/// The same of its field `copied_seq`.
pub const COPIED_SEQ_OFFSET: &str = "COPIED_SEQ_OFFSET";

/// The constant of the programs that says from which [`OVERDRAFT`] on whoever is beyond its own share gets nothing more.
pub const OVERDRAFT_MAX: &str = "OVERDRAFT_MAX";

/// Bytes of one call in [`BELLS`]: a header of 8 and a slot, padded to 8 (kernel/bpf/ringbuf.c).
pub const BELL_BYTES: u32 = 16;

/// What the program alone writes, under the lock of the receiving socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// What the segments that were ever handed to the target cost, see [`crate::verdict::charge`].
    pub charged: u64,
    /// Payload ever handed to the target, in bytes.
    pub redirected: u64,
    /// Segments ever handed to the target.
    pub segments: u64,
    /// Payload thrown away, in bytes, because it had no target. The flow is broken then, and must end in a reset.
    pub dropped: u64,
    /// Of [`Self::charged`], what is certain to be free again.
    pub released: u64,
    /// Once the target has accepted so many bytes, [`Self::mark_charged`] is free again.
    pub mark_redirected: u64,
    /// See there.
    pub mark_charged: u64,
    /// Bytes that the target had accepted when the program last looked.
    pub accepted: u64,
    /// The target's `write_seq` before the first byte of this direction that the program or user space moves.
    pub base: u64,
    /// The last [`Allowed::round`] in which user space was called.
    pub rung: u64,
    /// The last [`Allowed::round`] in which the sender's segments were turned away.
    pub stopped: u64,
    /// The direction's part of [`OVERDRAFT`], and [`Allowed::taken_back`] besides.
    pub overdrawn: u64,
    /// Nothing yet; fills a cache line.
    pub spare: [u64; 4],
}

/// What user space alone writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Cost that may wait for the target before user space is called, once a round.
    pub pause_at: u64,
    /// Cost that may wait before segments are turned away, until the next round.
    pub stop_at: u64,
    /// Counts the answers of user space, from 1; 0: all segments are turned away.
    pub round: u64,
    /// What user space has ever taken back of the direction's part of [`OVERDRAFT`].
    pub taken_back: u64,
    /// User space is to be called, once a round, for the segment with which so many bytes have ever been handed over, however little waits.
    pub call_at: u64,
    /// Bytes of this direction that user space has moved to the target itself since the target's number in [`Moved::base`].
    pub outside: u64,
    /// Of [`Moved::charged`], what user space knows to be free again. The filter goes by it: it cannot look at the target.
    pub freed: u64,
    /// Nothing yet; fills a cache line.
    pub spare: u64,
}

/// What the filter alone writes, on any processor, without a lock. Segments are counted as TCP does: one that the network interface or
/// the kernel has made of several counts as all of them, and one without payload as none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Segments that have come to the filter. Counted before the filter looks whether TCP may have them.
    pub entered: u64,
    /// Segments that TCP may not have.
    pub turned_away: u64,
    /// The last [`Allowed::round`] in which user space was called because a segment was turned away for want of memory.
    pub rung: u64,
    /// Nothing yet; fills a cache line.
    pub spare: [u64; 5],
}

/// One direction of a flow.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// The verdict's side.
    pub moved: Moved,
    /// User space's side.
    pub allowed: Allowed,
    /// The filter's side.
    pub filtered: Filtered,
}

/// Words of 64 bits in a [`Direction`].
pub const DIRECTION_WORDS: usize = size_of::<Direction>() / 8;

/// Words of 64 bits before [`Direction::allowed`].
pub const ALLOWED_WORD: usize = offset_of!(Direction, allowed) / 8;

/// The word of [`Moved::overdrawn`].
pub const OVERDRAWN_WORD: usize = offset_of!(Moved, overdrawn) / 8;

/// The word of [`Allowed::round`].
pub const ROUND_WORD: usize = offset_of!(Direction, allowed.round) / 8;

/// The word of [`Allowed::call_at`].
pub const CALL_WORD: usize = offset_of!(Direction, allowed.call_at) / 8;

/// The word of [`Allowed::outside`].
pub const OUTSIDE_WORD: usize = offset_of!(Direction, allowed.outside) / 8;

/// The word of [`Allowed::freed`].
pub const FREED_WORD: usize = offset_of!(Direction, allowed.freed) / 8;

/// The word of [`Allowed::taken_back`].
pub const TAKEN_BACK_WORD: usize = offset_of!(Direction, allowed.taken_back) / 8;

/// The word of [`Filtered::entered`].
pub const ENTERED_WORD: usize = offset_of!(Direction, filtered.entered) / 8;

/// The word of [`Filtered::turned_away`].
pub const TURNED_AWAY_WORD: usize = offset_of!(Direction, filtered.turned_away) / 8;

/// The word of [`Filtered::rung`].
pub const FILTER_RUNG_WORD: usize = offset_of!(Direction, filtered.rung) / 8;

const _: () = assert!(size_of::<Moved>() == 128 && size_of::<Allowed>() == 64 && size_of::<Filtered>() == 64);
const _: () = assert!(
    DIRECTION_WORDS == 32
        && ALLOWED_WORD == 16
        && OVERDRAWN_WORD == 11
        && ROUND_WORD == 18
        && TAKEN_BACK_WORD == 19
        && ENTERED_WORD == 24
        && TURNED_AWAY_WORD == 25
        && FILTER_RUNG_WORD == 26
);

impl Moved {
    /// From the words of the map, in their order.
    pub fn from_words(words: [u64; ALLOWED_WORD]) -> Self {
        let [charged, redirected, segments, dropped, released, words @ ..] = words;
        let [mark_redirected, mark_charged, accepted, base, rung, stopped, overdrawn, spare @ ..] = words;
        Self {
            charged,
            redirected,
            segments,
            dropped,
            released,
            mark_redirected,
            mark_charged,
            accepted,
            base,
            rung,
            stopped,
            overdrawn,
            spare,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_fields_in_their_order() {
        let moved = Moved::from_words(core::array::from_fn(|word| word as u64));
        let fields = [
            (moved.charged, offset_of!(Moved, charged)),
            (moved.redirected, offset_of!(Moved, redirected)),
            (moved.segments, offset_of!(Moved, segments)),
            (moved.dropped, offset_of!(Moved, dropped)),
            (moved.released, offset_of!(Moved, released)),
            (moved.mark_redirected, offset_of!(Moved, mark_redirected)),
            (moved.mark_charged, offset_of!(Moved, mark_charged)),
            (moved.accepted, offset_of!(Moved, accepted)),
            (moved.base, offset_of!(Moved, base)),
            (moved.rung, offset_of!(Moved, rung)),
            (moved.stopped, offset_of!(Moved, stopped)),
            (moved.overdrawn, offset_of!(Moved, overdrawn)),
        ];
        for (word, (value, offset)) in fields.into_iter().enumerate() {
            assert_eq!((value, offset), (word as u64, word * 8));
        }
        let allowed =
            [offset_of!(Allowed, pause_at), offset_of!(Allowed, stop_at), offset_of!(Allowed, round)];
        assert_eq!(allowed, [0, 8, 16]);
    }
}
