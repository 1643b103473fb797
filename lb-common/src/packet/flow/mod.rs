// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a flow, segment by segment: what becomes of each, and what it makes of the flow.
//!
//! ```text
//!            arm                    flip                 FIN taken, RST         agent, or SYN of another
//!  Track ──────────▶ Armed ────────────────▶ Spliced ────────────────▶ Closing ─────────────────────────▶ Gone
//!   │ ▲               │ │                       │                                                          ▲
//!   │ └───────────────┘ │                       │                                                          │
//!   │ what does not fit │                       │                                                          │
//!   └───────────────────┴─── misfit, agent ─────┴────────────────────── agent ─────────────────────────────┘
//! ```
//!
//! Until the flip the balancer's two sockets carry the flow, and every segment goes to one of them. The flow is armed when the agent has read
//! all that came and knows what it has sent, or is about to: from then on one byte of each end is the next for the other ([`Position`]).
//! The **flip** is a single segment's, under the lock of the flow, and strict: no socket was ever given anything beyond those bytes,
//! and both ends have acknowledged all that the balancer has sent. So no socket holds anything that somebody still needs: both are silenced
//! and thrown away. That segment and all after it are translated. It may be a bare acknowledgement, and mostly is: that of the server for
//! what it was sent first. Something new that comes while the flow is armed but may not flip goes to the socket, and the flow is armed no more.
//! What nobody here understands leaves the flow to its sockets for good ([`Flow::misfit`]).
//!
//! For this to hold, all that the sockets send has to come by ([`Flow::sent`]) from the end of the handshake on, or from when they were asked
//! for their numbers ([`End::resumed`]), as they write it. For then it is known what they take: what they refuse does not count, so that nobody
//! who only guesses at numbers changes anything.
//!
//! A flow is one for both directions: whoever changes it holds its lock, before the flip and after it.
//!
//! After the flip every segment is passed on, whatever it says, and the ends judge it. Here it counts only if its receiver would take it. So
//! a FIN or RST with invented numbers changes nothing, nor does one that was changed on its way ([`Checksum`]). A FIN counts when its receiver acknowledges it. Payload counts when it is
//! acknowledged, and so never twice.

mod end;
mod outcome;
mod proof;
mod rtt;

use super::sequence::{is_at_most, is_before, later};
use super::tcp::{ACK, FIN, RST, SYN, Translation, scaled_window, timestamp_add, window_bytes};
pub use end::{End, FIN_SEEN, FIN_TAKEN, RESET, TIMED, TIMESTAMP_SEEN, TIMESTAMP_SENT};
pub use outcome::{Misfit, Outgoing, Phase, Side, Verdict};
pub use proof::Checksum;
pub use rtt::{RoundTrip, TICK_NS};

/// A segment, by what the state of a flow depends on. In this order, which `lb-ebpf` relies on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The number of the first byte.
    pub sequence: u32,
    /// What is acknowledged, if [`ACK`] is set.
    pub acknowledgement: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// TSval, if there is one.
    pub timestamp: u32,
    /// The window as it is written.
    pub window: u16,
    /// FIN to CWR.
    pub flags: u8,
    /// Whether there is a TSval.
    pub has_timestamp: bool,
    /// Whether it is what was sent.
    pub checksum: Checksum,
}

/// Where the balancer stands with an end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The next byte of the end that is the other's: all before it were read from the socket.
    pub taken: u32,
    /// The next byte that the end expects of the other: all before it were written to the socket, or are about to be.
    pub given: u32,
}

/// A flow. It lies in memory that programs and user space share, so that it is made of numbers, any of which is a valid one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it is in its life: [`Phase::from_index`].
    pub phase: u32,
    /// Whether timestamps are in use: 1, or else 0.
    pub timestamps: u32,
    /// The client, in the numbers of its connection.
    pub client: End,
    /// The server, in the numbers of its connection.
    pub server: End,
    /// Of the client, once it is armed.
    pub client_position: Position,
    /// Of the server, once it is armed.
    pub server_position: Position,
    /// For what comes from the client. Until the flip only ports and shifts hold.
    pub to_server: Translation,
    /// For what comes from the server, likewise.
    pub to_client: Translation,
    /// Payload that the server has acknowledged since the flip, in bytes.
    pub delivered_to_server: u64,
    /// Payload that the client has acknowledged since the flip, in bytes.
    pub delivered_to_client: u64,
    /// When the flow was last moved on since the flip, in nanoseconds: by bytes or an end that nobody had sent before, or by their
    /// acknowledgement. Questions whether somebody is there, and their answers, move nothing.
    pub seen_ns: u64,
}

/// An end, the other one, what comes from the first is translated by, and what the first has been delivered of the other's.
type Parts<'a> = (&'a mut End, &'a mut End, &'a Translation, &'a mut u64);

impl Flow {
    /// A flow whose handshakes are over. Of the translations, ports and shifts have to be set.
    pub const fn tracked(ends: [End; 2], to_server: Translation, to_client: Translation) -> Self {
        let [client, server] = ends;
        let nowhere = Position { taken: 0, given: 0 };
        Self {
            phase: Phase::Track as u32,
            timestamps: 0,
            client,
            server,
            client_position: nowhere,
            server_position: nowhere,
            to_server,
            to_client,
            delivered_to_server: 0,
            delivered_to_client: 0,
            seen_ns: 0,
        }
    }

    /// Where it is in its life.
    #[inline(always)]
    pub const fn phase(&self) -> Phase {
        Phase::from_index(self.phase)
    }

    #[inline(always)]
    const fn go_to(&mut self, phase: Phase) {
        self.phase = phase as u32;
    }

    /// What to do with a segment that came from a side, at a time that only counts from [`Flow::seen_ns`].
    #[inline(always)]
    pub const fn received(&mut self, side: Side, segment: &Segment, now_ns: u64) -> Verdict {
        if matches!(segment.checksum, Checksum::Wrong) {
            return self.disbelieve(segment);
        }
        match self.phase() {
            Phase::Track => {
                self.note(side, segment);
                Verdict::ToSocket
            }
            Phase::Armed => self.received_armed(side, segment, now_ns),
            Phase::Spliced | Phase::Closing => self.carry(side, segment, now_ns),
            Phase::Gone => Verdict::ToSocket,
        }
    }

    /// What to do with a segment that the balancer's socket sends to a side.
    #[inline(always)]
    pub const fn sent(&mut self, side: Side, segment: &Segment) -> Outgoing {
        match self.phase() {
            Phase::Spliced | Phase::Closing => return Outgoing::Silenced,
            Phase::Gone => return Outgoing::Sent,
            Phase::Track | Phase::Armed => {}
        }
        let (end, given, shift) = match side {
            Side::Client => (&mut self.client, self.client_position.given, self.to_client.shift_to),
            Side::Server => (&mut self.server, self.server_position.given, self.to_server.shift_to),
        };
        // A reset may be one that was sent again for the flow that had the same ends before, with its numbers.
        if segment.flags & RST == 0 {
            end.note_sent(segment, shift);
        }
        let is_foreign = segment.flags & (FIN | RST) != 0 || is_before(given, end.sent);
        if matches!(self.phase(), Phase::Armed) && is_foreign {
            self.go_to(Phase::Track);
            return Outgoing::Disarmed;
        }
        Outgoing::Sent
    }

    /// What to do with a packet from a side or to it whose segment nobody here understands, or that cannot be translated.
    ///
    /// Before the flip a socket may take it, and then has what nobody here knows of: so the flow stays with its sockets for good.
    #[inline(always)]
    pub const fn misfit(&mut self) -> Misfit {
        match self.phase() {
            Phase::Track | Phase::Armed => {
                self.go_to(Phase::Gone);
                Misfit::Abandoned
            }
            Phase::Spliced | Phase::Closing => Misfit::Dropped,
            Phase::Gone => Misfit::ToSocket,
        }
    }

    /// Arms a flow that is tracked.
    pub const fn arm(&mut self, client: Position, server: Position) {
        if matches!(self.phase(), Phase::Track) {
            (self.client_position, self.server_position) = (client, server);
            self.go_to(Phase::Armed);
        }
    }

    /// Takes it back, because the agent wants to read or write; whether it was not too late.
    pub const fn disarm(&mut self) -> bool {
        if matches!(self.phase(), Phase::Armed) {
            self.go_to(Phase::Track);
        }
        matches!(self.phase(), Phase::Track)
    }

    /// Whether both ends have acknowledged the other's FIN, or one has reset it.
    #[inline(always)]
    pub const fn is_over(&self) -> bool {
        (self.client.marks | self.server.marks) & RESET != 0
            || self.client.marks & self.server.marks & FIN_TAKEN != 0
    }

    /// One side's end.
    #[inline(always)]
    pub const fn end(&self, side: Side) -> &End {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    #[inline(always)]
    const fn parts(&mut self, side: Side) -> Parts<'_> {
        match side {
            Side::Client => {
                (&mut self.client, &mut self.server, &self.to_server, &mut self.delivered_to_client)
            }
            Side::Server => {
                (&mut self.server, &mut self.client, &self.to_client, &mut self.delivered_to_server)
            }
        }
    }

    /// Takes down a segment for a socket; whether the socket takes it.
    #[inline(always)]
    const fn note(&mut self, side: Side, segment: &Segment) -> bool {
        let (from, _, by, _) = self.parts(side);
        if !from.is_acceptable(segment, by.shift_from) {
            return false;
        }
        from.acknowledge(segment.acknowledgement);
        from.note_timestamp(segment);
        if segment.is_occupied() {
            from.reached = later(from.reached, segment.end());
        }
        true
    }

    #[inline(always)]
    const fn received_armed(&mut self, side: Side, segment: &Segment, now_ns: u64) -> Verdict {
        if segment.flags & RST != 0 && self.end(side).may_reset(segment.sequence) {
            self.go_to(Phase::Track);
            return Verdict::Disarmed;
        }
        let is_clean = self.is_clean();
        if !self.note(side, segment) {
            return Verdict::ToSocket;
        }
        if is_clean && self.is_drained() && self.knows_timestamps() {
            self.flip(now_ns);
            self.carry(side, segment, now_ns);
            return Verdict::Flipped;
        }
        if self.is_clean() {
            return Verdict::ToSocket;
        }
        self.go_to(Phase::Track);
        Verdict::Disarmed
    }

    /// Whether no socket was given anything beyond what was taken from it.
    #[inline(always)]
    const fn is_clean(&self) -> bool {
        is_at_most(self.client.reached, self.client_position.taken)
            && is_at_most(self.server.reached, self.server_position.taken)
    }

    /// Whether both ends have acknowledged all that the balancer has sent.
    #[inline(always)]
    const fn is_drained(&self) -> bool {
        self.client.acknowledged == self.client_position.given
            && self.server.acknowledged == self.server_position.given
    }

    #[inline(always)]
    const fn knows_timestamps(&self) -> bool {
        const BOTH: u32 = TIMESTAMP_SEEN | TIMESTAMP_SENT;
        self.timestamps == 0 || self.client.marks & self.server.marks & BOTH == BOTH
    }

    /// Makes the two connections one: from the two positions on, the numbers differ by constants.
    #[inline(always)]
    const fn flip(&mut self, now_ns: u64) {
        let (client, server) = (self.client_position, self.server_position);
        self.to_server.sequence_add = server.given.wrapping_sub(client.taken);
        self.to_server.acknowledgement_add = server.taken.wrapping_sub(client.given);
        self.to_client.sequence_add = client.given.wrapping_sub(server.taken);
        self.to_client.acknowledgement_add = client.taken.wrapping_sub(server.given);
        if self.timestamps != 0 {
            let (to_server, to_client) = (
                timestamp_add(self.server.timestamp_sent, self.client.timestamp),
                timestamp_add(self.client.timestamp_sent, self.server.timestamp),
            );
            (self.to_server.timestamp_add, self.to_client.echo_add) = (to_server, to_server.wrapping_neg());
            (self.to_client.timestamp_add, self.to_server.echo_add) = (to_client, to_client.wrapping_neg());
        }
        // What the segment of the flip itself has brought is not a socket's.
        (self.client.reached, self.server.reached) = (client.taken, server.taken);
        self.client.reset_stopwatch(now_ns);
        self.server.reset_stopwatch(now_ns);
        self.seen_ns = now_ns;
        self.go_to(Phase::Spliced);
    }

    /// Takes down a segment that is translated.
    #[inline(always)]
    const fn carry(&mut self, side: Side, segment: &Segment, now_ns: u64) -> Verdict {
        if segment.flags & SYN != 0 {
            if segment.flags & ACK != 0 || !self.is_over() {
                return Verdict::Translated;
            }
            self.go_to(Phase::Gone);
            return Verdict::Another;
        }
        let (from, to, by, delivered) = self.parts(side);
        if segment.flags & RST != 0 {
            if from.is_reset(segment.sequence) {
                from.marks |= RESET;
                self.go_to(Phase::Closing);
                self.seen_ns = now_ns;
            }
            return Verdict::Translated;
        }
        if !from.is_acceptable(segment, by.shift_from) {
            return Verdict::Translated;
        }
        let (reached, acknowledged, marks) = (from.reached, from.acknowledged, from.marks);
        if segment.is_occupied() {
            from.marks |= if segment.flags & FIN != 0 { FIN_SEEN } else { 0 };
            from.reached = later(from.reached, segment.payload_end());
            let first = segment.sequence.wrapping_add(by.sequence_add);
            to.time_sent(first, from.reached != reached, now_ns);
            to.sent = later(to.sent, segment.end().wrapping_add(by.sequence_add));
        }
        let is_first_of_fin = take_acknowledgement(from, to, by, delivered, segment);
        from.time_acknowledged(now_ns);
        if from.reached != reached || from.acknowledged != acknowledged || from.marks != marks {
            self.seen_ns = now_ns;
        }
        if is_first_of_fin {
            self.go_to(Phase::Closing);
        }
        Verdict::Translated
    }
}

/// Takes down what a segment acknowledges and how much more it allows; whether the other end's FIN is acknowledged for the first time.
#[inline(always)]
const fn take_acknowledgement(
    from: &mut End,
    to: &mut End,
    by: &Translation,
    delivered: &mut u64,
    segment: &Segment,
) -> bool {
    let advance = from.acknowledge(segment.acknowledgement);
    let acknowledgement = segment.acknowledgement.wrapping_add(by.acknowledgement_add);
    let is_first_of_fin = advance > 0 && !to.has(FIN_TAKEN) && to.is_of_fin(acknowledgement);
    *delivered += advance as u64 - is_first_of_fin as u64;
    let window = scaled_window(segment.window, by.shift_from, by.shift_to);
    to.confirm(acknowledgement, window_bytes(window, by.shift_to));
    if is_first_of_fin {
        to.marks |= FIN_TAKEN;
    }
    is_first_of_fin
}
