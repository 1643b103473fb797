// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Errors of routers about packets that were translated: see `lb_common::packet::icmp`. One about a flow whose sockets carry it is theirs.

use core::mem::MaybeUninit;

use lb_common::packet::checksum::Difference;
use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::icmp::{ICMP_HEADER, Original, QUOTED_MIN, Quoted, quoted, swapped};
use lb_common::packet::ip::Addresses;
use lb_common::packet::record::{Counter, code, refused};
use lb_common::packet::tcp::Tcp;

use super::Fate;
use super::flow::{Found, NOWHERE, at, count, counted, find_place};
use super::skb::{Plain, Skb, correct_sum, len, load, send, store};
use super::version::{Version, numbers, words};

/// A header of IP and two words behind it, as they lie there: those of the message, or the ports and the number of the quoted segment.
#[repr(C)]
#[derive(Clone, Copy)]
struct Begin<Ip> {
    ip: Ip,
    behind: [u32; 2],
}

// SAFETY: made of words, whatever `Ip` is: it is made of them, too.
unsafe impl<Ip: Plain> Plain for Begin<Ip> {}

/// Room for the beginning of a packet.
type Room<V> = MaybeUninit<Begin<<V as Version>::Words>>;

/// What [`requote`] returns if the kernel had no memory; otherwise it is a change of the checksum, in 16 bits.
const NO_MEMORY: u32 = u32::MAX;

/// Hands an error on to the end that has sent what it quotes.
#[inline(never)]
pub fn hand_on<V: Version, const LINK: u32>(skb: Skb) -> Fate {
    let mut room: Room<V> = MaybeUninit::uninit();
    let Some(message) = load(skb, LINK, &mut room) else { return Fate::Passed };
    let ip = V::read(&message.ip);
    let kind = (u32::from_be(message.behind[0]) >> 24) as u8;
    if ip.check_message().is_err() || V::check_type(kind).is_err() {
        return Fate::Passed;
    }
    let Ok(payload_len) = ip.payload_len(len(skb) - LINK) else { return Fate::Passed };
    let quoted_len = payload_len.saturating_sub(ICMP_HEADER + V::LEN);
    let Some(found) = at(find_quoted::<V, LINK>(skb)) else { return Fate::Passed };
    let from = found.side().other();
    if quoted_len < QUOTED_MIN || !matches!(found.phase(), Phase::Spliced | Phase::Closing) {
        return Fate::Passed;
    }
    // It goes the way of all that comes from where the error does: to the end that is told.
    let (ip, changes) = match ip.translated(found.addresses(found.side())) {
        Ok(translated) => translated,
        Err(reason) => {
            count(refused(code(reason)));
            return Fate::Dropped;
        }
    };
    let in_quotation = requote::<V, LINK>(skb, found, from, quoted_len);
    if in_quotation == NO_MEMORY {
        return counted(Counter::Failed, Fate::Dropped);
    }
    ip.write(&mut message.ip);
    let first = u32::from_be(message.behind[0]);
    let change = Difference::NONE.half(0, in_quotation as u16).and(V::in_message(changes.pseudo));
    let checksum = change.applied(first as u16);
    message.behind[0] = (first & 0xffff_0000 | u32::from(checksum)).to_be();
    if !store(skb, LINK, message) {
        return counted(Counter::Failed, Fate::Dropped);
    }
    if V::in_sum(&changes).is_some() {
        // Addresses and the message's own checksum make up for each other in the sum of all bytes; the hop limit is in no checksum.
        correct_sum(skb, changes.uncovered);
    }
    count(Counter::Returned as u32);
    send::<LINK>(skb, found.interface(found.side()))
}

/// Finds the flow of the segment that a message quotes, and the end that was to get it; [`NOWHERE`] if there is none.
#[inline(never)]
fn find_quoted<V: Version, const LINK: u32>(skb: Skb) -> u32 {
    let mut room: Room<V> = MaybeUninit::uninit();
    let Some(quoted) = load(skb, LINK + V::LEN + ICMP_HEADER, &mut room) else { return NOWHERE };
    let ip = V::read(&quoted.ip);
    if ip.check().is_err() {
        return NOWHERE;
    }
    find_place(&ip.key(u32::from_be(quoted.behind[0])).reversed())
}

/// Makes the quoted packet, of whose segment so many bytes are there, what its end has sent; returns what the checksum of the message follows.
#[inline(never)]
fn requote<V: Version, const LINK: u32>(skb: Skb, found: Found, from: Side, quoted_len: u32) -> u32 {
    let at = LINK + V::LEN + ICMP_HEADER;
    let mut room = MaybeUninit::<V::Words>::uninit();
    let Some(header) = load(skb, at, &mut room) else { return NO_MEMORY };
    let back = from.other();
    let Addresses { source, destination } = *found.addresses(back);
    let (ip, in_addresses) =
        V::read(header).addressed(&Addresses { source: destination, destination: source });
    ip.write(header);
    if !store(skb, at, header) {
        return NO_MEMORY;
    }
    let ports = swapped(found.translation(back).ports);
    let nowhere = Addresses { source: (), destination: () };
    let original = Original { addresses: nowhere, ports, translation: found.translation(from) };
    let at = at + V::LEN;
    let change = match quoted(quoted_len) {
        Ok(Quoted::Header) => {
            let mut room = MaybeUninit::<[u32; 5]>::uninit();
            let Some(header) = load(skb, at, &mut room) else { return NO_MEMORY };
            let (tcp, change) = original.tcp(Tcp(numbers(header)), in_addresses);
            *header = words(tcp.0);
            if !store(skb, at, header) {
                return NO_MEMORY;
            }
            change
        }
        _ => {
            let mut room = MaybeUninit::<[u32; 2]>::uninit();
            let Some([ports, sequence]) = load(skb, at, &mut room) else { return NO_MEMORY };
            let ([ports, sequence], change) = original.start([u32::from_be(*ports), u32::from_be(*sequence)]);
            if !store(skb, at, &[ports.to_be(), sequence.to_be()]) {
                return NO_MEMORY;
            }
            change
        }
    };
    u32::from(change.and(V::in_message(in_addresses)).folded())
}
