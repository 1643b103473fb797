// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What becomes of the packets that come in and go out, at an interface whose link header has so many bytes: `LINK`. What is not of a flow
//! goes on to the next program as it came, and as soon as that is known.

mod flow;
mod icmp;
mod offer;
mod proof;
mod segment;
mod skb;
mod too_big;
mod translate;
mod version;

use core::mem::MaybeUninit;

use lb_common::packet::checksum::Difference;
use lb_common::packet::flow::{Checksum, Segment};
use lb_common::packet::ip::{Ipv4, Ipv6};
use lb_common::packet::record::{Counter, code, refused};
use lb_common::packet::tcp::SYN;

use flow::{Found, Judgement, count, counted, find, forget, judge, misfit, misfit_of_end, watch};
pub use proof::Room;
use segment::{Head, NO_MEMORY, Seen, hidden, options_at, read, rewrite};
pub use skb::{BARE, ETHERNET, Skb};
use skb::{correct, interface, is_forwarded, load, protocol, segments, send, store};
use translate::translate;
use version::{Kind, Version};

/// The numbers of IPv4 and IPv6 in Ethernet's header (include/uapi/linux/if_ether.h), as the kernel shows them.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Where TCP's header has the number of the first byte, flags and window, and the checksum, in bytes.
const SEQUENCE: u32 = 4;
const FLAGS: u32 = 12;
const CHECKSUM: u32 = 16;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, to the next program and into the kernel or out.
    Passed,
    /// It is on its way out by an interface.
    Sent,
    /// It is gone.
    Dropped,
}

/// What becomes of a packet that came in.
#[inline(always)]
pub fn ingress<const LINK: u32>(skb: Skb) -> Fate {
    match protocol(skb) {
        IPV4 => ingress_of::<Ipv4, LINK>(skb),
        IPV6 => ingress_of::<Ipv6, LINK>(skb),
        _ => Fate::Passed,
    }
}

/// What becomes of a packet that goes out.
#[inline(always)]
pub fn egress<const LINK: u32>(skb: Skb) -> Fate {
    if is_forwarded(skb) {
        // Not of a socket of this host.
        return Fate::Passed;
    }
    match protocol(skb) {
        IPV4 => egress_of::<Ipv4, LINK>(skb),
        IPV6 => egress_of::<Ipv6, LINK>(skb),
        _ => Fate::Passed,
    }
}

#[inline(always)]
fn ingress_of<V: Version, const LINK: u32>(skb: Skb) -> Fate {
    match kind::<V, LINK>(skb) {
        Kind::Segment => arrive::<V, LINK>(skb),
        Kind::Message => icmp::hand_on::<V, LINK>(skb),
        Kind::Hidden => look_behind::<V, LINK>(skb, Towards::Balancer),
        Kind::Other => Fate::Passed,
    }
}

#[inline(always)]
fn egress_of<V: Version, const LINK: u32>(skb: Skb) -> Fate {
    match kind::<V, LINK>(skb) {
        Kind::Segment => leave::<V, LINK>(skb),
        Kind::Hidden => look_behind::<V, LINK>(skb, Towards::End),
        Kind::Message | Kind::Other => Fate::Passed,
    }
}

#[inline(always)]
fn kind<V: Version, const LINK: u32>(skb: Skb) -> Kind {
    let mut room = MaybeUninit::uninit();
    match load::<[u32; 1]>(skb, LINK + V::PROTOCOL_WORD, &mut room) {
        Some([word]) => V::kind(u32::from_be(*word)),
        None => Kind::Other,
    }
}

/// What becomes of a segment that came in.
#[inline(never)]
fn arrive<V: Version, const LINK: u32>(skb: Skb) -> Fate {
    let mut room = MaybeUninit::uninit();
    let Some(head) = load::<Head<V::Words>>(skb, LINK, &mut room) else { return Fate::Passed };
    let ip = V::read(&head.ip);
    if ip.check().is_err() {
        return look_behind::<V, LINK>(skb, Towards::Balancer);
    }
    let Some(found) = find(&ip.key(u32::from_be(head.tcp[0]))) else { return Fate::Passed };
    let mut seen = Seen::default();
    let code = read::<V, LINK>(skb, head, &mut seen);
    if code != 0 {
        return misfit_of_end(skb, found, LINK + V::LEN, code);
    }
    seen.segment.checksum = proof::checksum::<V, LINK>(skb, head, &seen);
    if seen.segment.checksum == Checksum::Wrong {
        count(Counter::Corrupt as u32);
    }
    match judge(found, &seen.segment, segments(skb)) {
        Judgement::Translated => send_on::<V, LINK>(skb, head, &seen, found),
        Judgement::Passed => counted(Counter::Passed, Fate::Passed),
        Judgement::Another => {
            forget(found);
            counted(Counter::Passed, Fate::Passed)
        }
        Judgement::LockedOut | Judgement::Silenced | Judgement::Announced => {
            counted(Counter::LockedOut, Fate::Dropped)
        }
    }
}

/// Translates a segment and sends it to the other end.
#[inline(always)]
fn send_on<V: Version, const LINK: u32>(
    skb: Skb,
    head: &mut Head<V::Words>,
    seen: &Seen,
    found: Found,
) -> Fate {
    let mtu = too_big::narrower_link::<V>(skb, seen, found.interface(found.side()));
    if mtu != 0 {
        return too_big::tell::<V, LINK>(skb, head, found, mtu);
    }
    let (to, by) = (found.addresses(found.side()), found.translation(found.side()));
    let mut code = translate::<V, LINK>(skb, head, to, by, seen.is_plain());
    if code == 0 && seen.options_len() != 0 && !seen.is_plain() {
        code = rewrite(skb, options_at::<V, LINK>(), seen, by);
    }
    if code != 0 {
        count(if code == NO_MEMORY { Counter::Failed as u32 } else { refused(code) });
        return Fate::Dropped;
    }
    count(Counter::Translated as u32);
    send::<LINK>(skb, found.interface(found.side()))
}

/// What becomes of a segment that goes out.
#[inline(never)]
fn leave<V: Version, const LINK: u32>(skb: Skb) -> Fate {
    let mut room = MaybeUninit::uninit();
    let Some(head) = load::<Head<V::Words>>(skb, LINK, &mut room) else { return Fate::Passed };
    let ip = V::read(&head.ip);
    if ip.check().is_err() {
        return look_behind::<V, LINK>(skb, Towards::End);
    }
    let key = ip.key(u32::from_be(head.tcp[0])).reversed();
    let Some(found) = find(&key) else { return offer::first::<V, LINK>(skb, head, &key) };
    let mut seen = Seen::default();
    let code = read::<V, LINK>(skb, head, &mut seen);
    if code != 0 {
        return misfit(found, code);
    }
    match watch(found, &seen.segment, interface(skb)) {
        Judgement::Announced => announce::<V, LINK>(skb, &seen.segment),
        Judgement::Silenced => counted(Counter::Silenced, Fate::Dropped),
        Judgement::LockedOut => counted(Counter::LockedOut, Fate::Dropped),
        Judgement::Passed | Judgement::Translated | Judgement::Another => {
            if found.is_quiescing() && seen.segment.flags & SYN == 0 {
                return close_window::<V, LINK>(skb, head, &seen.segment);
            }
            counted(Counter::Passed, Fate::Passed)
        }
    }
}

/// Announces no room, so that the end pauses.
#[inline(always)]
fn close_window<V: Version, const LINK: u32>(skb: Skb, head: &Head<V::Words>, segment: &Segment) -> Fate {
    let at = LINK + V::LEN;
    let word = [head.tcp[3] & 0xffff_0000_u32.to_be()];
    let change = Difference::NONE.half(segment.window, 0);
    if store(skb, at + FLAGS, &word) && correct(skb, at + CHECKSUM, change) {
        return counted(Counter::Quieted, Fate::Passed);
    }
    counted(Counter::Failed, Fate::Dropped)
}

/// Gives a segment the next number, with which its end takes from it how much room there is.
#[inline(always)]
fn announce<V: Version, const LINK: u32>(skb: Skb, segment: &Segment) -> Fate {
    let (at, next) = (LINK + V::LEN, segment.sequence.wrapping_add(1));
    let change = Difference::NONE.word(segment.sequence, next);
    if store(skb, at + SEQUENCE, &[next.to_be()]) && correct(skb, at + CHECKSUM, change) {
        return counted(Counter::Announced, Fate::Passed);
    }
    counted(Counter::Failed, Fate::Dropped)
}

/// Whereto a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Balancer,
    End,
}

/// What becomes of a packet whose TCP header does not stand where it should, or not all of it: the stack would answer it.
#[inline(never)]
fn look_behind<V: Version, const LINK: u32>(skb: Skb, towards: Towards) -> Fate {
    let mut room = MaybeUninit::uninit();
    let Some(words) = load::<V::Words>(skb, LINK, &mut room) else { return Fate::Passed };
    let ip = V::read(words);
    let Err(reason) = ip.check() else { return Fate::Passed };
    // What comes of it is the same for every reason.
    let code = hidden(code(reason));
    let at = ip.find_tcp(skb, LINK);
    if at == 0 {
        return Fate::Passed;
    }
    let mut room = MaybeUninit::uninit();
    let Some([ports]) = load::<[u32; 1]>(skb, at, &mut room) else { return Fate::Passed };
    let key = ip.key(u32::from_be(*ports));
    let key = if towards == Towards::End { key.reversed() } else { key };
    let Some(found) = find(&key) else { return Fate::Passed };
    if towards == Towards::End {
        return misfit(found, code);
    }
    misfit_of_end(skb, found, at, code)
}
