// SPDX-License-Identifier: MIT OR Apache-2.0
//! ICMP errors about a packet of a flow. A router sends them to the source of the packet that it could not pass on, and that is the
//! balancer. They are for the end that sent the packet first, and must quote it as that end knows it (RFC 5508 section 4.2, for NAT).
//!
//! To be changed are the addresses of the message itself (to: the end; from: the balancer, which the end knows), the addresses of the
//! quoted packet, its ports and its number: the ends look for the connection by the first, and take an error for a forged one whose number
//! is not on its way (RFC 5927 section 4.1; net/ipv4/tcp_ipv4.c, tcp_v4_err). A router quotes 8 bytes of TCP at least (RFC 792); if it
//! quotes more, the acknowledgement is changed too, and the checksum follows what was changed. Quoted hop limit, window and options stay: the
//! first is what the router saw, and nobody looks at the others.
//!
//! The MTU of a "fragmentation needed" (RFC 1191 section 4) or "packet too big" (RFC 4443 section 3.2) stays as well: the headers are as long on
//! one leg as on the other. No such message changes the state of a flow; what becomes of it is the end's business (RFC 9293
//! section 3.9.2.2).

use super::checksum::Difference;
use super::ip::Addresses;
use super::reason::Untranslatable;
use super::tcp::{ACK, TCP_HEADER, Tcp, Translation};

/// Bytes before the quoted packet: type, code, checksum and a word (RFC 792, RFC 4443 section 3).
pub const ICMP_HEADER: u32 = 8;

/// Bytes that are quoted of TCP, at least (RFC 792).
pub const QUOTED_MIN: u32 = 8;

/// Whether an ICMP message of this type is passed on: destination unreachable, time exceeded, parameter problem (RFC 792).
///
/// # Errors
///
/// [`Untranslatable::IcmpNotError`]: neither a query nor a redirect concerns the ends of a flow.
#[inline(always)]
pub const fn check_type_v4(kind: u8) -> Result<(), Untranslatable> {
    if matches!(kind, 3 | 11 | 12) { Ok(()) } else { Err(Untranslatable::IcmpNotError) }
}

/// The same for ICMPv6: unreachable, too big, time exceeded, parameter problem (RFC 4443 section 3).
///
/// # Errors
///
/// [`Untranslatable::IcmpNotError`].
#[inline(always)]
pub const fn check_type_v6(kind: u8) -> Result<(), Untranslatable> {
    if matches!(kind, 1..=4) { Ok(()) } else { Err(Untranslatable::IcmpNotError) }
}

/// How the packets of a direction looked before they were translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original<'a, A> {
    /// From the end to the balancer.
    pub addresses: Addresses<A>,
    /// The ports, likewise, as in the header's first word.
    pub ports: u32,
    /// What they were translated by.
    pub translation: &'a Translation,
}

impl<A> Original<'_, A> {
    /// Ports and number of a quoted segment as the end sent it, and by how much the checksum of the message changes.
    #[inline(always)]
    pub const fn start(&self, quoted: [u32; 2]) -> ([u32; 2], Difference) {
        let [ports, sequence] = quoted;
        let original = sequence.wrapping_sub(self.translation.sequence_add);
        let change = Difference::NONE.word(ports, self.ports).word(sequence, original);
        ([self.ports, original], change)
    }

    /// The same for a whole quoted header, whose own checksum also follows `addresses`: what those of the quoted packet have changed.
    #[inline(always)]
    pub const fn tcp(&self, quoted: Tcp, addresses: Difference) -> (Tcp, Difference) {
        let [ports, sequence, acknowledgement, flags, last] = quoted.0;
        let ([new_ports, new_sequence], mut change) = self.start([ports, sequence]);
        let mut new_acknowledgement = acknowledgement;
        if quoted.flags() & ACK != 0 {
            new_acknowledgement = acknowledgement.wrapping_sub(self.translation.acknowledgement_add);
        }
        change = change.word(acknowledgement, new_acknowledgement);
        let header = Tcp([new_ports, new_sequence, new_acknowledgement, flags, last]);
        let header = header.with_checksum(change.and(addresses).applied(quoted.checksum()));
        (header, change.word(last, header.0[4]))
    }
}

/// How much of a quoted segment can be changed, by how many of its bytes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// Ports and number: [`Original::start`].
    Start,
    /// The header but for its options: [`Original::tcp`].
    Header,
}

/// How much is quoted.
///
/// # Errors
///
/// [`Untranslatable::MalformedHeader`]: less than a router quotes.
#[inline(always)]
pub const fn quoted(len: u32) -> Result<Quoted, Untranslatable> {
    if len < QUOTED_MIN {
        Err(Untranslatable::MalformedHeader)
    } else if len < TCP_HEADER {
        Ok(Quoted::Start)
    } else {
        Ok(Quoted::Header)
    }
}

/// The ports the other way round: those of the answers.
#[inline(always)]
pub const fn swapped(ports: u32) -> u32 {
    ports.rotate_left(16)
}
