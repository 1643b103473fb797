// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is not translated: packets of others, and those of a flow that cannot be.

use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::{Counter, PACKET_EGRESS, PACKET_INGRESS, reason};

use super::bench::{Bench, CLIENT, Family, Fate, Link, SERVER, change, ethernet, record, shape, shape_to};
use super::model::{self, Shape};

/// What a program is called with that is not of the flow: frames, in the name of which they pass.
fn foreign(family: Family) -> Vec<(&'static str, Vec<u8>)> {
    let of_others = Shape { ports: (1, 2), ..shape(family, CLIENT) }.packet();
    let mine = shape(family, CLIENT).packet();
    let ip_len = shape(family, CLIENT).ip_len();
    let header = ethernet(&mine);
    let frame = |packet: &[u8]| [&header[..], packet].concat();
    let with_protocol = |protocol: u8| {
        let mut packet = mine.clone();
        packet[if ip_len == 20 { 9 } else { 6 }] = protocol;
        frame(&packet)
    };
    let with_type = |number: [u8; 2]| [&header[..12], &number, &mine].concat();
    vec![
        ("ports of somebody else", frame(&of_others)),
        ("UDP", with_protocol(17)),
        ("no next header", with_protocol(59)),
        ("a truncated header", frame(&mine[..ip_len + 12])),
        ("an IP header alone", frame(&mine[..ip_len])),
        ("ARP", with_type([0x08, 0x06])),
        ("a VLAN tag in the frame", with_type([0x81, 0x00])),
        ("the other version of IP", with_type(if ip_len == 20 { [0x86, 0xdd] } else { [0x08, 0x00] })),
    ]
}

#[test]
fn what_is_not_of_a_flow_goes_on_byte_for_byte() {
    for family in [Family::V4, Family::V6] {
        let Some(bench) = Bench::new(family, Link::Ethernet, record(family, Phase::Spliced)) else { return };
        for (name, frame) in foreign(family) {
            for program in [PACKET_INGRESS, PACKET_EGRESS] {
                assert_eq!(
                    bench.run_frame(program, &frame, 0),
                    (u32::MAX, frame.clone()),
                    "{program}: {name}"
                );
            }
        }
        // What the balancer has sent is not what an end has sent, and the other way round.
        let sent = shape_to(family, CLIENT).packet();
        assert_eq!(bench.comes_in(&sent), Fate::Passed(sent));
        let received = shape(family, CLIENT).packet();
        assert_eq!(bench.goes_out(&received), Fate::Passed(received));
        assert_eq!(bench.counts().of(Counter::Passed), 0);
    }
}

/// A packet of the client that cannot be translated, with the reason.
fn misfits(family: Family) -> Vec<(Untranslatable, Vec<u8>)> {
    misfits_of(family, &Shape { payload: vec![7; 16], ..shape(family, CLIENT) })
}

/// The same made of another, with the reason.
pub(super) fn misfits_of(family: Family, whole: &Shape) -> Vec<(Untranslatable, Vec<u8>)> {
    use Untranslatable::{ExtensionHeader, Fragment, IpOptions, MalformedHeader, MalformedOptions};
    let with_options = |options: &[u8]| Shape { options: options.to_vec(), ..whole.clone() }.packet();
    let mut rows = vec![
        (Untranslatable::Md5Signature, with_options(&[[19, 18].as_slice(), &[0; 16], &[1, 1]].concat())),
        (Untranslatable::Mptcp, with_options(&[30, 4, 0, 0])),
        (Untranslatable::FastOpen, with_options(&[34, 2, 1, 1])),
        (Untranslatable::UnknownOption, with_options(&[77, 4, 0, 0])),
        (MalformedOptions, with_options(&[8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        (MalformedOptions, with_options(&[1, 1, 1, 8])),
        (MalformedHeader, with_data_offset(whole, 4)),
        (MalformedHeader, with_data_offset(whole, 15)),
    ];
    if family == Family::V4 {
        rows.extend([(Fragment, with_fragment_bits(whole, 0x2000)), (IpOptions, with_ip_options(whole))]);
    } else {
        rows.extend([
            (Fragment, behind(whole, 44, &[6, 0, 0, 1, 1, 2, 3, 4])),
            (ExtensionHeader, behind(whole, 0, &[6, 0, 1, 4, 0, 0, 0, 0])),
            (ExtensionHeader, behind(whole, 60, &[[43, 1].as_slice(), &[0; 14], &[6, 0], &[0; 6]].concat())),
        ]);
    }
    rows
}

fn with_data_offset(shape: &Shape, words: u8) -> Vec<u8> {
    let mut packet = shape.packet();
    packet[shape.ip_len() + 12] = words << 4;
    packet
}

fn with_fragment_bits(shape: &Shape, bits: u16) -> Vec<u8> {
    let mut packet = shape.packet();
    packet[6..8].copy_from_slice(&bits.to_be_bytes());
    model::fill_ip_checksum(&mut packet);
    packet
}

/// With a word of no-operations behind the IPv4 header.
fn with_ip_options(shape: &Shape) -> Vec<u8> {
    let mut packet = shape.packet();
    packet[0] = 0x46;
    packet[3] += 4;
    packet.splice(20..20, [1, 1, 1, 0]);
    packet
}

/// With other headers between IPv6 and TCP, the first of this kind.
fn behind(shape: &Shape, kind: u8, headers: &[u8]) -> Vec<u8> {
    let mut packet = shape.packet();
    packet[6] = kind;
    packet[5] += u8::try_from(headers.len()).expect("a short packet");
    packet.splice(40..40, headers.iter().copied());
    packet
}

#[test]
fn what_cannot_be_translated_is_dropped_and_counted() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let (family, link) = (bench.family, bench.link);
            for (reason, packet) in misfits(family) {
                let (before, count) = (bench.slot.edit(|record| record.flow), bench.counts().refused(reason));
                assert_eq!(bench.comes_in(&packet), Fate::Dropped, "{reason} {link:?}");
                assert_eq!(bench.counts().refused(reason), count + 1, "{reason} {link:?}");
                assert_eq!(bench.slot.edit(|record| (record.flow, record.to_server.segments)), (before, 0));
                assert!(!bench.has_called());
            }
        },
    );
}

#[test]
fn before_the_flip_it_leaves_the_flow_to_its_sockets() {
    Bench::at_each_place(
        |family| record(family, Phase::Armed),
        |bench| {
            let family = bench.family;
            for (expected, packet) in misfits(family) {
                bench.begin(record(family, Phase::Armed));
                assert_eq!(bench.comes_in(&packet), Fate::Passed(packet.clone()), "{expected}");
                let (phase, refusal) = bench.slot.edit(|record| (record.flow.phase(), record.refusal));
                assert_eq!((phase, reason(refusal)), (Phase::Gone, Some(expected)));
                assert!(bench.has_called());
                assert_eq!(bench.comes_in(&packet), Fate::Passed(packet), "{expected}");
                assert!(!bench.has_called(), "once is enough");
            }
        },
    );
}

/// Options of IP that a socket of the balancer sends, and a fragment of what it has sent.
#[test]
fn what_a_socket_sends_in_pieces_is_seen_too() {
    let packets = |family| {
        let shape = shape_to(family, CLIENT);
        if family == Family::V4 {
            vec![with_fragment_bits(&shape, 0x2000), with_ip_options(&shape)]
        } else {
            vec![behind(&shape, 44, &[6, 0, 0, 1, 1, 2, 3, 4])]
        }
    };
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let family = bench.family;
            for packet in packets(family) {
                bench.begin(record(family, Phase::Spliced));
                assert_eq!(bench.goes_out(&packet), Fate::Dropped);
                bench.begin(record(family, Phase::Track));
                assert_eq!(bench.goes_out(&packet), Fate::Passed(packet));
                assert!(bench.has_called());
            }
        },
    );
}

/// Ports are in the first fragment alone. The kernel waits for that one with the others, and gives up (net/ipv4/ip_fragment.c).
#[test]
fn a_later_fragment_is_nobodys() {
    let Some(bench) = Bench::new(Family::V4, Link::Ethernet, record(Family::V4, Phase::Spliced)) else {
        return;
    };
    let packet = with_fragment_bits(&Shape { payload: vec![1; 32], ..shape(Family::V4, CLIENT) }, 0x0002);
    assert_eq!(bench.comes_in(&packet), Fate::Passed(packet));
    assert_eq!(bench.counts().refused(Untranslatable::Fragment), 0);
}

#[test]
fn the_last_hop_is_not_left() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let family = bench.family;
            let last = Shape { hops: 1, ..shape(family, SERVER) };
            assert_eq!(bench.comes_in(&last.packet()), Fate::Dropped);
            assert_eq!(bench.counts().refused(Untranslatable::HopLimit), 1);
            let one_before = Shape { hops: 2, ..last }.packet();
            let expected = model::translated(&one_before, 0, &change(family, SERVER));
            assert_eq!(bench.comes_in(&one_before), Fate::Sent(expected));
        },
    );
}

/// Whoever sends it will send it again.
#[test]
fn a_packet_is_dropped_while_somebody_else_has_the_lock() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let family = bench.family;
            let [received, sent, broken] = [
                shape(family, CLIENT).packet(),
                shape_to(family, CLIENT).packet(),
                Shape { options: vec![77, 4, 0, 0], ..shape(family, CLIENT) }.packet(),
            ];
            bench.slot.edit(|_| {
                assert_eq!(
                    [bench.comes_in(&received), bench.comes_in(&broken)],
                    [Fate::Dropped, Fate::Dropped]
                );
                assert_eq!(bench.goes_out(&sent), Fate::Dropped);
            });
            assert_eq!(bench.counts().of(Counter::LockedOut), 3);
            assert!(matches!(bench.comes_in(&received), Fate::Sent(_)));
        },
    );
}

#[test]
fn keys_are_taken_by_one_flow_at_a_time() {
    let Some(mut bench) = Bench::new(Family::V6, Link::Ethernet, record(Family::V6, Phase::Track)) else {
        return;
    };
    assert_eq!(bench.keys.publish(&bench.slot), Err(super::KeyRefusal::Taken));
    assert_eq!(bench.keys.entries(), 2);
    bench.keys.withdraw(&bench.slot);
    bench.keys.withdraw(&bench.slot);
    assert_eq!(bench.keys.entries(), 0);
    let packet = shape(Family::V6, Side::Client).packet();
    assert_eq!(bench.comes_in(&packet), Fate::Passed(packet));
}
