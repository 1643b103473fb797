// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets of path `packet`: what a BPF program does of one beside the kernel's helpers.

use std::hint::black_box;

use lb_common::packet::checksum::Changes;
use lb_common::packet::flow::{End, Flow, Position, Segment, Side, Verdict};
use lb_common::packet::ip::{Addresses, Ipv4, Ipv6};
use lb_common::packet::options::{self, ROOM};
use lb_common::packet::tcp::{ACK, Tcp, Translation};

use super::Case;

/// Rounds that callgrind sees.
const ROUNDS: u64 = 1024;

const BY: Translation = Translation {
    ports: 0xc001_01bb,
    sequence_add: 0x1234_5678,
    acknowledgement_add: 0x9abc_def0,
    timestamp_add: 0x0f1e_2d3c,
    echo_add: 0x4b5a_6978,
    shift_from: 7,
    shift_to: 9,
};

/// A header with 12 bytes of options, and one with 24: both with a window that is converted.
const TCP_SHORT: Tcp = Tcp([0x01bb_c002, 1, 2, 0x8010_01f5, 0xabcd_0000]);
const TCP_LONG: Tcp = Tcp([0x01bb_c002, 1, 2, 0xb010_01f5, 0xabcd_0000]);

/// Timestamps, and behind them a selective acknowledgement of one block.
const TIMESTAMPS: [u32; 3] = [options::PLAIN_TIMESTAMPS, 77, 78];
const SACK: [u8; 24] = [1, 1, 8, 10, 0, 0, 0, 77, 0, 0, 0, 78, 1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0];

pub(super) fn cases() -> Vec<Case> {
    let v4 = Ipv4([0x4500_05dc, 0x1234_4000, 0x4006_abcd, 0xc633_6407, 0xcb00_7101]);
    let v6 = Ipv6([0x6000_0000, 0x05b4_0640, 0x2001_0db8, 0, 0, 7, 0x2001_0db8, 1, 0, 1]);
    vec![
        Case::new("packet/ipv4-timestamps", ROUNDS, move || {
            black_box((ipv4(black_box(v4)), timestamps()));
        }),
        Case::new("packet/ipv4-timestamps-sack", ROUNDS, move || {
            black_box((ipv4(black_box(v4)), timestamps_and_sack()));
        }),
        Case::new("packet/ipv6-timestamps", ROUNDS, move || {
            black_box((ipv6(black_box(v6)), timestamps()));
        }),
        state(),
    ]
}

/// The IP header, judged and translated.
fn ipv4(header: Ipv4) -> (u32, Ipv4, Changes) {
    let to = Addresses { source: 0x0a00_0001, destination: 0x0a00_0002 };
    let segment_len = header.segment_len(black_box(1500)).expect("well-formed");
    let (header, changes) = header.translated(black_box(&to)).expect("hops are left");
    (segment_len, header, changes)
}

/// The same for IPv6.
fn ipv6(header: Ipv6) -> (u32, Ipv6, Changes) {
    let to = Addresses { source: [0xfd00_0000, 0, 0, 1], destination: [0xfd00_0000, 0, 0, 2] };
    let segment_len = header.segment_len(black_box(1500)).expect("well-formed");
    let (header, changes) = header.translated(black_box(&to)).expect("hops are left");
    (segment_len, header, changes)
}

/// The TCP header and the options that nearly every packet has; what the checksum has to follow, as a helper takes it.
fn timestamps() -> (Tcp, [u32; 3], u64) {
    let by = black_box(&BY);
    let (header, in_header) = black_box(TCP_SHORT).translated(by);
    let (words, in_options) = options::translated_timestamps(black_box(TIMESTAMPS), by);
    (header, words, in_header.and(in_options).for_kernel())
}

/// The same with options that have to be looked for.
fn timestamps_and_sack() -> (Tcp, [u8; ROOM], u64) {
    let by = black_box(&BY);
    let (header, in_header) = black_box(TCP_LONG).translated(by);
    let mut copy = [0; ROOM];
    copy[..SACK.len()].copy_from_slice(black_box(&SACK));
    let done = options::translate(&mut copy, black_box(24), by).expect("well-formed");
    (header, copy, in_header.and(done.change).for_kernel())
}

/// What a flow makes of payload and of its acknowledgement: two packets a round.
fn state() -> Case {
    let mut flow = spliced();
    let mut segment = Segment {
        sequence: 101,
        acknowledgement: 201,
        payload: 1448,
        window: 500,
        flags: ACK,
        ..Segment::default()
    };
    let mut answer =
        Segment { sequence: 301, acknowledgement: 401, window: 500, flags: ACK, ..Segment::default() };
    Case::new("packet/state-of-two", ROUNDS, move || {
        let first = flow.received(Side::Client, black_box(&segment), 1);
        segment.sequence = segment.sequence.wrapping_add(1448);
        answer.acknowledgement = answer.acknowledgement.wrapping_add(1448);
        let second = flow.received(Side::Server, black_box(&answer), 2);
        assert_eq!(black_box([first, second]), [Verdict::Translated; 2]);
    })
}

/// A flow of which nothing has been delivered.
fn spliced() -> Flow {
    let ends = [End::established(100, 200, 65_535), End::established(300, 400, 65_535)];
    let by = Translation { shift_from: 7, shift_to: 7, ..Translation::default() };
    let mut flow = Flow::tracked(ends, by, by);
    flow.arm(Position { taken: 101, given: 201 }, Position { taken: 301, given: 401 });
    let first =
        Segment { sequence: 101, acknowledgement: 201, window: 500, flags: ACK, ..Segment::default() };
    assert_eq!(flow.received(Side::Client, &first, 0), Verdict::Flipped);
    flow
}
