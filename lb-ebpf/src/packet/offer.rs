// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A SYN of ours offers a server no more than the client has: see [`lb_common::packet::offer`].

use lb_common::packet::offer::{Offer, heeded};
use lb_common::packet::record::{Counter, Key};
use lb_common::packet::tcp::{ACK, SYN, Tcp};

use super::flow::{counted, find_offer};
use super::segment::{Head, NO_MEMORY, options_at, reduce};
use super::skb::{Skb, correct, len, store};
use super::version::{Version, numbers};
use super::{CHECKSUM, FLAGS, Fate};

/// What becomes of a segment of no flow that goes out. Only a SYN is looked at any closer.
#[inline(always)]
pub fn first<V: Version, const LINK: u32>(skb: Skb, head: &Head<V::Words>, key: &Key) -> Fate {
    let tcp = Tcp(numbers(&head.tcp));
    if tcp.flags() & (SYN | ACK) != SYN {
        return Fate::Passed;
    }
    let Ok(segment_len) = V::read(&head.ip).payload_len(len(skb) - LINK) else { return Fate::Passed };
    let Ok(options_len) = tcp.options_len(segment_len) else { return Fate::Passed };
    let Some(word) = find_offer(&key.from_anywhere()) else { return Fate::Passed };
    // SAFETY: it lies in a map's value, which lives as long as the program runs; user space writes it before, and reads it after.
    let found = unsafe { word.read_volatile() };
    let Some(offer) = Offer::of_word(found) else { return Fate::Passed };
    let code = if options_len == 0 { 0 } else { reduce(skb, options_at::<V, LINK>(), options_len, found) };
    if code == NO_MEMORY || code == 0 && !offer.has_ecn && !ask_for_no_ecn(skb, LINK + V::LEN, tcp) {
        return counted(Counter::Failed, Fate::Dropped);
    }
    if code != 0 {
        // Nothing has changed, and the agent sees that in what is agreed.
        return Fate::Passed;
    }
    // SAFETY: as above.
    unsafe { word.write_volatile(heeded(found)) };
    counted(Counter::Reduced, Fate::Passed)
}

/// Takes the request for ECN out of a TCP header at an offset; whether there was memory for that.
#[inline(always)]
fn ask_for_no_ecn(skb: Skb, at: u32, tcp: Tcp) -> bool {
    let (silent, change) = tcp.without_ecn();
    store(skb, at + FLAGS, &[silent.0[3].to_be()]) && correct(skb, at + CHECKSUM, change)
}
