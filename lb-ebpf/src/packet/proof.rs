// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Whether the checksum of a segment is right: see [`Checksum`]. Where interfaces check, this costs next to nothing.

use core::ptr;

use aya_ebpf::bindings::BPF_CSUM_LEVEL_QUERY;
use aya_ebpf::helpers::{bpf_csum_diff, bpf_csum_level, bpf_skb_load_bytes};
use lb_common::packet::checksum::Difference;
use lb_common::packet::flow::Checksum;
use lb_common::packet::tcp::{TCP_HEADER, Tcp};

use super::segment::{Head, PLAIN_LEN, Seen};
use super::skb::{Skb, gso_size};
use super::version::{Version, numbers};
use crate::maps::PACKET_ROOM;

/// Bytes that are summed at a time: the most that the helper takes (net/core/filter.c, struct bpf_scratchpad, before Linux 6.13).
const CHUNK: u32 = 512;

/// How many of them a segment may have. One that is larger, came in one piece, and was checked by nobody, counts as wrong.
const CHUNKS: u32 = 32;

/// Room for a chunk, and a word more to round it up to words; and how many bytes there still are.
#[repr(C, align(8))]
pub struct Room {
    bytes: [u8; CHUNK as usize + 8],
    left: u32,
    spare: u32,
}

/// Looks at the checksum of a segment.
///
/// What the kernel has merged, or has yet to cut, it has checked or made itself (net/ipv4/tcp_offload.c, tcp4_gro_receive); the same is so where it is
/// left to the interface, and then the field has the sum of the pseudo header. Interfaces check, too, and the helper tells. All else is summed
/// here: what is known anyway, which is all of most acknowledgements, and then what is behind that.
#[inline(always)]
pub fn checksum<V: Version, const LINK: u32>(skb: Skb, head: &Head<V::Words>, seen: &Seen) -> Checksum {
    if gso_size(skb) != 0 {
        return Checksum::Right;
    }
    let len = seen.segment.payload + seen.options_len() + TCP_HEADER;
    let (pseudo, header) = (V::read(&head.ip).pseudo(len), Tcp(numbers(&head.tcp)));
    let (mut known, mut known_len) = (pseudo.and(header.sum()), TCP_HEADER);
    if seen.is_plain() {
        (known, known_len) = (known.and(seen.plain_sum()), TCP_HEADER + PLAIN_LEN);
    }
    if known_len == len && known.is_whole() || pseudo.folded() == header.checksum() {
        return Checksum::Right;
    }
    // SAFETY: the helper reads a field of this program's own packet.
    if unsafe { bpf_csum_level(skb, u64::from(BPF_CSUM_LEVEL_QUERY)) } >= 0 {
        return Checksum::Right;
    }
    match sum(skb, LINK + V::LEN + known_len, len - known_len) {
        UNREAD => Checksum::Wrong,
        bytes if known.and(Difference::of_kernel(bytes as u32)).is_whole() => Checksum::Right,
        _ => Checksum::Wrong,
    }
}

/// What [`sum`] returns where it has not summed everything.
const UNREAD: u64 = u64::MAX;

/// The sum of so many bytes from an offset on, as the kernel's helper sums them.
///
/// How many there still are is in a map's memory, of which the verifier knows nothing: so it follows the end of the loop once, and not once for each
/// time round.
#[inline(never)]
fn sum(skb: Skb, at: u32, len: u32) -> u64 {
    let Some(room) = PACKET_ROOM.get_ptr_mut(0) else { return UNREAD };
    // SAFETY: `room` is this processor's part of a map's value. The kernel does not run two programs of this kind on one processor at the same time
    // (see `count` in `flow`).
    let (bytes, left) = unsafe { (&raw mut (*room).bytes, &raw mut (*room).left) };
    let bytes: *mut u8 = bytes.cast();
    // SAFETY: from `room`, as above.
    unsafe { left.write_volatile(len) };
    let (mut at, mut sum) = (at, 0);
    for _ in 0..CHUNKS {
        // SAFETY: as above.
        let now = unsafe { left.read_volatile() };
        if now < CHUNK {
            break;
        }
        // SAFETY: the helper reads the packet of this program's own context, and writes as much as there is room for.
        if unsafe { bpf_skb_load_bytes(skb.cast(), at, bytes.cast(), CHUNK) } != 0 {
            return UNREAD;
        }
        sum = add(bytes, CHUNK, sum);
        at += CHUNK;
        // SAFETY: as above.
        unsafe { left.write_volatile(now - CHUNK) };
    }
    // SAFETY: as above.
    let rest = unsafe { left.read_volatile() };
    if rest == 0 {
        return u64::from(sum);
    }
    if rest > CHUNK {
        return UNREAD;
    }
    // SAFETY: as above; what is read of `left` is at most as much as there is room for.
    if unsafe { bpf_skb_load_bytes(skb.cast(), at, bytes.cast(), bounded(left)) } != 0 {
        return UNREAD;
    }
    // Zeros behind what is left, up to a whole word.
    for offset in 0..3 {
        // SAFETY: within the room, which has more than a chunk.
        unsafe { bytes.add((bounded(left) + offset) as usize).write_volatile(0) };
    }
    u64::from(add(bytes, (bounded(left) + 3) & !3, sum))
}

/// Bytes of the last chunk: from 1 to those of a whole one, as the verifier sees it.
#[inline(always)]
fn bounded(left: *const u32) -> u32 {
    // SAFETY: see `sum`.
    let left = unsafe { left.read_volatile() };
    (left.wrapping_sub(1) & (CHUNK - 1)) + 1
}

/// Adds so many bytes to a sum, which are whole words.
#[inline(always)]
fn add(bytes: *mut u8, len: u32, sum: u32) -> u32 {
    // SAFETY: the helper reads as many bytes as there are.
    (unsafe { bpf_csum_diff(ptr::null_mut(), 0, bytes.cast(), len, sum) }) as u32
}
