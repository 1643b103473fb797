// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this kernel does with packets what path `packet` relies on: a table of packets through the programs (BPF_PROG_TEST_RUN,
//! Documentation/bpf/bpf_prog_run.rst), with nobody behind them. In some milliseconds, before the programs are at an interface.
//!
//! The flow that they are of lies in the maps beside those that another agent has left, in a slot that is free. No flow can be in its way: the
//! balancer's address is the unspecified one, which no packet on a wire may have for its destination (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.2).

pub(super) mod frame;

use std::io;
use std::time::Instant;

use aya::TestRun as _;
use aya::programs::SchedClassifier;
use lb_common::packet::flow::{End, Flow, Phase, Position, TIMESTAMP_SEEN, TIMESTAMP_SENT};
use lb_common::packet::record::{PACKET_EGRESS, PACKET_INGRESS, PACKET_INGRESS_L3, Record};
use lb_common::packet::tcp::Translation;

use self::frame::{Family, Frame, Link};
use super::{Keys, Packet, Slot, family, ports, way};
use crate::kernel::{SelfTestError, Step};

/// What programs say (include/uapi/linux/pkt_cls.h): TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// A number that no interface has, for nothing leaves.
const NOWHERE: u32 = i32::MAX as u32;

/// By how much each end shifts its windows.
const CLIENT_SHIFT: u8 = 7;
const SERVER_SHIFT: u8 = 9;

/// Tries one behaviour.
type Try<'a> = fn(&mut Rig<'a>) -> Result<(), SelfTestError>;

/// The programs, and a flow that they find.
struct Rig<'a> {
    packet: &'a Packet,
    slot: &'a Slot,
    keys: Keys,
    family: Family,
    link: Link,
    /// What is done to a flow before anything comes: nothing, but for tests of this.
    spoil: Spoil,
}

/// Changes a flow.
pub type Spoil = fn(&mut Record);

/// Tries every behaviour in a slot, and tells each that holds.
///
/// # Errors
/// The first that fails, or the kernel runs no program for its own sake.
pub fn run(packet: &Packet, slot: &Slot, passed: &mut dyn FnMut(Step)) -> Result<(), SelfTestError> {
    run_spoiled(packet, slot, |_| {}, passed)
}

/// The same, where programs find a flow otherwise than it should be.
///
/// # Errors
/// As [`run`].
pub fn run_spoiled(
    packet: &Packet,
    slot: &Slot,
    spoil: Spoil,
    passed: &mut dyn FnMut(Step),
) -> Result<(), SelfTestError> {
    // Should the agent be killed in here, the next one finds no flow.
    slot.disown();
    let keys = packet.keys().map_err(io::Error::other)?;
    let mut rig = Rig { packet, slot, keys, family: Family::V4, link: Link::Ethernet, spoil };
    for (behaviour, holds) in Rig::behaviours() {
        let begin = Instant::now();
        for family in [Family::V4, Family::V6] {
            for link in [Link::Ethernet, Link::Bare] {
                (rig.family, rig.link) = (family, link);
                rig.begin()?;
                // Once more: a softirq in the middle may use the memory that sums are made in, where the kernel runs programs for their own sake
                // with softirqs on. For packets it never does.
                if holds(&mut rig).is_err() {
                    rig.begin()?;
                    holds(&mut rig)?;
                }
            }
        }
        passed(Step { behaviour, took: begin.elapsed() });
    }
    Ok(())
}

impl<'a> Rig<'a> {
    /// Each in words and how it is tried, with a flow that is about to flip.
    fn behaviours() -> [(&'static str, Try<'a>); 5] {
        [
            ("packets of one connection become packets of the other", Self::translation),
            ("packets of nobody pass as they came", Self::strangers),
            ("a packet with a wrong checksum goes on and counts for nothing", Self::damage),
            ("what a socket says of a flow that has left it goes nowhere", Self::silence),
            ("a reset goes on and ends the flow", Self::reset),
        ]
    }

    /// A flow that is armed: the next segment of the server's flips it.
    fn begin(&mut self) -> Result<(), SelfTestError> {
        self.keys.withdraw(self.slot);
        let [client, server] = [true, false].map(|is_client| {
            let frame = if is_client { Frame::of_client(self.family) } else { Frame::of_server(self.family) };
            let at = Position { taken: frame.sequence, given: frame.acknowledgement };
            let [timestamp, timestamp_sent] = frame.timestamps;
            let marks = TIMESTAMP_SEEN | TIMESTAMP_SENT;
            (at, End { timestamp, timestamp_sent, marks, ..End::resumed(at, 0, 1 << 14) }, frame)
        });
        let to = |frame: &Frame, shift_from, shift_to| {
            let [source, destination] = frame.ends;
            // From the balancer to whom the frame comes from.
            let translation = Translation {
                ports: ports(destination, source),
                shift_from,
                shift_to,
                ..Translation::default()
            };
            (translation, way(destination.ip(), source.ip(), NOWHERE))
        };
        let (by_server, to_server) = to(&server.2, CLIENT_SHIFT, SERVER_SHIFT);
        let (by_client, to_client) = to(&client.2, SERVER_SHIFT, CLIENT_SHIFT);
        let mut flow = Flow::tracked([client.1, server.1], by_server, by_client);
        flow.timestamps = 1;
        flow.arm(client.0, server.0);
        self.slot.begin(Record::new(flow, family(client.2.ends[0].ip()), to_server, to_client));
        let published = self.keys.publish(self.slot);
        published.map_err(|refusal| io::Error::other(format!("no room for a flow: {refusal:?}")))?;
        self.slot.edit(self.spoil);
        Ok(())
    }

    /// An acknowledgement flips, and then bytes go both ways.
    fn translation(&mut self) -> Result<(), SelfTestError> {
        const FAILS: &str = "translating packets of one connection into those of the other";
        self.flip()?;
        let data = |frame: Frame| Frame { payload: b"there and back", ..frame };
        let (client, server) = (Frame::of_client(self.family), Frame::of_server(self.family));
        self.is_sent(&data(client), &data(Frame::to_server(self.family)), FAILS)?;
        self.is_sent(&data(server), &data(Frame::to_client(self.family)), FAILS)
    }

    fn flip(&mut self) -> Result<(), SelfTestError> {
        const FAILS: &str = "taking a flow over from its sockets";
        self.is_sent(&Frame::of_server(self.family), &Frame::to_client(self.family), FAILS)?;
        check(self.phase() == Phase::Spliced, FAILS)
    }

    fn strangers(&mut self) -> Result<(), SelfTestError> {
        self.flip()?;
        let mut frame = Frame::of_client(self.family);
        frame.ends[0].set_port(frame.ends[0].port() + 1);
        let frame = frame.bytes(self.link);
        check(self.comes_in(&frame)? == (UNSPEC, frame), "leaving alone what is of no flow")
    }

    fn damage(&mut self) -> Result<(), SelfTestError> {
        const FAILS: &str = "disbelieving what was changed on its way";
        self.flip()?;
        let mut frame = Frame { flags: frame::RST, ..Frame::of_client(self.family) }.bytes(self.link);
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let (action, _) = self.comes_in(&frame)?;
        check(action == REDIRECT && self.phase() == Phase::Spliced, FAILS)
    }

    fn silence(&mut self) -> Result<(), SelfTestError> {
        self.flip()?;
        if self.link == Link::Bare {
            // The kernel takes it for what its address says, see `Frame::bytes`: that of the balancer says nothing.
            return Ok(());
        }
        let frame = Frame::to_client(self.family).bytes(self.link);
        let (action, _) = self.run(PACKET_EGRESS, &frame)?;
        check(action == SHOT, "silencing the sockets of a flow that has left them")
    }

    fn reset(&mut self) -> Result<(), SelfTestError> {
        const FAILS: &str = "ending a flow with a reset";
        self.flip()?;
        let reset = |frame: Frame| Frame { flags: frame::RST, acknowledgement: 0, ..frame };
        let (came, goes) = (Frame::of_client(self.family), Frame::to_server(self.family));
        self.is_sent(&reset(came), &reset(goes), FAILS)?;
        check(self.phase() == Phase::Closing, FAILS)
    }

    /// Whether a frame that comes in leaves as another.
    fn is_sent(&self, came: &Frame, goes: &Frame, fails: &'static str) -> Result<(), SelfTestError> {
        let (action, out) = self.comes_in(&came.bytes(self.link))?;
        // What came without a link header gets one of zeros.
        let packet_at = Link::Ethernet.len();
        let expected = goes.bytes(Link::Bare);
        check(action == REDIRECT && out.get(packet_at..) == Some(&expected[..]), fails)
    }

    fn comes_in(&self, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
        self.run(if self.link == Link::Ethernet { PACKET_INGRESS } else { PACKET_INGRESS_L3 }, frame)
    }

    /// What a program says of a frame, and the frame after it.
    fn run(&self, name: &str, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
        let programs = self.packet.programs();
        let program = programs.ebpf.program(name).ok_or(io::ErrorKind::NotFound)?;
        let program: &SchedClassifier = program.try_into().map_err(io::Error::other)?;
        let mut out = vec![0; frame.len() + Link::Ethernet.len()];
        let options = aya::TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..aya::TestRunOptions::new()
        };
        let result = program.test_run(options).map_err(io::Error::other)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    fn phase(&self) -> Phase {
        self.slot.edit(|record| record.flow.phase())
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        self.keys.withdraw(self.slot);
    }
}

fn check(holds: bool, fails: &'static str) -> Result<(), SelfTestError> {
    if holds { Ok(()) } else { Err(SelfTestError::Behaviour(fails)) }
}
