// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the balancer's SYN offers a server: nothing that the connection with the client has not got, for what is not offered cannot be agreed on
//! (RFC 7323 section 3.2, RFC 2018 section 2, RFC 3168 section 6.1.1). So a client without timestamps, say, and a server that has them become one flow
//! all the same. The kernel offers what its sysctls say, the same for all; so a program takes out of the SYN what is too much.
//!
//! The scale of windows may stay, for windows are converted.

use super::checksum::Difference;
use super::options::{
    Bytes, NO_OPERATION, NONE, OPTION_HEADER, SACK_PERMITTED, SEGMENT_SIZE, TIMESTAMPS, TIMESTAMPS_LEN, walk,
};
use super::reason::Untranslatable;

/// What a SYN may offer at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Timestamps (RFC 7323 section 3.2).
    pub has_timestamps: bool,
    /// Selective acknowledgements (RFC 2018 section 2).
    pub has_sack: bool,
    /// ECN (RFC 3168 section 6.1.1), also the accurate one (RFC 9768 section 3.1.1).
    pub has_ecn: bool,
    /// The largest segment that the client takes, in bytes of payload and options (RFC 9293 section 3.7.1).
    pub segment_size: u16,
}

/// Set in a word that is an offer: no place has it, for there are fewer.
const IS_OFFER: u32 = 1 << 31;
/// Set by the program that has changed the SYN.
const IS_HEEDED: u32 = 1 << 30;
const HAS_TIMESTAMPS: u32 = 1 << 16;
const HAS_SACK: u32 = 1 << 17;
const HAS_ECN: u32 = 1 << 18;

impl Offer {
    /// As it stands in the map in which places do.
    pub const fn word(self) -> u32 {
        let timestamps = if self.has_timestamps { HAS_TIMESTAMPS } else { 0 };
        let sack = if self.has_sack { HAS_SACK } else { 0 };
        let ecn = if self.has_ecn { HAS_ECN } else { 0 };
        IS_OFFER | timestamps | sack | ecn | self.segment_size as u32
    }

    /// The offer of a word; `None`: it is a place, or nothing.
    #[inline(always)]
    pub const fn of_word(word: u32) -> Option<Self> {
        if word & IS_OFFER == 0 || word == u32::MAX {
            return None;
        }
        Some(Self {
            has_timestamps: word & HAS_TIMESTAMPS != 0,
            has_sack: word & HAS_SACK != 0,
            has_ecn: word & HAS_ECN != 0,
            segment_size: word as u16,
        })
    }
}

/// The word of an offer, once a SYN has gone out that offers no more.
#[inline(always)]
pub const fn heeded(word: u32) -> u32 {
    word | IS_HEEDED
}

/// Whether a SYN has gone out that offers no more.
pub const fn is_heeded(word: u32) -> bool {
    word & IS_HEEDED != 0
}

/// Where a SYN has options that an offer is about.
struct Offered {
    timestamps: u32,
    sack_permitted: u32,
    segment_size: u32,
}

/// Makes options of a SYN, of so many bytes, those of an offer, and returns by how much the checksum changes. What goes makes place for NOPs, so that the
/// header keeps its length; a segment size that is larger becomes that of the offer.
///
/// # Errors
///
/// They break the grammar, or one of them is not known here. Nothing is changed then.
#[inline(always)]
pub fn reduce<B: Bytes>(bytes: &mut B, len: u32, offer: Offer) -> Result<Difference, Untranslatable> {
    let offered = look(bytes, len)?;
    let mut change = Difference::NONE;
    if offered.timestamps != NONE && !offer.has_timestamps {
        for offset in 0..TIMESTAMPS_LEN {
            change = change.and(put(bytes, offered.timestamps + offset, NO_OPERATION));
        }
    }
    if offered.sack_permitted != NONE && !offer.has_sack {
        for offset in 0..OPTION_HEADER {
            change = change.and(put(bytes, offered.sack_permitted + offset, NO_OPERATION));
        }
    }
    if offered.segment_size != NONE {
        let at = offered.segment_size + OPTION_HEADER;
        let [high, low] = offer.segment_size.to_be_bytes();
        if u16::from_be_bytes([bytes.load(at), bytes.load(at + 1)]) > offer.segment_size {
            change = change.and(put(bytes, at, high)).and(put(bytes, at + 1, low));
        }
    }
    Ok(change)
}

/// Finds them. What is found is hidden at once: see [`super::options::find`].
#[inline(always)]
fn look<B: Bytes>(bytes: &mut B, len: u32) -> Result<Offered, Untranslatable> {
    let (timestamps, sack_permitted, segment_size) =
        (bytes.hidden(NONE), bytes.hidden(NONE), bytes.hidden(NONE));
    let mut offered = Offered { timestamps, sack_permitted, segment_size };
    walk(bytes, len, |bytes, at, kind, _| {
        if kind == TIMESTAMPS {
            offered.timestamps = bytes.hidden(at);
        } else if kind == SACK_PERMITTED {
            offered.sack_permitted = bytes.hidden(at);
        } else if kind == SEGMENT_SIZE {
            offered.segment_size = bytes.hidden(at);
        }
    })?;
    Ok(offered)
}

/// Changes a byte, and returns by how much the checksum changes; without asking whether the offset is an even one.
#[inline(always)]
fn put(bytes: &mut impl Bytes, at: u32, new: u8) -> Difference {
    let old = bytes.load(at);
    bytes.store(at, new);
    Difference::word_at(at, (old as u32) << 24, (new as u32) << 24)
}
