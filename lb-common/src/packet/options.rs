// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP options (RFC 9293 section 3.1): what has to be changed in them, and which there may not be. Of one that is there twice the last is
//! changed, for that is the one that Linux reads (net/ipv4/tcp_input.c, tcp_parse_options).
//!
//! Nearly every packet of a flow has timestamps alone, in the layout of RFC 7323 appendix A: that one is three words, and needs no walk
//! ([`translated_timestamps`]; Linux does the same, net/ipv4/tcp_input.c, tcp_fast_parse_options). All others are walked in a copy.

use super::checksum::Difference;
use super::reason::Untranslatable;
use super::tcp::Translation;

/// Most bytes of options: a header has 60 at most.
pub const OPTIONS_MAX: u32 = 40;

/// Bytes of a copy of options: a power of two, so that a mask keeps every access inside.
pub const ROOM: usize = 64;

/// Two NOPs, and kind and length of timestamps (RFC 7323 appendix A).
pub const PLAIN_TIMESTAMPS: u32 = 0x0101_080a;

const END: u8 = 0;
pub(super) const NO_OPERATION: u8 = 1;
pub(super) const SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;
pub(super) const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
pub(super) const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;
const TCP_AO: u8 = 29;
const MPTCP: u8 = 30;
const FAST_OPEN: u8 = 34;

/// Bytes of an option's kind and length.
pub(super) const OPTION_HEADER: u32 = 2;

/// Bytes of timestamps (RFC 7323 section 3.2).
pub(super) const TIMESTAMPS_LEN: u32 = 10;

/// Bytes of a block of a selective acknowledgement (RFC 2018 section 3).
const BLOCK: u32 = 8;

/// Most blocks of one: more have no room (RFC 2018 section 3).
pub const BLOCKS_MAX: u32 = 4;

/// A copy of the options, behind whatever checks its owner needs. Offsets are from the first option, which is an even one of the header.
pub trait Bytes {
    /// The byte at an offset below [`ROOM`].
    fn load(&self, offset: u32) -> u8;

    /// Changes it.
    fn store(&mut self, offset: u32, byte: u8);

    /// The same number, which is less than [`ROOM`]. An owner that the verifier of BPF programs looks at puts it where the verifier knows nothing of
    /// it, and reads it from there: so ways through a program that differ in that number alone are one to it.
    #[inline(always)]
    fn hidden(&mut self, number: u32) -> u32 {
        number
    }
}

impl Bytes for [u8; ROOM] {
    #[inline(always)]
    fn load(&self, offset: u32) -> u8 {
        self[offset as usize & (ROOM - 1)]
    }

    #[inline(always)]
    fn store(&mut self, offset: u32, byte: u8) {
        self[offset as usize & (ROOM - 1)] = byte;
    }
}

/// What came of a translation.
#[derive(Clone, Copy, Debug)]
pub struct Translated {
    /// By how much the checksum changes.
    pub change: Difference,
    /// TSval as it came, if there was one.
    pub timestamp: u32,
    /// Whether there was one.
    pub has_timestamp: bool,
}

/// Where options are that have to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The offset of timestamps; [`NONE`]: there are none.
    pub timestamps: u32,
    /// The offset of selective acknowledgements, if there are any.
    pub sack: u32,
    /// How many blocks they have, up to [`BLOCKS_MAX`]; 0: there are none.
    pub blocks: u32,
}

/// What [`Found`] has where there are no timestamps: an offset behind all options.
pub const NONE: u32 = ROOM as u32 - 1;

impl Found {
    /// Whether there are timestamps.
    #[inline(always)]
    pub const fn has_timestamps(&self) -> bool {
        self.timestamps != NONE
    }
}

/// Translates options of so many bytes: what [`find`] finds, as [`translate_found`] does it.
///
/// # Errors
///
/// As [`find`]. Nothing is changed then.
#[inline(always)]
pub fn translate<B: Bytes>(bytes: &mut B, len: u32, by: &Translation) -> Result<Translated, Untranslatable> {
    let found = find(bytes, len)?;
    Ok(translate_found(bytes, &found, by))
}

/// Finds what has to be changed in options of so many bytes.
///
/// Each number is hidden as soon as it is known (see [`Bytes::hidden`]): otherwise ways through the walk would be as many as there are places
/// for options, and the verifier of Linux 6.1 follows every one.
///
/// # Errors
///
/// There is one that cannot be translated, or they break the grammar.
#[inline(always)]
pub fn find<B: Bytes>(bytes: &mut B, len: u32) -> Result<Found, Untranslatable> {
    let (timestamps, sack, blocks) = (bytes.hidden(NONE), bytes.hidden(NONE), bytes.hidden(0));
    let mut found = Found { timestamps, sack, blocks };
    walk(bytes, len, |bytes, at, kind, option_len| {
        if kind == TIMESTAMPS {
            found.timestamps = bytes.hidden(at);
        } else if kind == SACK {
            (found.sack, found.blocks) = (bytes.hidden(at), bytes.hidden(option_len / BLOCK));
        }
    })?;
    Ok(found)
}

/// TSval, where timestamps were found.
#[inline(always)]
pub fn timestamp(bytes: &impl Bytes, found: &Found) -> u32 {
    load_word(bytes, found.timestamps + OPTION_HEADER)
}

/// Translates timestamps, and the edges of selective acknowledgements. The first block may be that of a duplicate (RFC 2883); its edges are
/// numbers of the same kind. Nothing is changed by a [`Translation`] of zeros, which only looks.
#[inline(always)]
pub fn translate_found<B: Bytes>(bytes: &mut B, found: &Found, by: &Translation) -> Translated {
    let mut done = Translated { change: Difference::NONE, timestamp: 0, has_timestamp: false };
    if found.has_timestamps() {
        done.timestamp = timestamp(bytes, found);
        done.has_timestamp = true;
        done.change = translate_timestamps(bytes, found.timestamps + OPTION_HEADER, by);
    }
    for block in 0..BLOCKS_MAX {
        if block < found.blocks {
            let at = found.sack + OPTION_HEADER + block * BLOCK;
            let edges = add(bytes, at, by.acknowledgement_add);
            done.change = done.change.and(edges).and(add(bytes, at + 4, by.acknowledgement_add));
        }
    }
    done
}

/// Does something at each offset below [`OPTIONS_MAX`], written out. In a loop the verifier of BPF programs hardly notices that ways come to the
/// same (kernel/bpf/verifier.c, is_state_visited), and would follow each by itself.
macro_rules! at_each_offset {
    ($at:ident => $what:block) => {
        at_each_offset!(@ $at $what 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
        at_each_offset!(@ $at $what 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
    };
    (@ $at:ident $what:block $($offset:literal)+) => { $({ let $at: u32 = $offset; $what })+ };
}

/// Visits each option: where it is, its kind and its length, which is right for the kind. What comes after an end of options is padding.
///
/// It goes from byte to byte, and looks closer where an option begins. So whatever the bytes are, it ends, and every access is at an offset that
/// the verifier of BPF programs knows.
#[inline(always)]
pub(super) fn walk<B: Bytes>(
    bytes: &mut B,
    len: u32,
    mut visit: impl FnMut(&mut B, u32, u8, u32),
) -> Result<(), Untranslatable> {
    let mut next = bytes.hidden(0);
    at_each_offset!(at => {
        let len = bytes.hidden(len);
        if at >= len {
            return Ok(());
        }
        if at == next {
            let kind = bytes.load(at);
            if kind == END {
                return Ok(());
            }
            next = bytes.hidden(at + 1);
            if kind != NO_OPERATION {
                // Where nothing follows the kind, no length fits.
                let option_len = bytes.load(at + 1) as u32;
                if option_len < OPTION_HEADER || option_len > len - at {
                    return Err(Untranslatable::MalformedOptions);
                }
                check(kind, option_len)?;
                visit(bytes, at, kind, option_len);
                // Read anew: where the visit has put NOPs, they lead on to the same place.
                next = bytes.hidden(at + bytes.load(at + 1) as u32);
            }
        }
    });
    if next < len { Err(Untranslatable::MalformedOptions) } else { Ok(()) }
}

/// Whether an option may be there, with this length.
#[inline(always)]
const fn check(kind: u8, len: u32) -> Result<(), Untranslatable> {
    let is_well_formed = match kind {
        SEGMENT_SIZE => len == 4,
        WINDOW_SCALE => len == 3,
        SACK_PERMITTED => len == OPTION_HEADER,
        TIMESTAMPS => len == TIMESTAMPS_LEN,
        SACK => len % BLOCK == OPTION_HEADER && len > BLOCK,
        _ => return Err(refusal(kind)),
    };
    if is_well_formed { Ok(()) } else { Err(Untranslatable::MalformedOptions) }
}

/// The options of a segment with timestamps alone, translated, and by how much the checksum changes. They begin with [`PLAIN_TIMESTAMPS`].
///
/// A TSecr of 0 stays: it says that there is none (RFC 7323 section 3.2; net/ipv4/tcp_input.c takes no time from it).
#[inline(always)]
pub const fn translated_timestamps(words: [u32; 3], by: &Translation) -> ([u32; 3], Difference) {
    let [header, value, echo] = words;
    let new_value = value.wrapping_add(by.timestamp_add);
    let new_echo = if echo == 0 { 0 } else { echo.wrapping_add(by.echo_add) };
    let change = Difference::NONE.word(value, new_value).word(echo, new_echo);
    ([header, new_value, new_echo], change)
}

/// Why an option of this kind cannot be translated (the registry "TCP Option Kind Numbers").
#[inline(always)]
const fn refusal(kind: u8) -> Untranslatable {
    match kind {
        MD5 => Untranslatable::Md5Signature,
        TCP_AO => Untranslatable::TcpAo,
        MPTCP => Untranslatable::Mptcp,
        FAST_OPEN => Untranslatable::FastOpen,
        253 | 254 => Untranslatable::ExperimentalOption,
        _ => Untranslatable::UnknownOption,
    }
}

/// Translates TSval and TSecr; see [`translated_timestamps`].
#[inline(always)]
fn translate_timestamps(bytes: &mut impl Bytes, at: u32, by: &Translation) -> Difference {
    let change = add(bytes, at, by.timestamp_add);
    if load_word(bytes, at + 4) == 0 {
        return change;
    }
    change.and(add(bytes, at + 4, by.echo_add))
}

/// Adds to a word, and returns by how much the checksum changes.
#[inline(always)]
fn add(bytes: &mut impl Bytes, at: u32, addend: u32) -> Difference {
    let old = load_word(bytes, at);
    let new = old.wrapping_add(addend);
    let [a, b, c, d] = new.to_be_bytes();
    bytes.store(at, a);
    bytes.store(at + 1, b);
    bytes.store(at + 2, c);
    bytes.store(at + 3, d);
    Difference::word_at(at, old, new)
}

#[inline(always)]
fn load_word(bytes: &impl Bytes, at: u32) -> u32 {
    let next = |offset: u32| bytes.load(at + offset);
    u32::from_be_bytes([next(0), next(1), next(2), next(3)])
}
