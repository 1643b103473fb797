// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Packets that the link cannot take by which they would leave: see `lb_common::packet::too_big`. Such a packet becomes the message that says so.

use lb_common::packet::icmp::ICMP_HEADER;
use lb_common::packet::record::Counter;
use lb_common::packet::tcp::{TCP_HEADER, Tcp};
use lb_common::packet::too_big::largest;

use super::Fate;
use super::flow::{Found, count, counted};
use super::segment::{Head, Seen};
use super::skb::{Skb, cut, gso_size, mtu, send, store_summed};
use super::version::{Version, numbers};

/// What an interface takes, if that is less than what would leave by it; or else 0. An answer that has nothing but headers always fits.
#[inline(always)]
pub fn narrower_link<V: Version>(skb: Skb, seen: &Seen, interface: u32) -> u32 {
    if seen.segment.payload == 0 {
        return 0;
    }
    let headers = V::LEN + TCP_HEADER + seen.options_len();
    let mtu = mtu(skb, interface);
    if mtu < largest(headers, seen.segment.payload, gso_size(skb)) { mtu } else { 0 }
}

/// Tells the end that has sent a packet what the link takes, unless it was told just now.
#[inline(never)]
pub fn tell<V: Version, const LINK: u32>(skb: Skb, head: &Head<V::Words>, found: Found, mtu: u32) -> Fate {
    count(Counter::TooBig as u32);
    if !found.may_be_told() {
        return Fate::Dropped;
    }
    let message = V::read(&head.ip).too_big(Tcp(numbers(&head.tcp)), mtu);
    let quoted_at = LINK + V::LEN + ICMP_HEADER;
    // As much as makes the checksum begin before the packet does. It is even, so that the sum of what is left stays what it is.
    let out = LINK + V::LEN + 2;
    let is_made = cut(skb, out, quoted_at + V::LEN + TCP_HEADER)
        && store_summed(skb, LINK, &message)
        && store_summed(skb, quoted_at, head);
    if !is_made {
        return counted(Counter::Failed, Fate::Dropped);
    }
    count(Counter::Told as u32);
    // By the way that all takes that goes to this end.
    send::<LINK>(skb, found.interface(found.side().other()))
}
