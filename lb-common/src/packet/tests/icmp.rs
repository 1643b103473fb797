// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of routers about a translated packet, as the end should get them that sent it.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::model::{self, Change, Shape, cases};
use super::translation::{addresses_v4, addresses_v6, put, translation, words};
use crate::packet::checksum::Difference;
use crate::packet::icmp::{
    ICMP_HEADER, Original, QUOTED_MIN, Quoted, check_type_v4, check_type_v6, quoted, swapped,
};
use crate::packet::ip::{Ipv4, Ipv6};
use crate::packet::reason::Untranslatable::{IcmpNotError, MalformedHeader};
use crate::packet::tcp::Tcp;

/// Bytes of the header of the message before the quotation.
const HEADER: usize = ICMP_HEADER as usize;

proptest! {
    /// Who sent the packet finds his own: addresses, ports, number, and, if they are quoted, acknowledgement and checksum.
    #[test]
    fn an_end_gets_its_own_packet_quoted((mut shape, change) in cases(), quoted_len in 8_usize..80) {
        // What the balancer cannot make up for is not looked at: see the module.
        shape.options.clear();
        let change = Change { shifts: (0, 0), ..change };
        let shape = Shape { padding: 0, ..shape };
        let packet = shape.packet();
        let quoted_len = shape.ip_len() + quoted_len.min(packet.len() - shape.ip_len());
        let mut expected = message(&packet[..quoted_len]);
        // The router has seen one hop less.
        let hops = if shape.ip_len() == 20 { 8 } else { 7 };
        expected[HEADER + hops] -= 1;
        model::fill_ip_checksum(&mut expected[HEADER..]);
        // A router that quotes less than a header leaves the acknowledgement as it was sent to the server.
        let sent = model::translated(&packet, 0, &change);
        if quoted_len - shape.ip_len() < 20 {
            let tail = shape.ip_len() + QUOTED_MIN as usize..quoted_len;
            expected[HEADER..][tail.clone()].copy_from_slice(&sent[tail]);
        }
        fill(&mut expected);
        prop_assert_eq!(returned(&message(&sent[..quoted_len]), &shape, &change), expected);
    }
}

/// An ICMP error that quotes so much, with its checksum but without what only IPv6 has: the pseudo header.
fn message(quotation: &[u8]) -> Vec<u8> {
    let mut message = [&[3, 4, 0, 0, 0, 0, 5, 120][..], quotation].concat();
    fill(&mut message);
    message
}

fn fill(message: &mut [u8]) {
    message[2..4].fill(0);
    let checksum = !model::sum(message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// The message for the end that sent what it quotes.
fn returned(message: &[u8], sent: &Shape, change: &Change) -> Vec<u8> {
    let mut message = message.to_vec();
    let (header, quotation) = message.split_at_mut(HEADER);
    let by = translation(change);
    let ports = u32::from(sent.ports.0) << 16 | u32::from(sent.ports.1);
    let ip_len = sent.ip_len();
    let change = if ip_len == 20 {
        let original = Original { addresses: addresses_v4(&sent.ends), ports, translation: &by };
        assert_eq!(Ipv4(words(quotation)).check(), Ok(()));
        let (ip, addresses) = Ipv4(words(quotation)).addressed(&original.addresses);
        put(quotation, &ip.0);
        return_tcp(&original, &mut quotation[ip_len..], addresses)
    } else {
        let original = Original { addresses: addresses_v6(&sent.ends), ports, translation: &by };
        assert_eq!(Ipv6(words(quotation)).check(), Ok(()));
        let (ip, addresses) = Ipv6(words(quotation)).addressed(&original.addresses);
        put(quotation, &ip.0);
        addresses.and(return_tcp(&original, &mut quotation[ip_len..], addresses))
    };
    let checksum = change.applied(u16::from_be_bytes([header[2], header[3]]));
    header[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

fn return_tcp<A>(original: &Original<'_, A>, quotation: &mut [u8], addresses: Difference) -> Difference {
    match quoted(u32::try_from(quotation.len()).expect("a short packet")).expect("enough") {
        Quoted::Start => {
            let (start, change) = original.start(words(quotation));
            put(quotation, &start);
            change
        }
        Quoted::Header => {
            let (header, change) = original.tcp(Tcp(words(quotation)), addresses);
            put(quotation, &header.0);
            change
        }
    }
}

#[test]
fn what_is_no_error_is_refused() {
    let accepted = |check: fn(u8) -> _| (0..=255).filter(|kind| check(*kind) == Ok(())).collect::<Vec<u8>>();
    assert_eq!(accepted(check_type_v4), [3, 11, 12]);
    assert_eq!(accepted(check_type_v6), [1, 2, 3, 4]);
    assert_eq!([check_type_v4(8), check_type_v6(137)], [Err(IcmpNotError); 2]);
}

#[test]
fn a_quotation_needs_eight_bytes() {
    let check = |len, expected| assert_eq!(quoted(len), expected);
    check(7, Err(MalformedHeader));
    check(8, Ok(Quoted::Start));
    check(19, Ok(Quoted::Start));
    check(20, Ok(Quoted::Header));
    assert_eq!(swapped(0x1234_5678), 0x5678_1234);
}
