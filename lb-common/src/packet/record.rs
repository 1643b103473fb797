// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies in the maps of path `packet`, which programs and user space both read and write.
//!
//! A flow has a *slot*, a number below the capacity of the array of [`Entry`]. Each of its two connections has a [`Key`], by which
//! programs find the slot and the end: [`place`] is both in one number.

use core::mem::{offset_of, size_of};

use super::flow::{Flow, Misfit, Outgoing, Segment, Side, Verdict};
use super::icmp::swapped;
use super::ip::Addresses;
use super::reason::Untranslatable;
use super::tcp::Translation;
use crate::labelled::labelled;

/// The hash map from [`Key`] to [`place`]; and from [`Key::from_anywhere`] to what a SYN may offer ([`super::offer::Offer`]), while one is on its way.
pub const PACKET_KEYS: &str = "PACKET_KEYS";

/// The array of [`Entry`], by slot. User space maps it into its memory.
pub const PACKET_FLOWS: &str = "PACKET_FLOWS";

/// The ring buffer by which programs call user space: slots, as `u32`.
pub const PACKET_BELLS: &str = "PACKET_BELLS";

/// The array of [`COUNTERS`] numbers, each of which every processor has for itself.
pub const PACKET_COUNTERS: &str = "PACKET_COUNTERS";

/// What sees all that comes in at an interface with Ethernet's header, and at one with none; and all that goes out there. All four are of
/// type `classifier`.
pub const PACKET_INGRESS: &str = "packet_ingress";
/// See [`PACKET_INGRESS`].
pub const PACKET_INGRESS_L3: &str = "packet_ingress_l3";
/// See [`PACKET_INGRESS`].
pub const PACKET_EGRESS: &str = "packet_egress";
/// See [`PACKET_INGRESS`].
pub const PACKET_EGRESS_L3: &str = "packet_egress_l3";

/// Bytes of one call in [`PACKET_BELLS`]: a header of 8 and a slot, padded to 8 (kernel/bpf/ringbuf.c).
pub const BELL_BYTES: u32 = 16;

/// How often one slot can be in [`PACKET_BELLS`] at the same time: a flow is disarmed again only after user space has heard of it and armed it
/// anew, and it flips, is abandoned, is over and makes way for another at most once. It stalls seconds after it has flipped: what was called
/// before that was heard.
pub const BELLS_PER_SLOT: u32 = 4;

/// [`Entry::lock`]: nobody changes the record.
pub const UNLOCKED: u64 = 0;
/// [`Entry::lock`]: a program does.
pub const LOCKED_BY_PROGRAM: u64 = 1;
/// [`Entry::lock`]: user space does.
pub const LOCKED_BY_AGENT: u64 = 2;

/// [`Record::flags`]: the balancer's sockets announce no room, so that both ends pause.
pub const QUIESCE: u32 = 1;
/// [`Record::flags`]: each of the balancer's sockets is about to tell its end how much room there is, with what it sends when it leaves
/// TCP_REPAIR; one bit for each end. That segment has the number before the last byte, so that it would not count
/// (net/ipv4/tcp_output.c, tcp_xmit_probe_skb): it gets the next one, and goes out also when the flow has flipped.
pub const ANNOUNCE: u32 = 0b110;
/// [`Record::flags`]: user space has been called, and has not looked since.
pub const RUNG: u32 = 1 << 3;

/// [`Record::flags`]: what an end sends cannot be translated, and nothing of the flow moves any more: see [`super::stall`].
pub const STALLED: u32 = 1 << 8;

/// [`Record::flags`], of the agent alone: packets to an end may leave by another interface, for its connection is bound to none. An agent that does
/// not know this bit has not set it, so that its flows stay where they are.
pub const fn free(to: Side) -> u32 {
    1 << (4 + to as u32)
}

/// [`Record::flags`], of the agent alone: by which interface packets to an end leave is what the routes say, so that it may follow them.
pub const fn routed(to: Side) -> u32 {
    1 << (6 + to as u32)
}

/// The version of IP, in [`Key::family`] and [`Record::family`].
pub const V4: u32 = 4;
/// See [`V4`].
pub const V6: u32 = 6;

/// By what the packets of a connection are known, as those have it that come in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The end's address, as [`v4_mapped`] if it is one of IPv4.
    pub remote: [u32; 4],
    /// The balancer's, likewise.
    pub local: [u32; 4],
    /// The end's port and the balancer's, as in the first word of TCP's header.
    pub ports: u32,
    /// [`V4`] or [`V6`].
    pub family: u32,
}

/// Words of 32 bits in a [`Key`].
pub const KEY_WORDS: usize = size_of::<Key>() / 4;

/// How packets leave that come from an end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What they have then; as [`v4_mapped`], those of IPv4.
    pub addresses: Addresses<[u32; 4]>,
    /// The number of the interface by which they leave. The next hop is what the routes say there.
    pub interface: u32,
    /// When the end was last told that what it sends is too large for that interface, in milliseconds of the programs' clock, cut to 32 bits;
    /// 0: never. Programs write it without the lock: what comes of two at once is one message more.
    pub told_ms: u32,
    /// Segments that were translated. What the interface or the kernel has made of several counts as all of them.
    pub segments: u64,
    /// Their payload in bytes, whatever came twice included.
    pub bytes: u64,
}

/// All that is kept of a flow. Whoever changes it holds the lock in [`Entry`]. Programs read without it what packets are translated by: after the
/// flip nobody changes that but [`Way::interface`], which is one word.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts the flows that the slot has had.
    pub generation: u64,
    /// [`QUIESCE`], [`ANNOUNCE`], [`RUNG`], [`STALLED`], [`free`] and [`routed`], as many as hold.
    pub flags: u32,
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// Why the flow is abandoned: [`code`], or 0.
    pub refusal: u32,
    /// When the first packet of an end's own was dropped since the flow was last moved on, in milliseconds of the programs' clock, cut to 32 bits;
    /// 0: none ever was. Programs alone write it: see [`super::stall`].
    pub stalled_ms: u32,
    /// For what comes from the client.
    pub to_server: Way,
    /// For what comes from the server.
    pub to_client: Way,
    /// Its state.
    pub flow: Flow,
}

/// A value of [`PACKET_FLOWS`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who changes the record: [`UNLOCKED`] and the others. Changed atomically.
    pub lock: u64,
    /// What the lock is for.
    pub record: Record,
}

/// 64-bit words in an [`Entry`].
pub const ENTRY_WORDS: usize = size_of::<Entry>() / 8;

const _: () = assert!(size_of::<Key>() == 40 && size_of::<Way>() == 56);
const _: () = assert!(size_of::<Flow>() == 176 && size_of::<Record>() == 312 && size_of::<Entry>() == 320);
const _: () = assert!(offset_of!(Entry, lock) == 0 && offset_of!(Entry, record) == 8);

/// What becomes of a segment that came in, and whether user space has to be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The flow was disarmed, has flipped, is over, or makes way for another.
    pub calls: bool,
}

/// What becomes of a segment that a socket of the balancer's sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What becomes of it.
    pub outgoing: Outgoing,
    /// User space has to be called.
    pub calls: bool,
    /// It tells how much room there is: see [`ANNOUNCE`].
    pub announces: bool,
}

/// What becomes of a packet that nobody here understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What becomes of it.
    pub misfit: Misfit,
    /// User space has to be called.
    pub calls: bool,
}

/// A slot and an end, as one number.
#[inline(always)]
pub const fn place(slot: u32, side: Side) -> u32 {
    slot * 2 + side as u32
}

/// The slot of a place.
#[inline(always)]
pub const fn slot(place: u32) -> u32 {
    place / 2
}

/// The end of a place.
#[inline(always)]
pub const fn side(place: u32) -> Side {
    if place & 1 == 0 { Side::Client } else { Side::Server }
}

/// An address of IPv4 where there is room for one of IPv6 (RFC 4291 section 2.5.5.2).
#[inline(always)]
pub const fn v4_mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff, address]
}

impl Key {
    /// The other way round: that of a packet from the other end of the connection.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { remote: self.local, local: self.remote, ports: swapped(self.ports), family: self.family }
    }

    /// The same with whatever address the balancer has: of a connection that begins, of which it is not known.
    #[inline(always)]
    pub const fn from_anywhere(self) -> Self {
        let local = if self.family == V4 { v4_mapped(0) } else { [0; 4] };
        Self { local, ..self }
    }

    /// Its words, in the order of the map.
    pub const fn words(&self) -> [u32; KEY_WORDS] {
        let ([a, b, c, d], [e, f, g, h]) = (self.remote, self.local);
        [a, b, c, d, e, f, g, h, self.ports, self.family]
    }
}

impl Record {
    /// One of a flow that was never there.
    pub const fn new(flow: Flow, family: u32, to_server: Way, to_client: Way) -> Self {
        Self { generation: 0, flags: 0, family, refusal: 0, stalled_ms: 0, to_server, to_client, flow }
    }

    /// How packets leave that come from a side.
    #[inline(always)]
    pub const fn way(&self, from: Side) -> &Way {
        match from {
            Side::Client => &self.to_server,
            Side::Server => &self.to_client,
        }
    }

    /// What packets are translated by that come from a side.
    #[inline(always)]
    pub const fn translation(&self, from: Side) -> &Translation {
        match from {
            Side::Client => &self.flow.to_server,
            Side::Server => &self.flow.to_client,
        }
    }

    /// By what packets are known that come from a side: they have what packets to it have, the other way round.
    #[inline(always)]
    pub const fn key(&self, from: Side) -> Key {
        let to = from.other();
        let Addresses { source, destination } = self.way(to).addresses;
        let ports = self.translation(to).ports;
        Key { remote: source, local: destination, ports, family: self.family }.reversed()
    }

    /// What becomes of a segment that came from a side, and was made of so many; 0 counts as 1.
    #[inline(always)]
    pub const fn received(&mut self, from: Side, segment: &Segment, segments: u32, now_ns: u64) -> Received {
        let was_over = self.flow.is_over();
        let verdict = self.flow.received(from, segment, now_ns);
        if matches!(verdict, Verdict::Flipped | Verdict::Translated) {
            let way = match from {
                Side::Client => &mut self.to_server,
                Side::Server => &mut self.to_client,
            };
            way.segments += if segments == 0 { 1 } else { segments as u64 };
            way.bytes += segment.payload as u64;
        }
        let calls = match verdict {
            Verdict::ToSocket => false,
            Verdict::Translated => !was_over && self.flow.is_over(),
            Verdict::Disarmed | Verdict::Flipped | Verdict::Another => true,
        };
        Received { verdict, calls: calls && self.call() }
    }

    /// What becomes of a segment that the balancer's socket sends to a side, by an interface with this number.
    #[inline(always)]
    pub const fn sent(&mut self, to: Side, segment: &Segment, interface: u32) -> Sent {
        let way = match to {
            Side::Client => &mut self.to_client,
            Side::Server => &mut self.to_server,
        };
        // The first that sees it is the one that the routes lead to; others are below it.
        if way.interface == 0 {
            way.interface = interface;
        }
        let bit = (ANNOUNCE & ANNOUNCE.wrapping_neg()) << to as u32;
        let is_probe = segment.payload == 0 && segment.sequence.wrapping_add(1) == self.flow.end(to).sent;
        let outgoing = self.flow.sent(to, segment);
        if self.flags & bit != 0 && is_probe {
            self.flags &= !bit;
            return Sent { outgoing: Outgoing::Sent, calls: false, announces: true };
        }
        let calls = matches!(outgoing, Outgoing::Disarmed) && self.call();
        Sent { outgoing, calls, announces: false }
    }

    /// Whether a call is new: user space has looked since the last one.
    #[inline(always)]
    pub(super) const fn call(&mut self) -> bool {
        let is_new = self.flags & RUNG == 0;
        self.flags |= RUNG;
        is_new
    }

    /// What becomes of a packet that nobody here understands, for a reason of which this is the [`code`]: one that a socket of the balancer's sends.
    #[inline(always)]
    pub const fn misfit(&mut self, code: u32) -> Unfit {
        let misfit = self.flow.misfit();
        let is_abandoned = matches!(misfit, Misfit::Abandoned);
        if is_abandoned {
            self.refusal = code;
        }
        Unfit { misfit, calls: is_abandoned }
    }

    /// Likewise of one that came from a side, by what is known of its segment.
    #[inline(always)]
    pub const fn misfit_of_end(&mut self, from: Side, segment: &Segment, code: u32, now_ns: u64) -> Unfit {
        let Unfit { misfit, calls } = self.misfit(code);
        let calls = calls || matches!(misfit, Misfit::Dropped) && self.note_dropped(from, segment, now_ns);
        Unfit { misfit, calls }
    }
}

labelled! {
    /// What programs count, packets each.
    Counter {
        /// To a socket of a flow, or from one.
        Passed => "passed",
        /// Translated.
        Translated => "translated",
        /// What a socket has sent whose flow is not its any more.
        Silenced => "silenced",
        /// Sent with the window closed, so that an end pauses.
        Quieted => "quieted",
        /// Sent to tell an end how much room there is.
        Announced => "announced",
        /// SYNs of ours that offer less than they did.
        Reduced => "reduced",
        /// ICMP errors handed on to the end that they are for.
        Returned => "returned",
        /// Too large for the link by which they would leave: dropped, and the end is to be told.
        TooBig => "too-big",
        /// ICMP errors made of some of them, for the end that sent them.
        Told => "told",
        /// Not believed, because the checksum was wrong; like others they are passed or translated.
        Corrupt => "corrupt",
        /// Dropped, because somebody else held the flow's lock for too long.
        LockedOut => "locked-out",
        /// Dropped, because the kernel had no memory to change it.
        Failed => "failed",
    }
}

/// How many numbers programs count: those of [`Counter`], and one for each reason why a packet was not translated.
pub const COUNTERS: u32 = (Counter::ALL.len() + Untranslatable::ALL.len()) as u32;

/// A reason as a number that is not 0.
#[inline(always)]
pub const fn code(reason: Untranslatable) -> u32 {
    reason as u32 + 1
}

/// The reason of a [`code`].
pub const fn reason(code: u32) -> Option<Untranslatable> {
    let index = code.wrapping_sub(1) as usize;
    if index < Untranslatable::ALL.len() { Some(Untranslatable::ALL[index]) } else { None }
}

/// Which number counts the packets that were not translated for a reason with this [`code`].
#[inline(always)]
pub const fn refused(code: u32) -> u32 {
    Counter::ALL.len() as u32 + code - 1
}
