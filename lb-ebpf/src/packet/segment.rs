// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A segment as a flow sees it, and its options. Nearly every segment of a connection has timestamps alone, in a layout that all use.

use core::mem::{MaybeUninit, offset_of};
use core::ptr;

use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use lb_common::packet::checksum::Difference;
use lb_common::packet::flow::{Checksum, Segment};
use lb_common::packet::offer::{self, Offer};
use lb_common::packet::options::{self, Bytes, Found, OPTIONS_MAX, PLAIN_TIMESTAMPS, ROOM};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::code;
use lb_common::packet::tcp::{TCP_HEADER, Tcp, Translation};

use super::skb::{Plain, Skb, correct, len, load, load_or_zeros};
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
///
/// It has what the verifier knows nothing of, so that all ways through [`read`] come to the same for it, and it follows only one of them any further.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub struct Seen {
    /// What the flow is asked with.
    pub segment: Segment,
    /// The sum of timestamps that are there alone, which were loaded anyway.
    plain_sum: u64,
    /// Nothing; for the place of what follows.
    spare: u32,
    /// Where options are, and which.
    layout: Layout,
}

/// How many bytes of options there are, where those are that have to be changed, and which they are. All of it is in bytes that the verifier does
/// not follow, because none is the first of eight of the stack or ever 0.
#[derive(Clone, Copy, Default)]
struct Layout([u8; LAYOUT_LEN]);

/// Bytes of a [`Layout`], which begins at an odd half of eight, and what is in every one.
const LAYOUT_LEN: usize = 4;
const HIDING: u8 = 1 << 7;

/// In the last byte: there are timestamps; they are there alone, as nearly all segments have them. Above both is the number of blocks.
const TIMESTAMPS: u32 = 1;
const PLAIN: u32 = 1 << 1;
const BLOCKS_SHIFT: u32 = 2;

const _: () =
    assert!(offset_of!(Seen, layout) % 8 == 4 && OPTIONS_MAX < HIDING as u32 && ROOM < HIDING as usize);

impl Layout {
    #[inline(always)]
    fn set(&mut self, len: u32, found: &Found, flags: u32) {
        let bytes = [len, found.timestamps, found.sack, found.blocks << BLOCKS_SHIFT | flags];
        for (place, byte) in self.0.iter_mut().zip(bytes) {
            // SAFETY: from a reference.
            unsafe { ptr::from_mut(place).write_volatile(byte as u8 | HIDING) };
        }
    }

    #[inline(always)]
    fn byte(&self, index: usize) -> u32 {
        // SAFETY: from a reference.
        u32::from(unsafe { (&raw const self.0[index]).read_volatile() } & !HIDING)
    }

    #[inline(always)]
    fn found(&self) -> Found {
        Found { timestamps: self.byte(1), sack: self.byte(2), blocks: self.byte(3) >> BLOCKS_SHIFT }
    }
}

impl Seen {
    /// Bytes of options.
    #[inline(always)]
    pub fn options_len(&self) -> u32 {
        self.layout.byte(0)
    }

    /// The sum of timestamps that are there alone.
    #[inline(always)]
    pub fn plain_sum(&self) -> Difference {
        Difference::of_words(self.plain_sum)
    }

    /// Whether they are timestamps alone.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.layout.byte(3) & PLAIN != 0
    }
}

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
    seen.segment.sequence = header.sequence();
    seen.segment.acknowledgement = header.acknowledgement();
    seen.segment.payload = segment_len - TCP_HEADER - options_len;
    seen.segment.window = header.window();
    seen.segment.flags = header.flags();
    // Nobody looks at either where there are no timestamps; the verifier knows nothing of these numbers.
    seen.segment.timestamp = header.ports();
    seen.plain_sum = u64::from(header.ports());
    let code = if options_len == 0 {
        seen.layout.set(0, &Found::default(), 0);
        0
    } else {
        read_options(skb, options_at::<V, LINK>(), options_len, seen)
    };
    seen.segment.has_timestamp = seen.layout.byte(3) & TIMESTAMPS == TIMESTAMPS;
    code
}

/// Reads of a segment that begins at an offset, whatever is before it, what says whose it is. All that the frame has behind the header counts as payload;
/// a header that is not there counts as zeros, which acknowledge nothing.
///
/// The verifier goes one way through this, and knows nothing of what comes of it.
#[inline(always)]
pub fn read_at(skb: Skb, at: u32) -> Segment {
    let mut room = MaybeUninit::uninit();
    let header = Tcp(numbers(load_or_zeros(skb, at, &mut room)));
    let begins = at + (header.0[3] >> 28) * 4;
    Segment {
        sequence: header.sequence(),
        acknowledgement: header.acknowledgement(),
        payload: len(skb).wrapping_sub(begins),
        timestamp: header.ports(),
        window: header.window(),
        flags: header.flags(),
        has_timestamp: false,
        checksum: Checksum::Wrong,
    }
}

/// A number below 64, of which the verifier knows no more than that: as in [`Copied::hidden`].
#[inline(always)]
pub fn hidden(number: u32) -> u32 {
    #[repr(C, align(8))]
    struct Hiding([u8; 8]);
    let mut hiding = MaybeUninit::<Hiding>::uninit();
    // SAFETY: within what was just made, and read after it was written.
    unsafe {
        let last = hiding.as_mut_ptr().cast::<u8>().add(7);
        last.write_volatile(number as u8 | ROOM as u8);
        u32::from(last.read_volatile()) & (ROOM as u32 - 1)
    }
}

/// Where options begin.
#[inline(always)]
pub fn options_at<V: Version, const LINK: u32>() -> u32 {
    LINK + V::LEN + TCP_HEADER
}

/// Bytes of timestamps alone.
pub const PLAIN_LEN: u32 = 12;

#[inline(always)]
fn read_options(skb: Skb, at: u32, len: u32, seen: &mut Seen) -> u32 {
    if len == PLAIN_LEN {
        let mut room = MaybeUninit::uninit();
        let Some([kind, value, echo]) = load::<[u32; 3]>(skb, at, &mut room) else {
            return code(Untranslatable::MalformedHeader);
        };
        if u32::from_be(*kind) == PLAIN_TIMESTAMPS {
            seen.segment.timestamp = u32::from_be(*value);
            seen.plain_sum = u64::from(PLAIN_TIMESTAMPS)
                + u64::from(u32::from_be(*value))
                + u64::from(u32::from_be(*echo));
            seen.layout.set(PLAIN_LEN, &Found::default(), TIMESTAMPS | PLAIN);
            return 0;
        }
    }
    look(skb, at, len, seen)
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

/// Looks at options; returns the code of the reason why they cannot be translated, or 0.
#[inline(never)]
fn look(skb: Skb, at: u32, len: u32, seen: &mut Seen) -> u32 {
    let mut room = MaybeUninit::<Copied>::uninit();
    let copied = fill(skb, &mut room);
    let len = copy(skb, at, len, copied);
    if len == 0 {
        return code(Untranslatable::MalformedOptions);
    }
    match options::find(copied, len) {
        Ok(found) => {
            seen.segment.timestamp = options::timestamp(copied, &found);
            seen.layout.set(len, &found, if found.has_timestamps() { TIMESTAMPS } else { 0 });
            0
        }
        // Hidden, too: what comes of a refusal is the same for every reason.
        Err(reason) => copied.hidden(code(reason)),
    }
}

/// Translates options that were looked at, and has the checksum follow; returns 0, or why not.
#[inline(never)]
pub fn rewrite(skb: Skb, at: u32, seen: &Seen, by: &Translation) -> u32 {
    let mut room = MaybeUninit::<Copied>::uninit();
    let copied = fill(skb, &mut room);
    if copy(skb, at, seen.options_len(), copied) == 0 {
        return code(Untranslatable::MalformedOptions);
    }
    let done = options::translate_found(copied, &seen.layout.found(), by);
    write_back(skb, at, &seen.options_len(), copied, done.change)
}

/// Has options of a SYN offer no more than the offer of a word, and the checksum follow; returns 0, or why not.
#[inline(never)]
pub fn reduce(skb: Skb, at: u32, len: u32, word: u32) -> u32 {
    let mut room = MaybeUninit::<Copied>::uninit();
    let copied = fill(skb, &mut room);
    let copied_len = copy(skb, at, len, copied);
    let Some(offer) = Offer::of_word(word) else { return code(Untranslatable::MalformedOptions) };
    if copied_len == 0 {
        return code(Untranslatable::MalformedOptions);
    }
    match offer::reduce(copied, copied_len, offer) {
        Ok(change) => write_back(skb, at, &len, copied, change),
        Err(reason) => code(reason),
    }
}

/// Writes options back that were copied, and has the checksum follow, which is in the last word of the header before; returns 0, or why not.
#[inline(always)]
fn write_back(skb: Skb, at: u32, len: &u32, copied: &Copied, change: Difference) -> u32 {
    let len = bounded(len);
    if len > OPTIONS_MAX {
        return code(Untranslatable::MalformedOptions);
    }
    // SAFETY: the helper changes the packet of this program's own context, of which nothing is held here, and reads less than there is.
    let error = unsafe { bpf_skb_store_bytes(skb, at, copied.0.as_ptr().cast(), len, 0) };
    if error != 0 || !correct(skb, at - 4, change) { NO_MEMORY } else { 0 }
}

/// Copies options of so many bytes; returns how many, or 0 if there are not as many.
#[inline(always)]
fn copy(skb: Skb, at: u32, len: u32, copied: &mut Copied) -> u32 {
    let len = bounded(&len);
    if len > OPTIONS_MAX {
        return 0;
    }
    // SAFETY: the helper reads the packet of this program's own context, and writes less than the room has.
    let error = unsafe { bpf_skb_load_bytes(skb.cast(), at, copied.0.as_mut_ptr().cast(), len) };
    if error == 0 { len } else { 0 }
}

/// A length from 1 to that of the room, read anew, so that the compiler does not know that it is the same, and keeps the comparisons that the
/// verifier wants to see. That of Linux 6.1 does not see that a number is not 0 that was compared with 0: so 0 becomes too much.
#[inline(always)]
fn bounded(len: &u32) -> u32 {
    // SAFETY: from a reference.
    let len = unsafe { ptr::from_ref(len).read_volatile() };
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
