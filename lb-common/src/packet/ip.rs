// SPDX-License-Identifier: MIT OR Apache-2.0
//! IP headers: what can be translated, where the segment ends, and the translation.
//!
//! The end of a segment is what the IP header says, for Ethernet pads short frames (IEEE 802.3 clause 4.2.3.3). Where the header
//! has no room for the length, because the kernel has merged more than 64 KiB (BIG TCP: include/linux/ip.h, iph_totlen), it says 0, and the
//! end is that of the frame. For IPv6 a hop-by-hop header then stands before TCP (net/ipv6/ip6_offload.c, ipv6_gro_complete), and the
//! packet is refused like any other with one: an interface's `gro_ipv6_max_size` beyond 65536 is not for this path.

use super::checksum::{Changes, Difference};
use super::reason::Untranslatable;

/// Bytes of an IPv4 header without options (RFC 791 section 3.1).
pub const IPV4_HEADER: u32 = 20;

/// Bytes of an IPv6 header (RFC 8200 section 3).
pub const IPV6_HEADER: u32 = 40;

/// The protocol number of TCP (RFC 9293 section 3.1).
pub const TCP: u32 = 6;

/// The protocol number of fragments in IPv6 (RFC 8200 section 4.5).
pub const FRAGMENT: u32 = 44;

/// More fragments follow, or the offset is not 0, in the second word (RFC 791 section 3.1).
const FRAGMENT_MASK: u32 = 0x3fff;

/// The offset alone (RFC 791 section 3.1); in IPv6, in the first word of the fragment's header (RFC 8200 section 4.5).
const FRAGMENT_OFFSET: u32 = 0x1fff;
const FRAGMENT_OFFSET_V6: u32 = 0xfff8;

/// The protocol number of ICMP, and that of ICMPv6 (RFC 792, RFC 4443 section 1).
pub const ICMP: u32 = 1;
/// See [`ICMP`].
pub const ICMP_V6: u32 = 58;

/// How many extension headers may stand before TCP in a packet whose flow is looked for.
pub const EXTENSIONS_MAX: u32 = 4;

/// Two that have no length in units of 8 bytes: security payload, of which nothing can be read, and authentication (RFC 4302 section 2.2).
const SECURITY: u32 = 50;
const AUTHENTICATION: u32 = 51;

/// An IPv4 header without options, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4(pub [u32; 5]);

/// An IPv6 header, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6(pub [u32; 10]);

/// From whom and to whom a packet goes once it is translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses<A> {
    /// The balancer's, towards the other end.
    pub source: A,
    /// The other end's.
    pub destination: A,
}

impl Ipv4 {
    /// The length of the TCP segment, header included, in bytes, of a packet that has so many bytes from the IP header on.
    ///
    /// # Errors
    ///
    /// It cannot be translated.
    #[inline(always)]
    pub const fn segment_len(&self, available: u32) -> Result<u32, Untranslatable> {
        match self.check() {
            Ok(()) => self.payload_len(available),
            Err(reason) => Err(reason),
        }
    }

    /// Bytes behind the header, whatever they are, likewise.
    ///
    /// # Errors
    ///
    /// [`Untranslatable::MalformedHeader`]: there are not as many as it says.
    #[inline(always)]
    pub const fn payload_len(&self, available: u32) -> Result<u32, Untranslatable> {
        let total = self.0[0] & 0xffff;
        let total = if total == 0 { available } else { total };
        if total < IPV4_HEADER || total > available {
            return Err(Untranslatable::MalformedHeader);
        }
        Ok(total - IPV4_HEADER)
    }

    /// The sum of the header that TCP's checksum has in front of a segment of so many bytes (RFC 9293 section 3.1).
    #[inline(always)]
    pub const fn pseudo(&self, segment_len: u32) -> Difference {
        Difference::NONE.plus(self.0[3]).plus(self.0[4]).plus(TCP).plus(segment_len)
    }

    /// Whether TCP begins behind the header. All that can be said of a header that is quoted, for not all of its packet is.
    ///
    /// # Errors
    ///
    /// It cannot be translated.
    #[inline(always)]
    pub const fn check(&self) -> Result<(), Untranslatable> {
        self.carries(TCP)
    }

    /// Likewise for another protocol, by its number.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    #[inline(always)]
    pub const fn carries(&self, protocol: u32) -> Result<(), Untranslatable> {
        let [first, second, third, ..] = self.0;
        let words = first >> 24 & 0xf;
        if first >> 28 != 4 || words < IPV4_HEADER / 4 {
            return Err(Untranslatable::MalformedHeader);
        }
        if words != IPV4_HEADER / 4 {
            return Err(Untranslatable::IpOptions);
        }
        if second & FRAGMENT_MASK != 0 {
            return Err(Untranslatable::Fragment);
        }
        if third >> 16 & 0xff != protocol {
            return Err(Untranslatable::NotTcp);
        }
        Ok(())
    }

    /// Bytes of a header that may have options, if the ports of TCP are behind it: they are not in a fragment but the first.
    #[inline(always)]
    pub const fn bytes_before_tcp(&self) -> Option<u32> {
        let [first, second, third, ..] = self.0;
        let len = (first >> 24 & 0xf) * 4;
        let is_it = len >= IPV4_HEADER && second & FRAGMENT_OFFSET == 0 && third >> 16 & 0xff == TCP;
        if is_it { Some(len) } else { None }
    }

    /// The header for the other end, its checksum corrected, and what TCP's checksum has to follow.
    ///
    /// # Errors
    ///
    /// [`Untranslatable::HopLimit`].
    #[inline(always)]
    pub const fn translated(self, to: &Addresses<u32>) -> Result<(Self, Changes), Untranslatable> {
        let [first, second, third, ..] = self.0;
        if third >> 24 <= 1 {
            return Err(Untranslatable::HopLimit);
        }
        let hop = third - (1 << 24);
        let (addressed, pseudo) = Self([first, second, hop, self.0[3], self.0[4]]).addressed(to);
        let checksum = Difference::NONE.word(third >> 16, hop >> 16).applied(addressed.0[2] as u16);
        let third = addressed.0[2] & 0xffff_0000 | checksum as u32;
        let header = Self([first, second, third, to.source, to.destination]);
        Ok((header, Changes { tcp: Difference::NONE, pseudo, uncovered: Difference::NONE }))
    }

    /// The header with other addresses, its checksum corrected; and what the addresses have changed.
    #[inline(always)]
    pub const fn addressed(self, to: &Addresses<u32>) -> (Self, Difference) {
        let [first, second, third, source, destination] = self.0;
        let change = Difference::NONE.word(source, to.source).word(destination, to.destination);
        let third = third & 0xffff_0000 | change.applied(third as u16) as u32;
        (Self([first, second, third, to.source, to.destination]), change)
    }
}

impl Ipv6 {
    /// As [`Ipv4::segment_len`].
    ///
    /// # Errors
    ///
    /// It cannot be translated.
    #[inline(always)]
    pub const fn segment_len(&self, available: u32) -> Result<u32, Untranslatable> {
        match self.check() {
            Ok(()) => self.payload_len(available),
            Err(reason) => Err(reason),
        }
    }

    /// As [`Ipv4::payload_len`].
    ///
    /// # Errors
    ///
    /// [`Untranslatable::MalformedHeader`]: there are not as many as it says.
    #[inline(always)]
    pub const fn payload_len(&self, available: u32) -> Result<u32, Untranslatable> {
        if available < IPV6_HEADER {
            return Err(Untranslatable::MalformedHeader);
        }
        let (room, payload) = (available - IPV6_HEADER, self.0[1] >> 16);
        let payload = if payload == 0 { room } else { payload };
        if payload > room {
            return Err(Untranslatable::MalformedHeader);
        }
        Ok(payload)
    }

    /// As [`Ipv4::pseudo`] (RFC 8200 section 8.1).
    #[inline(always)]
    pub const fn pseudo(&self, segment_len: u32) -> Difference {
        let [_, _, a, b, c, d, e, f, g, h] = self.0;
        let source = Difference::NONE.plus(a).plus(b).plus(c).plus(d);
        source.plus(e).plus(f).plus(g).plus(h).plus(TCP).plus(segment_len)
    }

    /// As [`Ipv4::check`]. An extension header is not looked behind.
    ///
    /// # Errors
    ///
    /// It cannot be translated.
    #[inline(always)]
    pub const fn check(&self) -> Result<(), Untranslatable> {
        self.carries(TCP)
    }

    /// As [`Ipv4::carries`].
    ///
    /// # Errors
    ///
    /// It cannot be translated.
    #[inline(always)]
    pub const fn carries(&self, protocol: u32) -> Result<(), Untranslatable> {
        let [first, second, ..] = self.0;
        if first >> 28 != 6 {
            return Err(Untranslatable::MalformedHeader);
        }
        match second >> 8 & 0xff {
            next if next == protocol => Ok(()),
            FRAGMENT => Err(Untranslatable::Fragment),
            next if is_extension(next) => Err(Untranslatable::ExtensionHeader),
            _ => Err(Untranslatable::NotTcp),
        }
    }

    /// As [`Ipv4::translated`].
    ///
    /// # Errors
    ///
    /// [`Untranslatable::HopLimit`].
    #[inline(always)]
    pub const fn translated(self, to: &Addresses<[u32; 4]>) -> Result<(Self, Changes), Untranslatable> {
        let second = self.0[1];
        if second & 0xff <= 1 {
            return Err(Untranslatable::HopLimit);
        }
        let (addressed, pseudo) = self.addressed(to);
        let mut words = addressed.0;
        words[1] = second - 1;
        let uncovered = Difference::NONE.word(second, second - 1);
        Ok((Self(words), Changes { tcp: Difference::NONE, pseudo, uncovered }))
    }

    /// The header with other addresses, and what they have changed.
    #[inline(always)]
    pub const fn addressed(self, to: &Addresses<[u32; 4]>) -> (Self, Difference) {
        let [first, second, a, b, c, d, e, f, g, h] = self.0;
        let ([i, j, k, l], [m, n, o, p]) = (to.source, to.destination);
        let source = Difference::NONE.word(a, i).word(b, j).word(c, k).word(d, l);
        let change = source.word(e, m).word(f, n).word(g, o).word(h, p);
        (Self([first, second, i, j, k, l, m, n, o, p]), change)
    }
}

/// Bytes of an extension header of IPv6, from its kind and its first word (RFC 8200 section 4). `None`: it is none, or the ports of TCP
/// cannot be behind it.
#[inline(always)]
pub const fn extension_len(kind: u32, first: u32) -> Option<u32> {
    let units = first >> 16 & 0xff;
    match kind {
        FRAGMENT if first & FRAGMENT_OFFSET_V6 == 0 => Some(8),
        FRAGMENT | SECURITY => None,
        AUTHENTICATION => Some((units + 2) * 4),
        kind if is_extension(kind) => Some((units + 1) * 8),
        _ => None,
    }
}

/// Whether a protocol number is that of an extension header: hop-by-hop, routing, encapsulating security, authentication, destination,
/// mobility, host identity, shim6 (the registry "IPv6 Extension Header Types", RFC 7045 section 4).
#[inline(always)]
pub const fn is_extension(next: u32) -> bool {
    matches!(next, 0 | 43 | 50 | 51 | 60 | 135 | 139 | 140)
}
