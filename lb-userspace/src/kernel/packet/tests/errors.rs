// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of routers about packets that were translated, as the end should get them that sent the packets.

use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::record::Counter;

use super::bench::{Bench, CLIENT, Family, Fate, SERVER, address, change, ends_to, record, shape};
use super::model::{self, Shape, pseudo_sum, sum};

/// The router whose error it is.
const ROUTER: u8 = 7;

/// A message from one address to another that quotes what it was sent for.
pub fn message(family: Family, from: &[u8], to: &[u8], hops: u8, kind: [u8; 8], quotation: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + quotation.len()).expect("a short packet");
    let mut packet = Vec::new();
    if family == Family::V4 {
        packet.extend([0x45, 0xc0]);
        packet.extend((len + 20).to_be_bytes());
        packet.extend([0x12, 0x34, 0, 0, hops, 1, 0, 0]);
    } else {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([58, hops]);
    }
    packet.extend([from, to, &kind, quotation].concat());
    fill(&mut packet);
    packet
}

/// Writes the checksums: that of ICMPv6 is also over a pseudo header (RFC 4443 section 2.3), in which the protocol is not TCP's.
fn fill(packet: &mut [u8]) {
    let ip_len = model::fill_ip_checksum(packet);
    packet[ip_len + 2..ip_len + 4].fill(0);
    let mut parts = packet[ip_len..].to_vec();
    if ip_len == 40 {
        parts.resize(parts.len().next_multiple_of(2), 0);
        parts.extend([pseudo_sum(packet).to_be_bytes(), (58_u16 - 6).to_be_bytes()].concat());
    }
    let checksum = !sum(&parts);
    packet[ip_len + 2..ip_len + 4].copy_from_slice(&checksum.to_be_bytes());
}

/// Fragmentation needed, and packet too big: with an MTU of 1400.
fn too_big(family: Family) -> [u8; 8] {
    if family == Family::V4 { [3, 4, 0, 0, 0, 0, 5, 120] } else { [2, 0, 0, 0, 0, 0, 5, 120] }
}

/// What an end has sent, and how much of it a router quotes behind the IP header.
struct Quoted {
    from: Side,
    sent: Shape,
    len: usize,
}

impl Quoted {
    /// The error as it comes to the balancer, about the packet that it has sent.
    fn received(&self, family: Family, kind: [u8; 8]) -> Vec<u8> {
        let translated = model::translated(&self.sent.packet(), 0, &change(family, self.from));
        let (ends, _) = ends_to(family, self.from.other());
        let quotation = self.cut(&translated);
        message(family, &address(family, ROUTER), &ends.0, 60, kind, quotation)
    }

    /// The error as the end should get it, about what it has sent.
    fn expected(&self, family: Family, kind: [u8; 8]) -> Vec<u8> {
        let mut packet = self.sent.packet();
        // The router has seen one hop less, and windows as the balancer has written them, which nobody looks at.
        packet[if family == Family::V4 { 8 } else { 7 }] -= 1;
        model::fill_ip_checksum(&mut packet);
        let translated = model::translated(&self.sent.packet(), 0, &change(family, self.from));
        let ip_len = self.sent.ip_len();
        if self.len < 20 {
            packet[ip_len + 8..].copy_from_slice(&translated[ip_len + 8..]);
        }
        let (ends, _) = ends_to(family, self.from);
        message(family, &ends.0, &ends.1, 59, kind, self.cut(&packet))
    }

    fn cut<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[..packet.len().min(self.sent.ip_len() + self.len)]
    }
}

fn quoted(family: Family, from: Side, len: usize) -> Quoted {
    // A window that no shift changes.
    let sent =
        Shape { sequence: 77, acknowledgement: 88, window: 0, payload: vec![5; 40], ..shape(family, from) };
    Quoted { from, sent, len }
}

#[test]
fn who_sent_a_packet_that_is_too_big_is_told() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let family = bench.family;
            let kind = too_big(family);
            let mut count = 0;
            for (from, len) in
                [(CLIENT, 8), (CLIENT, 19), (CLIENT, 20), (SERVER, 8), (SERVER, 33), (SERVER, 100)]
            {
                let quoted = quoted(family, from, len);
                let expected = quoted.expected(family, kind);
                assert_eq!(
                    bench.comes_in(&quoted.received(family, kind)),
                    Fate::Sent(expected),
                    "{from} {len}"
                );
                count += 1;
            }
            assert_eq!(bench.counts().of(Counter::Returned), count);
        },
    );
}

#[test]
fn unreachable_and_time_exceeded_are_handed_on_and_queries_are_not() {
    Bench::at_each_place(
        |family| record(family, Phase::Closing),
        |bench| {
            let family = bench.family;
            let (errors, others) =
                if family == Family::V4 { ([3, 11, 12], [0, 5, 8]) } else { ([1, 3, 4], [128, 129, 137]) };
            for kind in errors.map(|kind| [kind, 1, 0, 0, 0, 0, 0, 0]) {
                let quoted = quoted(family, CLIENT, 28);
                let expected = quoted.expected(family, kind);
                assert_eq!(bench.comes_in(&quoted.received(family, kind)), Fate::Sent(expected), "{kind:?}");
            }
            for kind in others.map(|kind| [kind, 0, 0, 0, 0, 0, 0, 0]) {
                let packet = quoted(family, CLIENT, 28).received(family, kind);
                assert_eq!(bench.comes_in(&packet), Fate::Passed(packet.clone()), "{kind:?}");
            }
        },
    );
}

#[test]
fn errors_about_others_and_before_the_flip_are_the_kernels() {
    Bench::at_each_place(
        |family| record(family, Phase::Track),
        |bench| {
            let family = bench.family;
            for phase in [Phase::Track, Phase::Armed, Phase::Gone] {
                bench.begin(record(family, phase));
                let packet = quoted(family, CLIENT, 28).received(family, too_big(family));
                assert_eq!(bench.comes_in(&packet), Fate::Passed(packet.clone()));
            }
            bench.begin(record(family, Phase::Spliced));
            let mine = quoted(family, CLIENT, 28);
            let mut packet = mine.received(family, too_big(family));
            // The port of another connection.
            packet[mine.sent.ip_len() * 2 + 8] ^= 1;
            assert_eq!(bench.comes_in(&packet), Fate::Passed(packet.clone()));
            // Less than a router quotes.
            let short = quoted(family, CLIENT, 7).received(family, too_big(family));
            assert_eq!(bench.comes_in(&short), Fate::Passed(short.clone()));
            assert_eq!(bench.counts().of(Counter::Returned), 0);
        },
    );
}
