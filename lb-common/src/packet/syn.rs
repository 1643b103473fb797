// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the two connections of a flow have to agree in before they can become one, and the sizes of segments.

use super::ip::{IPV4_HEADER, IPV6_HEADER};
use super::reason::Untranslatable;
use super::tcp::TCP_HEADER;

/// The least that Linux takes for a segment size (include/net/tcp.h, TCP_MIN_MSS).
const SEGMENT_SIZE_MIN: u32 = 88;

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// One connection of a flow, as its handshake has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Both ends speak it.
    pub family: Family,
    /// Whether timestamps are in use (RFC 7323 section 3.2).
    pub has_timestamps: bool,
    /// Whether selective acknowledgements are (RFC 2018 section 2).
    pub has_sack: bool,
    /// Whether ECN is (RFC 3168 section 6.1.1).
    pub has_ecn: bool,
    /// The largest segment that the balancer has announced to the end, in bytes of payload and options.
    pub announced: u16,
    /// The largest segment that the end takes: what its SYN says, or else 536 bytes (IPv4) or 1,220 (IPv6; RFC 9293 section 3.7.1); and no more than the way to it.
    pub accepted: u16,
}

/// Whether two connections can become one.
///
/// # Errors
///
/// In what they differ.
pub const fn agree(client: &Leg, server: &Leg) -> Result<(), Untranslatable> {
    if client.family as u8 != server.family as u8 {
        return Err(Untranslatable::FamiliesDiffer);
    }
    if client.has_timestamps != server.has_timestamps {
        return Err(Untranslatable::TimestampsDiffer);
    }
    if client.has_sack != server.has_sack {
        return Err(Untranslatable::SackDiffers);
    }
    if client.has_ecn != server.has_ecn {
        return Err(Untranslatable::EcnDiffers);
    }
    if client.announced > server.accepted || server.announced > client.accepted {
        return Err(Untranslatable::SegmentSize);
    }
    Ok(())
}

/// The largest segment that fits into packets of so many bytes: both headers without options are taken off, and whoever sends options
/// sends less payload (RFC 6691 section 2).
pub const fn segment_size(mtu: u32, family: Family) -> u16 {
    let headers = match family {
        Family::V4 => IPV4_HEADER + TCP_HEADER,
        Family::V6 => IPV6_HEADER + TCP_HEADER,
    };
    let size = mtu.saturating_sub(headers);
    if size < SEGMENT_SIZE_MIN {
        SEGMENT_SIZE_MIN as u16
    } else if size > u16::MAX as u32 {
        u16::MAX
    } else {
        size as u16
    }
}
