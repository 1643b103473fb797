// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that are larger than the link takes by which they would leave: the balancer is the router then that says so. For the kernel's helper
//! that sends packets on asks nobody (net/core/filter.c, __bpf_redirect_neigh), and what a link cannot take is lost without a word.
//!
//! "Fragmentation needed" (RFC 792, RFC 1191 section 4) or "packet too big" (RFC 4443 section 3.2) goes to the end that sent the packet, from
//! the address that it knows, and quotes the headers of IP and TCP as they came. That is all that an end looks at: it finds its connection by
//! addresses and ports, and believes an error about a number that is on its way (RFC 5927 section 4.1). Of what was made of many segments, the first
//! is quoted, for they share a header.

use super::checksum::Difference;
use super::icmp::ICMP_HEADER;
use super::ip::{ICMP, ICMP_V6, IPV4_HEADER, IPV6_HEADER, Ipv4, Ipv6};
use super::tcp::{TCP_HEADER, Tcp};

/// How long an end is told nothing more about one flow, in milliseconds. Whatever is under way is lost, and one message is enough for all of it;
/// if that gets lost, the next one is about what was sent again.
pub const PAUSE_MS: u32 = 10;

/// How far the message may go (RFC 1700, "IP time to live").
const HOPS: u32 = 64;

/// Network control, as routers mark errors (RFC 1812 section 4.3.2.5).
const PRECEDENCE: u32 = 0xc0;

/// Don't fragment: one packet that is never cut needs no number of its own (RFC 6864 section 4.1).
const WHOLE: u32 = 0x4000;

/// Bytes of the largest packet that leaves where so many of headers and of payload come. `gso_size` is the payload that the kernel or the
/// interface cuts it into; 0: it is one.
#[inline(always)]
pub const fn largest(headers: u32, payload: u32, gso_size: u32) -> u32 {
    if gso_size != 0 && gso_size < payload { headers + gso_size } else { headers + payload }
}

/// Whether an end is told again at a time, that was told last at another; 0: never.
#[inline(always)]
pub const fn is_due(now_ms: u32, told_ms: u32) -> bool {
    told_ms == 0 || now_ms.wrapping_sub(told_ms) >= PAUSE_MS
}

/// The headers of IP and ICMP in front of the quotation, for a packet that has such headers and meets a link that takes so many bytes.
#[inline(always)]
pub const fn ipv4(packet: Ipv4, tcp: Tcp, mtu: u32) -> [u32; 7] {
    let [_, _, _, source, destination] = packet.0;
    let total = IPV4_HEADER + ICMP_HEADER + IPV4_HEADER + TCP_HEADER;
    let first = 0x4500_0000 | PRECEDENCE << 16 | total;
    let third = HOPS << 24 | ICMP << 16;
    let header = Difference::NONE.plus(first).plus(WHOLE).plus(third).plus(destination).plus(source);
    let kind = 3 << 24 | 4 << 16;
    let next = if mtu > u16::MAX as u32 { u16::MAX as u32 } else { mtu };
    let [a, b, c, d, e] = packet.0;
    let quoted = sum_of(Difference::NONE.plus(kind).plus(next), tcp).plus(a).plus(b).plus(c).plus(d).plus(e);
    [first, WHOLE, third | checksum(header), destination, source, kind | checksum(quoted), next]
}

/// The same for IPv6; the checksum is also over a pseudo header (RFC 4443 section 2.3).
#[inline(always)]
pub const fn ipv6(packet: Ipv6, tcp: Tcp, mtu: u32) -> [u32; 12] {
    let [first, second, a, b, c, d, e, f, g, h] = packet.0;
    let len = ICMP_HEADER + IPV6_HEADER + TCP_HEADER;
    let kind = 2 << 24;
    let source = Difference::NONE.plus(a).plus(b).plus(c).plus(d);
    let addresses = source.plus(e).plus(f).plus(g).plus(h);
    // The addresses are in the pseudo header and in what is quoted.
    let sum = addresses.and(addresses).plus(len).plus(ICMP_V6).plus(kind).plus(mtu).plus(first).plus(second);
    let kind = kind | checksum(sum_of(sum, tcp));
    [0x6000_0000 | PRECEDENCE << 20, len << 16 | ICMP_V6 << 8 | HOPS, e, f, g, h, a, b, c, d, kind, mtu]
}

#[inline(always)]
const fn sum_of(sum: Difference, tcp: Tcp) -> Difference {
    let [a, b, c, d, e] = tcp.0;
    sum.plus(a).plus(b).plus(c).plus(d).plus(e)
}

/// The checksum over words that sum up to this, in half a word.
#[inline(always)]
const fn checksum(sum: Difference) -> u32 {
    !sum.folded() as u32
}
