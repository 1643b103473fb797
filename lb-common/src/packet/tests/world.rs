// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client, a server and the balancer between them: its two sockets, its agent, and the flow that is tested. Wires lose, double and
//! reorder what a schedule says.

extern crate std;

use std::vec::Vec;

use super::ends::{SYN_WINDOW, Sent, Tcp};
use super::witness::Witness;
use crate::packet::flow::{Checksum, End, Flow, Outgoing, Phase, RoundTrip, Segment, Side, Verdict};
use crate::packet::tcp::{self, ACK, SYN, Translation};

/// What differs from flow to flow.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The numbers of the SYNs: client, balancer to client, balancer to server, server.
    pub syns: [u32; 4],
    /// The shifts of windows, likewise.
    pub shifts: [u8; 4],
    /// The clocks, likewise.
    pub clocks: [u32; 4],
    pub has_timestamps: bool,
    /// Bytes that the balancer sends to the server before the client's.
    pub header: u64,
    /// From one event to the next.
    pub step_ns: u64,
}

/// Where segments are on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    From(Side),
    To(Side),
}

/// All of it.
#[derive(Debug)]
pub struct World {
    ends: [Tcp; 2],
    sockets: [Tcp; 2],
    from: [Vec<Sent>; 2],
    to: [Vec<Sent>; 2],
    pub flow: Flow,
    /// What positions differ by after the flip, and the payload that the ends had then: to the server, to the client.
    offsets: [i64; 2],
    at_flip: [u64; 2],
    pub witness: Witness,
    now_ns: u64,
    step_ns: u64,
}

fn index(side: Side) -> usize {
    side.index()
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let ([c, lc, ls, s], [wc, wlc, wls, ws]) = (setup.syns, setup.shifts);
        let clock = |index: usize| setup.has_timestamps.then_some(setup.clocks[index]);
        let ends = [Tcp::new((c, lc), (wc, wlc), clock(0)), Tcp::new((s, ls), (ws, wls), clock(3))];
        let mut sockets = [Tcp::new((lc, c), (wlc, wc), clock(1)), Tcp::new((ls, s), (wls, ws), clock(2))];
        sockets[1].written = setup.header;
        let known = [End::established(c, lc, SYN_WINDOW), End::established(s, ls, SYN_WINDOW)];
        let by = |shift_from, shift_to| Translation { shift_from, shift_to, ..Translation::default() };
        let mut flow = Flow::tracked(known, by(wc, wls), by(ws, wlc));
        flow.timestamps = setup.has_timestamps.into();
        for (side, sequence, acknowledgement, clock) in
            [(Side::Client, lc, c.wrapping_add(1), 1), (Side::Server, ls, s.wrapping_add(1), 2)]
        {
            let syn = Segment {
                sequence,
                acknowledgement,
                timestamp: setup.clocks[clock],
                window: SYN_WINDOW,
                flags: SYN | ACK,
                has_timestamp: setup.has_timestamps,
                ..Segment::default()
            };
            assert_eq!(flow.sent(side, &syn), Outgoing::Sent);
        }
        let empty = || [Vec::new(), Vec::new()];
        let mut world = Self {
            ends,
            sockets,
            from: empty(),
            to: empty(),
            flow,
            offsets: [0; 2],
            at_flip: [0; 2],
            witness: Witness::default(),
            now_ns: 1,
            step_ns: setup.step_ns,
        };
        // The last of the client's handshake.
        world.acknowledge(Side::Client);
        world.deliver(Wire::From(Side::Client), 0);
        world
    }

    pub fn is_spliced(&self) -> bool {
        matches!(self.flow.phase(), Phase::Spliced | Phase::Closing)
    }

    pub fn end(&mut self, side: Side) -> &mut Tcp {
        &mut self.ends[index(side)]
    }

    pub fn wire(&mut self, wire: Wire) -> &mut Vec<Sent> {
        match wire {
            Wire::From(side) => &mut self.from[index(side)],
            Wire::To(side) => &mut self.to[index(side)],
        }
    }

    pub fn send(&mut self, side: Side, len: u64) {
        let sent = self.ends[index(side)].send(len);
        self.from[index(side)].extend(sent);
    }

    pub fn resend(&mut self, side: Side, len: u64) {
        let sent = self.ends[index(side)].resend(len);
        self.from[index(side)].extend(sent);
    }

    pub fn acknowledge(&mut self, side: Side) {
        let sent = self.ends[index(side)].acknowledge();
        self.from[index(side)].push(sent);
    }

    pub fn reset(&mut self, side: Side) {
        let sent = self.ends[index(side)].reset();
        self.from[index(side)].push(sent);
    }

    /// Time goes on; no two clocks are alike.
    pub fn tick(&mut self) {
        self.now_ns += self.step_ns;
        for (tcp, step) in self.ends.iter_mut().chain(&mut self.sockets).zip([1, 3, 2, 2]) {
            tcp.clock = tcp.clock.wrapping_add(step);
        }
    }

    /// The agent reads and writes what there is, and arms again.
    pub fn run_agent(&mut self) {
        if !self.flow.disarm() {
            return;
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let fresh = self.sockets[from].payload() - self.sockets[from].read;
            self.sockets[from].read += fresh;
            self.sockets[to].written += fresh;
            self.sockets[to].is_closed |= self.sockets[from].is_ended();
        }
        if !self.sockets.iter().any(|socket| socket.is_closed) {
            self.flow.arm(self.sockets[0].position(), self.sockets[1].position());
        }
    }

    /// A socket of the balancer sends what it may, and what it owes.
    pub fn run_socket(&mut self, side: Side, len: u64) {
        let sent = self.sockets[index(side)].send(len);
        if let Some(sent) = sent {
            self.socket_sends(side, sent);
        } else if self.sockets[index(side)].owes_acknowledgement {
            let sent = self.sockets[index(side)].acknowledge();
            self.socket_sends(side, sent);
        }
    }

    pub fn resend_from_socket(&mut self, side: Side, len: u64) {
        if let Some(sent) = self.sockets[index(side)].resend(len) {
            self.socket_sends(side, sent);
        }
    }

    fn socket_sends(&mut self, side: Side, sent: Sent) {
        match self.flow.sent(side, &sent.segment) {
            Outgoing::Sent | Outgoing::Disarmed => self.to[index(side)].push(sent),
            Outgoing::Silenced => assert!(self.is_spliced()),
        }
    }

    /// A segment arrives where its wire ends.
    pub fn deliver(&mut self, wire: Wire, place: usize) {
        let sent = self.wire(wire).remove(place);
        match wire {
            Wire::To(side) => {
                let answer = self.ends[index(side)].receive(&sent);
                self.from[index(side)].extend(answer);
            }
            Wire::From(side) => self.arrive(side, sent),
        }
        self.check();
    }

    /// A segment arrives at the balancer.
    pub fn arrive(&mut self, side: Side, sent: Sent) {
        match self.receive(side, &sent.segment) {
            Verdict::ToSocket | Verdict::Disarmed => {
                assert!(!self.is_spliced());
                if let Some(answer) = self.sockets[index(side)].receive(&sent) {
                    self.socket_sends(side, answer);
                }
            }
            Verdict::Flipped => {
                // What it acknowledges, the socket has not been told.
                self.sockets[index(side)].take_acknowledgement(&sent.segment);
                self.discard_sockets();
                self.forward(side, sent);
            }
            Verdict::Translated => self.forward(side, sent),
            Verdict::Another => assert!(sent.segment.flags & SYN != 0),
        }
    }

    /// What becomes of a segment, under the eyes of the witness.
    fn receive(&mut self, side: Side, segment: &Segment) -> Verdict {
        (self.flow.client.round_trip, self.flow.server.round_trip) = (RoundTrip::NONE, RoundTrip::NONE);
        let before = self.flow;
        let verdict = self.flow.received(side, segment, self.now_ns);
        for end in Side::ALL {
            self.witness.judge(end, before.end(end), self.flow.end(end), self.now_ns);
        }
        let by = self.translation(side);
        let counts =
            segment.checksum != Checksum::Wrong && before.end(side).is_acceptable(segment, by.shift_from);
        if counts && matches!(verdict, Verdict::Flipped | Verdict::Translated) {
            let first = segment.sequence.wrapping_add(by.sequence_add);
            self.witness.note(side.other(), self.now_ns, first, segment.payload);
        }
        verdict
    }

    fn translation(&self, side: Side) -> Translation {
        match side {
            Side::Client => self.flow.to_server,
            Side::Server => self.flow.to_client,
        }
    }

    /// Nothing that anybody needs is thrown away with the sockets: the point of the rule.
    fn discard_sockets(&mut self) {
        let [client, server] = &self.sockets;
        assert!(client.is_empty() && server.is_empty(), "{client:?}\n{server:?}");
        let signed = |position: u64| i64::try_from(position).expect("a short stream");
        self.offsets =
            [signed(server.written) - signed(client.read), signed(client.written) - signed(server.read)];
        self.at_flip = [self.ends[1].payload(), self.ends[0].payload()];
    }

    fn forward(&mut self, side: Side, sent: Sent) {
        let (by, offset, to) = (self.translation(side), self.offsets[index(side)], side.other());
        let Segment { sequence, acknowledgement, timestamp, window, flags, .. } = sent.segment;
        let words = [0, sequence, acknowledgement, u32::from(flags) << 16 | u32::from(window), 0];
        let (header, _) = tcp::Tcp(words).translated(&by);
        let segment = Segment {
            sequence: header.sequence(),
            acknowledgement: header.acknowledgement(),
            timestamp: timestamp.wrapping_add(by.timestamp_add),
            window: header.window(),
            ..sent.segment
        };
        let position = sent.position.wrapping_add_signed(offset);
        self.to[index(to)].push(Sent { segment, position });
    }

    /// No byte counts before it has arrived, and none twice.
    fn check(&self) {
        if self.is_spliced() {
            let [to_server, to_client] = self.arrived();
            assert!(self.flow.delivered_to_server <= to_server, "{:?}", self.flow);
            assert!(self.flow.delivered_to_client <= to_client, "{:?}", self.flow);
        }
    }

    /// Payload that arrived since the flip: at the server, at the client.
    pub fn arrived(&self) -> [u64; 2] {
        [self.ends[1].payload() - self.at_flip[0], self.ends[0].payload() - self.at_flip[1]]
    }

    /// Nothing gets lost any more, until nothing is on its way.
    pub fn settle(&mut self) {
        for _ in 0..500 {
            self.tick();
            for side in Side::ALL {
                for wire in [Wire::From(side), Wire::To(side)] {
                    (0..self.wire(wire).len()).for_each(|_| self.deliver(wire, 0));
                }
            }
            self.run_agent();
            let is_quiet = self.from.iter().chain(&self.to).all(Vec::is_empty);
            for side in Side::ALL {
                self.run_end(side, is_quiet);
            }
            let sockets = if self.is_spliced() { &[][..] } else { &self.sockets[..] };
            let is_done = |tcp: &Tcp| tcp.is_reset || (tcp.is_drained() && !tcp.owes_acknowledgement);
            if is_quiet && self.ends.iter().chain(sockets).all(is_done) {
                return;
            }
        }
        panic!("it hangs: {self:?}");
    }

    fn run_end(&mut self, side: Side, is_quiet: bool) {
        self.send(side, 20_000);
        if is_quiet {
            self.resend(side, 20_000);
        }
        if self.ends[index(side)].owes_acknowledgement {
            self.acknowledge(side);
        }
        if !self.is_spliced() {
            self.run_socket(side, 20_000);
            if is_quiet {
                self.resend_from_socket(side, 20_000);
            }
        }
    }
}
