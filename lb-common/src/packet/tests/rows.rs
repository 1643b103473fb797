// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is refused, what two connections have to agree in, and sizes.

extern crate std;

use std::vec::Vec;

use super::model::Shape;
use super::translation::words;
use crate::packet::flow::{Misfit, Outgoing, Phase, Side, Verdict};
use crate::packet::ip::{Addresses, Ipv4, Ipv6, extension_len};
use crate::packet::reason::Untranslatable::{self, *};
use crate::packet::record::Counter;
use crate::packet::syn::{Family, Leg, agree, segment_size};
use crate::packet::tcp::Tcp;

const LEG: Leg = Leg {
    family: Family::V4,
    has_timestamps: true,
    has_sack: true,
    has_ecn: false,
    announced: 1460,
    accepted: 1460,
};

fn packet(address_len: usize, padding: usize) -> Vec<u8> {
    let shape = Shape {
        ends: (std::vec![10; address_len], std::vec![11; address_len]),
        hops: 64,
        ports: (1, 2),
        sequence: 3,
        acknowledgement: 4,
        flags: 0x10,
        window: 5,
        urgent: 0,
        options: std::vec![1; 4],
        payload: std::vec![7; 8],
        padding,
    };
    shape.packet()
}

/// What comes of a packet with one byte changed.
fn segment_len(packet: &[u8], at: usize, byte: u8) -> Result<u32, Untranslatable> {
    let mut packet = packet.to_vec();
    let is_v4 = packet[0] >> 4 == 4;
    packet[at] = byte;
    let available = u32::try_from(packet.len()).expect("a short packet");
    if is_v4 {
        Ipv4(words(&packet)).segment_len(available)
    } else {
        Ipv6(words(&packet)).segment_len(available)
    }
}

#[test]
fn ipv4_headers() {
    let check = |at, byte, expected| assert_eq!(segment_len(&packet(4, 6), at, byte), expected);
    check(8, 64, Ok(32));
    check(0, 0x44, Err(MalformedHeader));
    check(0, 0x46, Err(IpOptions));
    check(0, 0x65, Err(MalformedHeader));
    check(6, 0x20, Err(Fragment));
    check(7, 0x01, Err(Fragment));
    check(6, 0x1f, Err(Fragment));
    check(9, 17, Err(NotTcp));
    // The length of the header: all that is there, padding included.
    check(3, 0, Ok(38));
    check(3, 19, Err(MalformedHeader));
    check(3, 58, Ok(38));
    check(3, 59, Err(MalformedHeader));
}

#[test]
fn ipv6_headers() {
    let check = |at, byte, expected| assert_eq!(segment_len(&packet(16, 6), at, byte), expected);
    check(7, 64, Ok(32));
    check(0, 0x40, Err(MalformedHeader));
    check(6, 44, Err(Fragment));
    for next in [0, 43, 50, 51, 60, 135, 139, 140] {
        check(6, next, Err(ExtensionHeader));
    }
    check(6, 58, Err(NotTcp));
    check(5, 0, Ok(38));
    check(5, 38, Ok(38));
    check(5, 39, Err(MalformedHeader));
    assert_eq!(Ipv6(words(&packet(16, 0))).segment_len(39), Err(MalformedHeader));
}

#[test]
fn ports_are_looked_for_behind_options_but_not_in_later_fragments() {
    let check = |at: usize, byte, expected| {
        let mut packet = packet(4, 0);
        packet[at] = byte;
        assert_eq!(Ipv4(words(&packet)).bytes_before_tcp(), expected);
    };
    check(0, 0x45, Some(20));
    check(0, 0x4f, Some(60));
    check(0, 0x44, None);
    check(6, 0x20, Some(20));
    check(6, 0x21, None);
    check(7, 0x01, None);
    check(9, 17, None);
}

#[test]
fn lengths_of_extension_headers() {
    let check = |kind, first, expected| assert_eq!(extension_len(kind, first), expected);
    for kind in [0, 43, 60, 135, 139, 140] {
        check(kind, 0x0600_0000, Some(8));
        check(kind, 0x06ff_0000, Some(2_048));
    }
    check(51, 0x0604_0000, Some(24));
    check(44, 0x06ff_0001, Some(8));
    check(44, 0x0600_0008, None);
    check(50, 0x0600_0000, None);
    check(6, 0x0600_0000, None);
    check(59, 0x0600_0000, None);
}

#[test]
fn the_last_hop_is_not_left() {
    for (hops, is_refused) in [(0, true), (1, true), (2, false)] {
        let (mut v4, mut v6) = (packet(4, 0), packet(16, 0));
        (v4[8], v6[7]) = (hops, hops);
        let results = [
            Ipv4(words(&v4)).translated(&Addresses::default()).err(),
            Ipv6(words(&v6)).translated(&Addresses::default()).err(),
        ];
        assert_eq!(results, [is_refused.then_some(HopLimit); 2]);
    }
}

#[test]
fn tcp_headers() {
    let check = |words_of_header: u32, segment_len, expected| {
        assert_eq!(Tcp([0, 0, 0, words_of_header << 28, 0]).options_len(segment_len), expected);
    };
    check(5, 20, Ok(0));
    check(15, 60, Ok(40));
    check(4, 100, Err(MalformedHeader));
    check(0, 100, Err(MalformedHeader));
    check(6, 23, Err(MalformedHeader));
    check(5, 19, Err(MalformedHeader));
}

#[test]
fn connections_that_differ_do_not_become_one() {
    let check = |server, expected| assert_eq!(agree(&LEG, &server), expected);
    check(LEG, Ok(()));
    check(Leg { family: Family::V6, ..LEG }, Err(FamiliesDiffer));
    check(Leg { has_timestamps: false, ..LEG }, Err(TimestampsDiffer));
    check(Leg { has_sack: false, ..LEG }, Err(SackDiffers));
    check(Leg { has_ecn: true, ..LEG }, Err(EcnDiffers));
    check(Leg { accepted: 1459, ..LEG }, Err(SegmentSize));
    check(Leg { announced: 1461, ..LEG }, Err(SegmentSize));
    check(Leg { announced: 1400, accepted: 9000, ..LEG }, Ok(()));
}

#[test]
fn segment_sizes() {
    let check = |mtu, family, expected| assert_eq!(segment_size(mtu, family), expected);
    check(1500, Family::V4, 1460);
    check(1500, Family::V6, 1440);
    check(65_536, Family::V4, 65_496);
    check(1 << 20, Family::V6, u16::MAX);
    check(68, Family::V4, 88);
    check(0, Family::V6, 88);
}

#[test]
fn labels_are_distinct_and_indexes_match() {
    fn check<T: Copy>(all: &[T], index: fn(T) -> usize, label: fn(T) -> &'static str) {
        for (place, item) in all.iter().enumerate() {
            assert_eq!(index(*item), place);
            assert_eq!(all.iter().filter(|other| label(**other) == label(*item)).count(), 1);
        }
    }
    check(&Untranslatable::ALL, Untranslatable::index, Untranslatable::label);
    check(&Phase::ALL, Phase::index, Phase::label);
    check(&Side::ALL, Side::index, Side::label);
    check(&Verdict::ALL, Verdict::index, Verdict::label);
    check(&Outgoing::ALL, Outgoing::index, Outgoing::label);
    check(&Misfit::ALL, Misfit::index, Misfit::label);
    check(&Counter::ALL, Counter::index, Counter::label);
    for phase in Phase::ALL {
        assert_eq!(Phase::from_index(phase as u32), phase);
    }
    assert_eq!(Phase::from_index(u32::MAX), Phase::Gone);
}
