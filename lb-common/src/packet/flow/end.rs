// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of one end of a flow, in the numbers of its own connection.

use super::{Position, RoundTrip, Segment};
use crate::packet::sequence::{end_of, is_at_most, is_before, is_between, later};
use crate::packet::tcp::{ACK, FIN, RST, SYN, window_bytes};

/// The end has sent a FIN that could be one.
pub const FIN_SEEN: u32 = 1;
/// The other end has acknowledged the FIN.
pub const FIN_TAKEN: u32 = 1 << 1;
/// The end has reset the connection.
pub const RESET: u32 = 1 << 2;
/// [`End::timestamp`] holds.
pub const TIMESTAMP_SEEN: u32 = 1 << 3;
/// [`End::timestamp_sent`] holds.
pub const TIMESTAMP_SENT: u32 = 1 << 4;
/// The end has yet to acknowledge the byte that is timed.
pub const TIMED: u32 = 1 << 5;

/// One end. Before the flip its correspondent is the balancer's socket, after it the other end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The number behind what it has sent: before the flip its FIN counts, after it payload alone.
    pub reached: u32,
    /// The number behind what was sent to it.
    pub sent: u32,
    /// What it has acknowledged of that.
    pub acknowledged: u32,
    /// What was acknowledged to it.
    pub confirmed: u32,
    /// The number behind what it may send: the furthest that a window has ever allowed.
    pub allowed: u32,
    /// The highest TSval that came from it. From the flip on the number of the byte that is timed ([`TIMED`]).
    pub timestamp: u32,
    /// The highest TSval that the balancer's socket has sent to it. From the flip on when the byte went on that was timed last, in ticks of
    /// [`TICK_NS`](super::TICK_NS).
    pub timestamp_sent: u32,
    /// What it has done: [`FIN_SEEN`] and the others.
    pub marks: u32,
    /// How long what goes on to it takes to be acknowledged.
    pub round_trip: RoundTrip,
}

impl End {
    /// An end whose handshake is over, from the numbers of its SYN or SYN and ACK and that of the balancer's, and the window in the latter,
    /// which is not shifted.
    pub const fn established(its_syn: u32, our_syn: u32, our_window: u16) -> Self {
        let (reached, sent) = (its_syn.wrapping_add(1), our_syn.wrapping_add(1));
        Self {
            reached,
            sent,
            acknowledged: sent,
            confirmed: reached,
            allowed: reached.wrapping_add(our_window as u32),
            timestamp: 0,
            timestamp_sent: 0,
            marks: 0,
            round_trip: RoundTrip::NONE,
        }
    }

    /// An end in the middle of its connection, from what the balancer's socket says of itself: the next byte that it expects and the next that
    /// it sends, how many it has sent that were not acknowledged, and how many it has room for.
    ///
    /// The socket goes on meanwhile: once programs see what it sends and receives, it has to be asked again.
    pub const fn resumed(at: Position, unacknowledged: u32, room: u32) -> Self {
        Self {
            reached: at.taken,
            sent: at.given,
            acknowledged: at.given.wrapping_sub(unacknowledged),
            confirmed: at.taken,
            allowed: at.taken.wrapping_add(room),
            timestamp: 0,
            timestamp_sent: 0,
            marks: 0,
            round_trip: RoundTrip::NONE,
        }
    }

    /// Whether a mark is set.
    #[inline(always)]
    pub const fn has(&self, mark: u32) -> bool {
        self.marks & mark != 0
    }

    /// Whether its correspondent takes a segment: the rule of Linux (net/ipv4/tcp_input.c, tcp_sequence), and that the
    /// acknowledgement is of what was sent and no older than a window (RFC 5961 section 5.2). `shift` is that of the windows that the
    /// end announces.
    #[inline(always)]
    pub const fn is_acceptable(&self, segment: &Segment, shift: u8) -> bool {
        segment.flags & (SYN | RST | ACK) == ACK
            && !is_before(segment.end(), self.confirmed)
            && is_at_most(segment.sequence, self.allowed)
            && self.may_acknowledge(segment.acknowledgement, shift)
    }

    /// Whether a RST may be one that the socket believes: it does at exactly the number that it expects (RFC 5961 section 3.2), and at the one
    /// before if that was a FIN (net/ipv4/tcp_input.c, tcp_reset_check). All that is known of that number is between which it is.
    #[inline(always)]
    pub const fn may_reset(&self, sequence: u32) -> bool {
        is_between(self.confirmed.wrapping_sub(1), sequence, self.reached)
    }

    /// Whether a RST is one: as [`Self::may_reset`], but where it would be a guess among many, it has to be at one of the ends. Whoever sends
    /// one takes its number from the acknowledgement that he answers, or from the end of what he has sent (RFC 9293 section 3.5.2). The
    /// correspondent answers one in between, and then comes the right one.
    #[inline(always)]
    pub const fn is_reset(&self, sequence: u32) -> bool {
        self.is_edge(sequence) || (self.has(FIN_TAKEN) && sequence == self.confirmed.wrapping_sub(1))
    }

    /// Whether a number is the first that was not acknowledged to the end, or the next that it sends.
    #[inline(always)]
    pub const fn is_edge(&self, sequence: u32) -> bool {
        sequence == self.confirmed
            || sequence == self.reached
            || (self.has(FIN_SEEN) && sequence == self.reached.wrapping_add(1))
    }

    /// Whether the end has sent something that was not acknowledged to it.
    #[inline(always)]
    pub const fn is_waiting(&self) -> bool {
        is_before(self.confirmed, self.reached) || (self.has(FIN_SEEN) && !self.has(FIN_TAKEN))
    }

    #[inline(always)]
    const fn may_acknowledge(&self, acknowledgement: u32, shift: u8) -> bool {
        let oldest = self.acknowledged.wrapping_sub(window_bytes(u16::MAX, shift));
        is_between(oldest, acknowledgement, self.sent)
    }

    /// Notes the acknowledgement of a segment that is acceptable; returns by how much it goes beyond all before.
    #[inline(always)]
    pub const fn acknowledge(&mut self, acknowledgement: u32) -> u32 {
        if !is_between(self.acknowledged, acknowledgement, self.sent) {
            return 0;
        }
        let advance = acknowledgement.wrapping_sub(self.acknowledged);
        self.acknowledged = acknowledgement;
        advance
    }

    /// Notes the time of a segment that is acceptable.
    #[inline(always)]
    pub const fn note_timestamp(&mut self, segment: &Segment) {
        if segment.has_timestamp {
            let is_first = !self.has(TIMESTAMP_SEEN);
            self.timestamp =
                if is_first { segment.timestamp } else { later(self.timestamp, segment.timestamp) };
            self.marks |= TIMESTAMP_SEEN;
        }
    }

    /// Notes what the balancer's socket sends to the end; `shift` is that of the windows that it announces.
    #[inline(always)]
    pub const fn note_sent(&mut self, segment: &Segment, shift: u8) {
        self.sent = later(self.sent, segment.end());
        if segment.flags & ACK != 0 {
            let shift = if segment.flags & SYN != 0 { 0 } else { shift };
            self.confirm(segment.acknowledgement, window_bytes(segment.window, shift));
        }
        if segment.has_timestamp {
            let is_first = !self.has(TIMESTAMP_SENT);
            self.timestamp_sent =
                if is_first { segment.timestamp } else { later(self.timestamp_sent, segment.timestamp) };
            self.marks |= TIMESTAMP_SENT;
        }
    }

    /// Notes what is acknowledged to the end and how much more it may send, in bytes.
    #[inline(always)]
    pub const fn confirm(&mut self, acknowledgement: u32, window: u32) {
        self.confirmed = later(self.confirmed, acknowledgement);
        self.allowed = later(self.allowed, acknowledgement.wrapping_add(window));
    }

    /// Whether an acknowledgement of what the end has sent includes its FIN. Every byte that arrives has passed here, so one more than all of
    /// them is the FIN.
    #[inline(always)]
    pub const fn is_of_fin(&self, acknowledgement: u32) -> bool {
        self.has(FIN_SEEN) && acknowledgement == self.reached.wrapping_add(1)
    }
}

impl Segment {
    /// The number behind it.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        end_of(self.sequence, self.payload, self.flags)
    }

    /// The number behind its payload.
    #[inline(always)]
    pub const fn payload_end(&self) -> u32 {
        self.sequence.wrapping_add(self.payload)
    }

    /// Whether it has payload or a FIN.
    #[inline(always)]
    pub const fn is_occupied(&self) -> bool {
        self.payload > 0 || self.flags & FIN != 0
    }
}
