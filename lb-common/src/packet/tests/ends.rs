// SPDX-License-Identifier: MIT OR Apache-2.0
//! An end that speaks TCP, for the tests of flows: bytes are positions in streams, so that each is known wherever it turns up.

extern crate std;

use std::vec::Vec;

use crate::packet::flow::{Checksum, Position, Segment};
use crate::packet::tcp::{ACK, FIN, RST, SYN};

/// The room that every end has for what comes, in bytes.
const WINDOW: u64 = 60_000;

/// The window in a SYN, which is not shifted.
pub const SYN_WINDOW: u16 = 64_240;

/// A segment on its way, with what only the test knows.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub segment: Segment,
    /// The position of its first byte in the stream of this connection.
    pub position: u64,
}

/// One end, or one of the balancer's sockets.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// The numbers of its SYN and of its correspondent's.
    syns: (u32, u32),
    shift: u8,
    /// The shift of its correspondent's windows.
    their_shift: u8,
    /// Bytes that it was told to send, and whether there is no more.
    pub written: u64,
    pub is_closed: bool,
    /// Positions: sent up to, acknowledged up to, allowed up to. The FIN has the one behind all bytes.
    next: u64,
    pub acknowledged: u64,
    allowed: u64,
    /// What came: all before it without a gap, what came behind a gap, and the position of the FIN.
    pub received: u64,
    gaps: Vec<(u64, u64)>,
    their_fin: Option<u64>,
    /// What its application has read.
    pub read: u64,
    /// What it has acknowledged last, and the furthest that it has allowed.
    told: u64,
    edge: u64,
    pub owes_acknowledgement: bool,
    pub is_reset: bool,
    /// Its clock, the newest TSval of its correspondent, and whether timestamps are in use.
    pub clock: u32,
    newest: Option<u32>,
    has_timestamps: bool,
}

impl Tcp {
    /// An end whose handshake is over.
    pub fn new(syns: (u32, u32), shifts: (u8, u8), clock: Option<u32>) -> Self {
        Self {
            syns,
            shift: shifts.0,
            their_shift: shifts.1,
            written: 0,
            is_closed: false,
            next: 0,
            acknowledged: 0,
            allowed: SYN_WINDOW.into(),
            received: 0,
            gaps: Vec::new(),
            their_fin: None,
            read: 0,
            told: 0,
            edge: SYN_WINDOW.into(),
            owes_acknowledgement: false,
            is_reset: false,
            clock: clock.unwrap_or_default(),
            newest: None,
            has_timestamps: clock.is_some(),
        }
    }

    /// Whether everything, and its FIN if there is one, was acknowledged.
    pub fn is_drained(&self) -> bool {
        self.acknowledged == self.end()
    }

    /// Whether all bytes of its correspondent came, and the FIN.
    pub fn is_ended(&self) -> bool {
        self.their_fin.is_some_and(|fin| self.received > fin)
    }

    /// Payload that came without a gap.
    pub fn payload(&self) -> u64 {
        self.received - u64::from(self.is_ended())
    }

    /// Whether nobody needs it any more: everything that came was read, and everything that was written arrived.
    pub fn is_empty(&self) -> bool {
        self.is_drained() && self.gaps.is_empty() && self.received == self.read
    }

    /// The numbers of what was read and of what was written, for arming.
    pub fn position(&self) -> Position {
        Position { taken: number(self.syns.1, self.read), given: number(self.syns.0, self.written) }
    }

    /// The position behind all that it was told to send, FIN included.
    fn end(&self) -> u64 {
        self.written + u64::from(self.is_closed)
    }

    /// The next segment that it may send, of so many bytes at most.
    pub fn send(&mut self, len: u64) -> Option<Sent> {
        let (from, limit) = (self.next, self.written.min(self.allowed));
        if self.is_reset || from > self.written {
            return None;
        }
        let payload = limit.saturating_sub(from).min(len);
        let has_fin = self.is_closed && from + payload == self.written && self.next < self.end();
        if payload == 0 && !has_fin {
            return None;
        }
        self.next = from + payload + u64::from(has_fin);
        Some(self.segment(from, payload, if has_fin { FIN } else { 0 }))
    }

    /// The first segment that was not acknowledged, again; with another length, maybe.
    pub fn resend(&mut self, len: u64) -> Option<Sent> {
        let from = self.acknowledged;
        if self.is_reset || from >= self.next {
            return None;
        }
        let payload = self.next.min(self.written).saturating_sub(from).min(len.max(1));
        let has_fin = from + payload == self.written && self.next > self.written;
        Some(self.segment(from, payload, if has_fin { FIN } else { 0 }))
    }

    /// A bare acknowledgement.
    pub fn acknowledge(&mut self) -> Sent {
        self.segment(self.next, 0, 0)
    }

    /// A reset, at the end of what was sent.
    pub fn reset(&mut self) -> Sent {
        self.is_reset = true;
        self.segment(self.next, 0, RST)
    }

    fn segment(&mut self, position: u64, payload: u64, flags: u8) -> Sent {
        self.told = self.received;
        self.owes_acknowledgement = false;
        let window = u16::try_from(WINDOW >> self.shift).expect("16 bits");
        self.edge = self.edge.max(self.told + (u64::from(window) << self.shift));
        let segment = Segment {
            sequence: number(self.syns.0, position),
            acknowledgement: number(self.syns.1, self.received),
            payload: u32::try_from(payload).expect("a short segment"),
            timestamp: self.clock,
            window,
            flags: flags | ACK,
            has_timestamp: self.has_timestamps,
            ..Segment::default()
        };
        Sent { segment, position }
    }

    /// Takes a segment in, as RFC 9293 section 3.10.7.4 and RFC 5961 say; what it answers at once.
    pub fn receive(&mut self, sent: &Sent) -> Option<Sent> {
        if sent.segment.checksum == Checksum::Wrong {
            return None;
        }
        let segment = &sent.segment;
        if self.is_reset {
            return None;
        }
        let from = position(self.syns.1, segment.sequence, self.received);
        let end = from + i64::from(segment.payload) + i64::from(segment.flags & FIN != 0);
        if segment.flags & RST != 0 {
            let is_exact = from == signed(self.received);
            self.is_reset = is_exact;
            return (!is_exact && from > signed(self.received) && from <= signed(self.edge))
                .then(|| self.acknowledge());
        }
        let is_old = self.has_timestamps
            && self.newest.is_some_and(|newest| segment.timestamp.wrapping_sub(newest).cast_signed() < 0);
        let is_outside = end < signed(self.told) || from > signed(self.edge);
        if segment.flags & SYN != 0 || is_old || is_outside || segment.flags & ACK == 0 {
            return Some(self.acknowledge());
        }
        if !self.take_acknowledgement(segment) {
            return Some(self.acknowledge());
        }
        if from <= signed(self.told) {
            self.newest = Some(segment.timestamp);
        }
        self.take_payload(sent, from);
        None
    }

    /// Whether what is acknowledged is of what was sent and not too old.
    pub fn take_acknowledgement(&mut self, segment: &Segment) -> bool {
        let acknowledged = position(self.syns.0, segment.acknowledgement, self.acknowledged);
        if acknowledged > signed(self.next) || acknowledged < signed(self.acknowledged) - 65_535 {
            return false;
        }
        if acknowledged >= signed(self.acknowledged) {
            self.acknowledged = acknowledged.cast_unsigned();
            self.allowed =
                self.allowed.max(self.acknowledged + (u64::from(segment.window) << self.their_shift));
        }
        true
    }

    fn take_payload(&mut self, sent: &Sent, from: i64) {
        let (payload, has_fin) = (sent.segment.payload, sent.segment.flags & FIN != 0);
        if payload == 0 && !has_fin {
            return;
        }
        self.owes_acknowledgement = true;
        let Ok(from) = u64::try_from(from) else { return };
        assert_eq!(from, sent.position, "a byte has got the number of another");
        let end = from + u64::from(payload);
        if has_fin {
            self.their_fin = Some(end);
        }
        self.gaps.push((from, end + u64::from(has_fin)));
        while let Some(index) = self.gaps.iter().position(|gap| gap.0 <= self.received) {
            self.received = self.received.max(self.gaps.swap_remove(index).1);
        }
    }
}

fn signed(position: u64) -> i64 {
    i64::try_from(position).expect("a short stream")
}

/// The number of a position.
fn number(syn: u32, position: u64) -> u32 {
    u32::try_from((u64::from(syn) + 1 + position) % (1 << 32)).expect("32 bits")
}

/// The position of a number, near one that is known.
fn position(syn: u32, number_of: u32, near: u64) -> i64 {
    signed(near) + i64::from(number_of.wrapping_sub(number(syn, near)).cast_signed())
}
