// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A segment as a flow sees it, and its options. Nearly every segment of a connection has timestamps alone, in a layout that all use.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use lb_common::packet::flow::Segment;
use lb_common::packet::options::{self, Bytes, OPTIONS_MAX, PLAIN_TIMESTAMPS, ROOM};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::code;
use lb_common::packet::tcp::{TCP_HEADER, Tcp, Translation};

use super::skb::{Plain, Skb, correct, len, load};
use super::version::{Version, numbers};

/// The headers of a packet, options excepted, in words as they lie there.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Head<Ip> {
    /// IP's.
    pub ip: Ip,
    /// TCP's.
    pub tcp: [u32; 5],
}

// SAFETY: made of words, whatever `Ip` is: it is made of them, too.
unsafe impl<Ip: Plain> Plain for Head<Ip> {}

/// What was read of a segment.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    /// What the flow is asked with.
    pub segment: Segment,
    /// Bytes of options.
    pub options_len: u32,
    /// Whether they are timestamps alone, as nearly all have them.
    pub is_plain: bool,
}

/// The place of a word in what [`options`] returns, for whether there is a timestamp, and of the code why there is nothing.
const HAS_TIMESTAMP: u64 = 1 << 32;
const CODE_SHIFT: u32 = 40;

/// The code for want of memory, instead of that of a reason.
pub const NO_MEMORY: u32 = ROOM as u32 - 1;

/// Reads a segment; returns the code of the reason why it cannot be translated, or 0.
#[inline(never)]
pub fn read<V: Version, const LINK: u32>(skb: Skb, head: &Head<V::Words>, seen: &mut Seen) -> u32 {
    let header = Tcp(numbers(&head.tcp));
    let segment_len = match V::read(&head.ip).payload_len(len(skb) - LINK) {
        Ok(len) => len,
        Err(reason) => return code(reason),
    };
    let options_len = match header.options_len(segment_len) {
        Ok(len) => len,
        Err(reason) => return code(reason),
    };
    seen.options_len = options_len;
    seen.segment.sequence = header.sequence();
    seen.segment.acknowledgement = header.acknowledgement();
    seen.segment.payload = segment_len - TCP_HEADER - options_len;
    seen.segment.window = header.window();
    seen.segment.flags = header.flags();
    if options_len == 0 {
        return 0;
    }
    read_timestamp(skb, options_at::<V, LINK>(), seen)
}

/// Where options begin.
#[inline(always)]
pub fn options_at<V: Version, const LINK: u32>() -> u32 {
    LINK + V::LEN + TCP_HEADER
}

/// Bytes of timestamps alone.
const PLAIN_LEN: u32 = 12;

#[inline(always)]
fn read_timestamp(skb: Skb, at: u32, seen: &mut Seen) -> u32 {
    if seen.options_len == PLAIN_LEN {
        let mut room = MaybeUninit::uninit();
        let Some([kind, value, _]) = load::<[u32; 3]>(skb, at, &mut room) else {
            return code(Untranslatable::MalformedHeader);
        };
        if u32::from_be(*kind) == PLAIN_TIMESTAMPS {
            seen.segment.timestamp = u32::from_be(*value);
            seen.segment.has_timestamp = true;
            seen.is_plain = true;
            return 0;
        }
    }
    let looked = options(skb, at, seen.options_len, None);
    seen.segment.timestamp = looked as u32;
    seen.segment.has_timestamp = looked & HAS_TIMESTAMP != 0;
    code_of(looked)
}

/// A copy of options.
#[repr(C, align(8))]
struct Copied([u8; ROOM]);

impl Bytes for Copied {
    #[inline(always)]
    fn load(&self, offset: u32) -> u8 {
        self.0[offset as usize & (ROOM - 1)]
    }

    #[inline(always)]
    fn store(&mut self, offset: u32, byte: u8) {
        self.0[offset as usize & (ROOM - 1)] = byte;
    }

    /// Through the last byte, which is behind all that can be options: the verifier remembers what is in a word of the stack, but not what is in
    /// a byte at the end of one, unless it is 0. So it never is.
    #[inline(always)]
    fn hidden(&mut self, number: u32) -> u32 {
        let last = &raw mut self.0[ROOM - 1];
        // SAFETY: from a reference.
        unsafe {
            last.write_volatile(number as u8 | ROOM as u8);
            u32::from(last.read_volatile()) & (ROOM as u32 - 1)
        }
    }
}

/// Looks at options, or translates them and has the checksum follow; returns the timestamp as it came, or why not.
#[inline(never)]
pub fn options(skb: Skb, at: u32, len: u32, by: Option<&Translation>) -> u64 {
    let mut room = MaybeUninit::<Copied>::uninit();
    let copied = fill(skb, &mut room);
    let loaded = bounded(&len);
    if loaded > OPTIONS_MAX {
        return failed(code(Untranslatable::MalformedOptions));
    }
    // SAFETY: the helper reads the packet of this program's own context, and writes less than the room has.
    if unsafe { bpf_skb_load_bytes(skb.cast(), at, copied.0.as_mut_ptr().cast(), loaded) } != 0 {
        return failed(code(Untranslatable::MalformedOptions));
    }
    let done = match options::translate(copied, loaded, by.unwrap_or(&Translation::default())) {
        Ok(done) => done,
        // Hidden, too: what comes of a refusal is the same for every reason.
        Err(reason) => return failed(copied.hidden(code(reason))),
    };
    let stored = bounded(&len);
    if by.is_some() && stored <= OPTIONS_MAX {
        // SAFETY: the helper changes the packet of this program's own context, of which nothing is held here, and reads less than there is.
        let error = unsafe { bpf_skb_store_bytes(skb, at, copied.0.as_ptr().cast(), stored, 0) };
        // The checksum is in the last word of the header before.
        if error != 0 || !correct(skb, at - 4, done.change) {
            return failed(NO_MEMORY);
        }
    }
    u64::from(done.timestamp) | u64::from(done.has_timestamp) << 32
}

/// A length from 1 to that of the room, read anew, so that the compiler does not know that it is the same, and keeps the comparisons that the
/// verifier wants to see. That of Linux 6.1 does not see that a number is not 0 that was compared with 0: so 0 becomes too much.
#[inline(always)]
fn bounded(len: &u32) -> u32 {
    // SAFETY: from a reference.
    let len = unsafe { core::ptr::from_ref(len).read_volatile() };
    (len.wrapping_sub(1) & (ROOM as u32 - 1)) + 1
}

/// Fills the room with whatever the packet begins with, so that the verifier knows nothing of any byte: with zeros that it knew of, it would
/// follow every way through the options by itself. What is behind the options is not looked at.
#[inline(always)]
fn fill(skb: Skb, room: &mut MaybeUninit<Copied>) -> &mut Copied {
    let first: *mut u8 = room.as_mut_ptr().cast();
    for half in [0, ROOM / 2] {
        // SAFETY: the helper reads the packet of this program's own context, and fills half of the room in any case: with zeros if it fails.
        unsafe { bpf_skb_load_bytes(skb.cast(), 0, first.add(half).cast(), ROOM as u32 / 2) };
    }
    // SAFETY: every byte was just written.
    unsafe { room.assume_init_mut() }
}

/// The code in what [`options`] returns, or 0.
#[inline(always)]
pub fn code_of(looked: u64) -> u32 {
    (looked >> CODE_SHIFT) as u32
}

#[inline(always)]
fn failed(code: u32) -> u64 {
    u64::from(code) << CODE_SHIFT
}
