// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow in the maps, and packets for the programs.

use std::os::fd::AsFd as _;

use aya::TestRun as _;
use aya::programs::SchedClassifier;
use lb_common::packet::flow::{End, Flow, Phase, Side};
use lb_common::packet::ip::Addresses;
use lb_common::packet::record::{
    PACKET_EGRESS, PACKET_EGRESS_L3, PACKET_INGRESS, PACKET_INGRESS_L3, RUNG, Record, V4, V6, Way, v4_mapped,
};
use lb_common::packet::tcp::Translation;

use super::super::{Bells, Counters, Counts, Keys, Packet, Slot};
use super::model::{Change, Ends, Shape};
pub use crate::kernel::packet::self_test::frame::{Family, Link};
use crate::kernel::tests::is_privileged;
use crate::kernel::{LoadError, bpf, load_packet};

/// What a program says (include/uapi/linux/pkt_cls.h): TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// Where struct __sk_buff has `ingress_ifindex`, and as much of it as is needed (include/uapi/linux/bpf.h).
const INGRESS_INTERFACE: usize = 36;
const CONTEXT_LEN: usize = 44;

/// The ends of the flow by which the programs are tested.
pub const CLIENT: Side = Side::Client;
pub const SERVER: Side = Side::Server;

/// All that there is of both.
pub const PLACES: [(Family, Link); 4] = [
    (Family::V4, Link::Ethernet),
    (Family::V4, Link::Bare),
    (Family::V6, Link::Ethernet),
    (Family::V6, Link::Bare),
];

/// What an interface has said of the sum of all bytes of a packet (include/linux/skbuff.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Nothing (CHECKSUM_NONE).
    None,
    /// What it is (CHECKSUM_COMPLETE). It has to be that of what comes out.
    Complete,
}

/// Whether the kernel can run a program with a packet whose sum is known, by its release.
pub fn knows_sums() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_str().expect("a release is plain text");
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

/// Where a packet's sum can be known. Without a link header the kernel takes 14 bytes for one (see [`address`]), and leaves them out of the sum.
const SUMMED: [(Family, Link, Sum); 2] =
    [(Family::V4, Link::Ethernet, Sum::Complete), (Family::V6, Link::Ethernet, Sum::Complete)];

/// What became of a packet, with its bytes from the IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Passed(Vec<u8>),
    Sent(Vec<u8>),
    Dropped,
}

/// The programs, and a flow that they find.
pub struct Bench {
    pub family: Family,
    pub link: Link,
    pub sum: Sum,
    pub packet: Packet,
    bells: Bells,
    pub keys: Keys,
    pub slot: Slot,
    counters: Counters,
    /// What they said when the test began.
    before: Counts,
}

/// An address of the flow: 0 the client, 1 the balancer as the client knows it, 2 as the server does, 3 the server.
///
/// For a program without a link header the kernel takes the first 14 bytes of what it is given for one all the same (net/bpf/test_run.c,
/// bpf_prog_test_run_skb, eth_type_trans): two bytes of the source's address have to be the protocol's number.
pub fn address(family: Family, number: u8) -> Vec<u8> {
    match family {
        Family::V4 => vec![0x08, 0x00, number, number + 1],
        Family::V6 => {
            let mut address = vec![0x20, 0x01, 0x0d, 0xb8, 0x86, 0xdd, 0, number];
            address.extend([0, 0, 0, 0, 0, 0, 0, number + 1]);
            address
        }
    }
}

/// The ports of the flow, likewise.
pub const PORTS: [u16; 4] = [40_000, 443, 50_000, 8_443];

/// From whom and to whom a packet goes that an end has sent.
pub fn ends_from(family: Family, from: Side) -> (Ends, (u16, u16)) {
    let (remote, local) = if from == CLIENT { (0, 1) } else { (3, 2) };
    let ends = (address(family, remote), address(family, local));
    (ends, (PORTS[usize::from(remote)], PORTS[usize::from(local)]))
}

/// The same of one that the balancer has sent to an end.
pub fn ends_to(family: Family, to: Side) -> (Ends, (u16, u16)) {
    let ((remote, local), (remote_port, local_port)) = ends_from(family, to);
    ((local, remote), (local_port, remote_port))
}

/// A bare acknowledgement that an end has sent.
pub fn shape(family: Family, from: Side) -> Shape {
    let (ends, ports) = ends_from(family, from);
    Shape {
        ends,
        hops: 64,
        ports,
        sequence: 0,
        acknowledgement: 0,
        flags: 0x10,
        window: 1_000,
        urgent: 0,
        options: Vec::new(),
        payload: Vec::new(),
        padding: 0,
    }
}

/// The same that the balancer's socket has sent.
pub fn shape_to(family: Family, to: Side) -> Shape {
    let (ends, ports) = ends_to(family, to);
    Shape { ends, ports, ..shape(family, to) }
}

/// What the model makes of what an end has sent, once it is translated by numbers that only the test needs to know.
pub fn change(family: Family, from: Side) -> Change {
    let (ends, ports) = ends_to(family, from.other());
    let sign = |number: u32| if from == CLIENT { number } else { number.wrapping_neg() };
    Change {
        ends,
        ports,
        sequence_add: sign(0x1234_5678),
        acknowledgement_add: sign(0x9abc_def0),
        timestamp_add: sign(0x0f1e_2d3c),
        echo_add: sign(0x4b5a_6978),
        shifts: if from == CLIENT { (7, 9) } else { (9, 7) },
    }
}

/// The translation of a change.
pub fn translation(change: &Change) -> Translation {
    Translation {
        ports: u32::from(change.ports.0) << 16 | u32::from(change.ports.1),
        sequence_add: change.sequence_add,
        acknowledgement_add: change.acknowledgement_add,
        timestamp_add: change.timestamp_add,
        echo_add: change.echo_add,
        shift_from: change.shifts.0,
        shift_to: change.shifts.1,
    }
}

/// How packets leave that are changed so.
pub fn way(change: &Change) -> Way {
    let words = |bytes: &[u8]| -> [u32; 4] {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        if bytes.len() == 4 { v4_mapped(word(0)) } else { [word(0), word(4), word(8), word(12)] }
    };
    let addresses = Addresses { source: words(&change.ends.0), destination: words(&change.ends.1) };
    Way { addresses, interface: 1, ..Way::default() }
}

/// A flow in a phase, of which nothing is known but what its packets are translated by.
pub fn record(family: Family, phase: Phase) -> Record {
    let [to_server, to_client] = Side::ALL.map(|side| change(family, side));
    let ends = [End::default(); 2];
    let mut flow = Flow::tracked(ends, translation(&to_server), translation(&to_client));
    flow.phase = phase as u32;
    let version = if family == Family::V4 { V4 } else { V6 };
    Record::new(flow, version, way(&to_server), way(&to_client))
}

/// The programs; `None`, if this thread may not load them.
#[track_caller]
pub fn loaded(flows: u32) -> Option<(Packet, Bells)> {
    match load_packet(flows) {
        Ok(loaded) => Some(loaded),
        Err(LoadError::NoPrivilege(_)) if !is_privileged() => None,
        Err(error) => panic!("{error}: {error:?}"),
    }
}

impl Bench {
    /// The programs with a flow; `None`, if this thread may not load them.
    #[track_caller]
    pub fn new(family: Family, link: Link, record: Record) -> Option<Self> {
        let (packet, bells) = loaded(4)?;
        let (slot, counters) = (packet.slot().expect("a slot"), packet.counters().expect("descriptors"));
        let mut keys = packet.keys().expect("descriptors");
        slot.begin(record);
        keys.publish(&slot).expect("nobody has them");
        let before = counters.read().expect("memory");
        Some(Self { family, link, sum: Sum::None, packet, bells, keys, slot, counters, before })
    }

    /// Runs a test at each of [`PLACES`], and of [`SUMMED`] where the kernel can, with a flow of its own: loading the programs takes longer than most tests.
    #[track_caller]
    pub fn at_each_place(record: impl Fn(Family) -> Record, mut test: impl FnMut(&mut Self)) {
        let (family, link) = PLACES[0];
        let Some(mut bench) = Self::new(family, link, record(family)) else { return };
        let unsummed = PLACES.map(|(family, link)| (family, link, Sum::None));
        let summed = SUMMED.into_iter().filter(|_| knows_sums());
        for (family, link, sum) in unsummed.into_iter().chain(summed) {
            (bench.family, bench.link, bench.sum) = (family, link, sum);
            bench.begin(record(family));
            bench.before = bench.counters.read().expect("memory");
            test(&mut bench);
            // What nobody has asked for is not for the next one.
            bench.has_called();
        }
    }

    /// Begins anew with another flow.
    pub fn begin(&mut self, record: Record) {
        self.keys.withdraw(&self.slot);
        self.slot.begin(record);
        self.keys.publish(&self.slot).expect("nobody has them");
    }

    /// What becomes of a packet that comes in.
    #[track_caller]
    pub fn comes_in(&self, packet: &[u8]) -> Fate {
        self.run([PACKET_INGRESS, PACKET_INGRESS_L3], packet, 0)
    }

    /// What becomes of a packet that goes out, of a socket.
    #[track_caller]
    pub fn goes_out(&self, packet: &[u8]) -> Fate {
        self.run([PACKET_EGRESS, PACKET_EGRESS_L3], packet, 0)
    }

    /// What becomes of a packet that goes out and came in before.
    #[track_caller]
    pub fn is_forwarded(&self, packet: &[u8]) -> Fate {
        self.run([PACKET_EGRESS, PACKET_EGRESS_L3], packet, 1)
    }

    /// How often a program has called user space since the last time.
    pub fn has_called(&mut self) -> bool {
        self.bells.answer();
        self.slot.edit(|record| record.flags &= !RUNG);
        self.slot.take_call()
    }

    /// What was counted since the test began.
    pub fn counts(&self) -> Counts {
        self.counters.read().expect("memory").since(&self.before)
    }

    #[track_caller]
    fn run(&self, programs: [&str; 2], packet: &[u8], ingress_interface: u32) -> Fate {
        let header = match self.link {
            Link::Ethernet => ethernet(packet),
            Link::Bare => Vec::new(),
        };
        let name = programs[usize::from(self.link == Link::Bare)];
        let (action, out) = self.run_frame(name, &[&header[..], packet].concat(), ingress_interface);
        match action {
            UNSPEC => {
                assert_eq!(out[..header.len()], header, "the link header of a packet that passes");
                Fate::Passed(out[header.len()..].to_vec())
            }
            REDIRECT => {
                // What came without a link header has one of zeros then: the kernel wants one to take off.
                let expected = if self.link == Link::Bare { vec![0; 14] } else { header };
                assert_eq!(out[..14], expected, "the link header of a packet that is sent on");
                Fate::Sent(out[14..].to_vec())
            }
            SHOT => Fate::Dropped,
            other => panic!("{name} says {other}"),
        }
    }

    /// What a program says of a frame, and the frame after it.
    #[track_caller]
    pub fn run_frame(&self, name: &str, frame: &[u8], ingress_interface: u32) -> (u32, Vec<u8>) {
        let programs = self.packet.programs();
        let program = programs.ebpf.program(name).expect("loaded");
        let program: &SchedClassifier = program.try_into().expect("a classifier");
        let mut context = [0; CONTEXT_LEN];
        context[INGRESS_INTERFACE..INGRESS_INTERFACE + 4].copy_from_slice(&ingress_interface.to_ne_bytes());
        let mut out = vec![0xa5; frame.len() + 64];
        if self.sum == Sum::Complete {
            let program = program.fd().expect("loaded").as_fd();
            let result = bpf::run_summed(program, frame, &context, &mut out);
            let (action, len) =
                result.expect("the kernel runs a program, and the sum is that of what comes out");
            out.truncate(len);
            return (action, out);
        }
        let result = program.test_run(aya::TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..aya::TestRunOptions::new()
        });
        let result = result.expect("the kernel runs a program");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }
}

/// Ethernet's header for a packet.
pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let protocol = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 1][..], &[2, 0, 0, 0, 0, 2], &protocol].concat()
}
