// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! In what packets of the two versions of IP differ. Programs are made of the same functions for both.

use core::mem::MaybeUninit;

use lb_common::packet::checksum::{Changes, Difference};
use lb_common::packet::icmp::{check_type_v4, check_type_v6};
use lb_common::packet::ip::{
    Addresses, EXTENSIONS_MAX, FRAGMENT, ICMP, ICMP_V6, IPV4_HEADER, IPV6_HEADER, Ipv4, Ipv6, TCP,
    extension_len, is_extension,
};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::{Key, V4, V6, v4_mapped};
use lb_common::packet::tcp::Tcp;
use lb_common::packet::too_big;

use super::skb::{Plain, Skb, load};

/// What a packet has behind its IP header, as far as that says.
pub enum Kind {
    /// TCP.
    Segment,
    /// ICMP.
    Message,
    /// Perhaps TCP, behind something that is not for this path.
    Hidden,
    /// Anything else.
    Other,
}

/// A header of one version, in numbers.
pub trait Version: Copy {
    /// Its bytes.
    const LEN: u32;
    /// Where the word begins that has the protocol's number.
    const PROTOCOL_WORD: u32;
    /// Its words as they lie in the packet.
    type Words: Plain;
    /// The headers of IP and ICMP, likewise.
    type Message: Plain;

    /// What is behind a header with such a word.
    fn kind(word: u32) -> Kind;
    /// From its words.
    fn read(words: &Self::Words) -> Self;
    /// To its words.
    fn write(self, words: &mut Self::Words);
    /// Whether TCP begins behind it.
    fn check(&self) -> Result<(), Untranslatable>;
    /// Whether ICMP does.
    fn check_message(&self) -> Result<(), Untranslatable>;
    /// Whether a message of this type is an error.
    fn check_type(kind: u8) -> Result<(), Untranslatable>;
    /// Bytes behind it, of so many from its beginning on.
    fn payload_len(&self, available: u32) -> Result<u32, Untranslatable>;
    /// The sum of the header that TCP's checksum has in front of a segment of so many bytes.
    fn pseudo(&self, segment_len: u32) -> Difference;
    /// By what the packets of its connection are known, if it came in.
    fn key(&self, ports: u32) -> Key;
    /// The header for the other end.
    fn translated(self, to: &Addresses<[u32; 4]>) -> Result<(Self, Changes), Untranslatable>;
    /// The header with other addresses, and nothing else changed.
    fn addressed(self, to: &Addresses<[u32; 4]>) -> (Self, Difference);
    /// What TCP's checksum, and that of an ICMP message about the header, do not make up for in the sum of all bytes.
    fn in_sum(changes: &Changes) -> Option<Difference>;
    /// What the checksum of an ICMP message follows, of what was changed in its own addresses and those of the header that it quotes.
    fn in_message(change: Difference) -> Difference;
    /// What goes in front of its own headers, to tell who sent it that it is too large.
    fn too_big(self, tcp: Tcp, mtu: u32) -> Self::Message;
    /// Where TCP begins, behind whatever is there, from the header on, which begins at an offset; 0: nowhere, or in another fragment.
    fn find_tcp(&self, skb: Skb, offset: u32) -> u32;
}

/// Header words of TCP, likewise.
#[inline(always)]
pub fn numbers(words: &[u32; 5]) -> [u32; 5] {
    let [a, b, c, d, e] = *words;
    [u32::from_be(a), u32::from_be(b), u32::from_be(c), u32::from_be(d), u32::from_be(e)]
}

/// The other way round.
#[inline(always)]
pub fn words(numbers: [u32; 5]) -> [u32; 5] {
    let [a, b, c, d, e] = numbers;
    [a.to_be(), b.to_be(), c.to_be(), d.to_be(), e.to_be()]
}

#[inline(always)]
fn short(addresses: &Addresses<[u32; 4]>) -> Addresses<u32> {
    Addresses { source: addresses.source[3], destination: addresses.destination[3] }
}

impl Version for Ipv4 {
    const LEN: u32 = IPV4_HEADER;
    const PROTOCOL_WORD: u32 = 8;
    type Words = [u32; 5];
    type Message = [u32; 7];

    #[inline(always)]
    fn kind(word: u32) -> Kind {
        match word >> 16 & 0xff {
            TCP => Kind::Segment,
            ICMP => Kind::Message,
            _ => Kind::Other,
        }
    }

    #[inline(always)]
    fn read(words: &[u32; 5]) -> Self {
        Self(numbers(words))
    }

    #[inline(always)]
    fn write(self, words: &mut [u32; 5]) {
        *words = self::words(self.0);
    }

    #[inline(always)]
    fn check(&self) -> Result<(), Untranslatable> {
        self.check()
    }

    #[inline(always)]
    fn check_message(&self) -> Result<(), Untranslatable> {
        self.carries(ICMP)
    }

    #[inline(always)]
    fn check_type(kind: u8) -> Result<(), Untranslatable> {
        check_type_v4(kind)
    }

    #[inline(always)]
    fn payload_len(&self, available: u32) -> Result<u32, Untranslatable> {
        self.payload_len(available)
    }

    #[inline(always)]
    fn pseudo(&self, segment_len: u32) -> Difference {
        self.pseudo(segment_len)
    }

    #[inline(always)]
    fn key(&self, ports: u32) -> Key {
        let (remote, local) = (v4_mapped(self.0[3]), v4_mapped(self.0[4]));
        Key { remote, local, ports, family: V4 }
    }

    #[inline(always)]
    fn translated(self, to: &Addresses<[u32; 4]>) -> Result<(Self, Changes), Untranslatable> {
        self.translated(&short(to))
    }

    #[inline(always)]
    fn addressed(self, to: &Addresses<[u32; 4]>) -> (Self, Difference) {
        self.addressed(&short(to))
    }

    #[inline(always)]
    fn in_sum(_changes: &Changes) -> Option<Difference> {
        None
    }

    #[inline(always)]
    fn in_message(_change: Difference) -> Difference {
        Difference::NONE
    }

    #[inline(always)]
    fn too_big(self, tcp: Tcp, mtu: u32) -> [u32; 7] {
        too_big::ipv4(self, tcp, mtu).map(u32::to_be)
    }

    #[inline(always)]
    fn find_tcp(&self, _skb: Skb, offset: u32) -> u32 {
        match self.bytes_before_tcp() {
            Some(len) => offset + len,
            None => 0,
        }
    }
}

impl Version for Ipv6 {
    const LEN: u32 = IPV6_HEADER;
    const PROTOCOL_WORD: u32 = 4;
    type Words = [u32; 10];
    type Message = [u32; 12];

    #[inline(always)]
    fn kind(word: u32) -> Kind {
        match word >> 8 & 0xff {
            TCP => Kind::Segment,
            ICMP_V6 => Kind::Message,
            FRAGMENT => Kind::Hidden,
            next if is_extension(next) => Kind::Hidden,
            _ => Kind::Other,
        }
    }

    #[inline(always)]
    fn read(words: &[u32; 10]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j] = *words;
        let ([a, b, c, d, e], [f, g, h, i, j]) = (numbers(&[a, b, c, d, e]), numbers(&[f, g, h, i, j]));
        Self([a, b, c, d, e, f, g, h, i, j])
    }

    #[inline(always)]
    fn write(self, words: &mut [u32; 10]) {
        let [a, b, c, d, e, f, g, h, i, j] = self.0;
        let ([a, b, c, d, e], [f, g, h, i, j]) = (self::words([a, b, c, d, e]), self::words([f, g, h, i, j]));
        *words = [a, b, c, d, e, f, g, h, i, j];
    }

    #[inline(always)]
    fn check(&self) -> Result<(), Untranslatable> {
        self.check()
    }

    #[inline(always)]
    fn check_message(&self) -> Result<(), Untranslatable> {
        self.carries(ICMP_V6)
    }

    #[inline(always)]
    fn check_type(kind: u8) -> Result<(), Untranslatable> {
        check_type_v6(kind)
    }

    #[inline(always)]
    fn payload_len(&self, available: u32) -> Result<u32, Untranslatable> {
        self.payload_len(available)
    }

    #[inline(always)]
    fn pseudo(&self, segment_len: u32) -> Difference {
        self.pseudo(segment_len)
    }

    #[inline(always)]
    fn key(&self, ports: u32) -> Key {
        let [_, _, a, b, c, d, e, f, g, h] = self.0;
        Key { remote: [a, b, c, d], local: [e, f, g, h], ports, family: V6 }
    }

    #[inline(always)]
    fn translated(self, to: &Addresses<[u32; 4]>) -> Result<(Self, Changes), Untranslatable> {
        self.translated(to)
    }

    #[inline(always)]
    fn addressed(self, to: &Addresses<[u32; 4]>) -> (Self, Difference) {
        self.addressed(to)
    }

    /// Taking back, for every kernel, what [`super::skb::correct_pseudo`] adds too much: see [`lb_common::packet::checksum`]. That spares
    /// to ask which kernel knows BPF_F_IPV6, and no call more, for the hop limit needs one anyway.
    #[inline(always)]
    fn in_sum(changes: &Changes) -> Option<Difference> {
        Some(changes.pseudo.and(changes.uncovered))
    }

    #[inline(always)]
    fn in_message(change: Difference) -> Difference {
        change
    }

    #[inline(always)]
    fn too_big(self, tcp: Tcp, mtu: u32) -> [u32; 12] {
        too_big::ipv6(self, tcp, mtu).map(u32::to_be)
    }

    #[inline(always)]
    fn find_tcp(&self, skb: Skb, offset: u32) -> u32 {
        let (mut kind, mut at) = (self.0[1] >> 8 & 0xff, offset + IPV6_HEADER);
        for _ in 0..EXTENSIONS_MAX {
            if kind == TCP {
                return at;
            }
            let mut room = MaybeUninit::uninit();
            let Some([word]) = load::<[u32; 1]>(skb, at, &mut room) else { return 0 };
            let first = u32::from_be(*word);
            let Some(len) = extension_len(kind, first) else { return 0 };
            (kind, at) = (first >> 24, at + len);
        }
        if kind == TCP { at } else { 0 }
    }
}
