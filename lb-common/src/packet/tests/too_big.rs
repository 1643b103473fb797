// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an end is told that has sent too much at once, byte for byte.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::model::{Shape, cases, pseudo_sum, sum};
use super::translation::words;
use crate::packet::ip::{Ipv4, Ipv6};
use crate::packet::tcp::Tcp;
use crate::packet::too_big::{PAUSE_MS, ipv4, ipv6, is_due, largest};

proptest! {
    #[test]
    fn an_end_gets_its_own_headers_quoted((shape, _) in cases(), mtu in 68_u32..70_000) {
        let packet = shape.packet();
        let quoted = &packet[..shape.ip_len() + 20];
        prop_assert_eq!([told(&shape, quoted, mtu), quoted.to_vec()].concat(), message(&shape, quoted, mtu));
    }
}

/// What is made of headers that came.
fn told(shape: &Shape, quoted: &[u8], mtu: u32) -> Vec<u8> {
    let (ip, tcp) = quoted.split_at(shape.ip_len());
    let tcp = Tcp(words(tcp));
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
    if ip.len() == 20 {
        bytes(&ipv4(Ipv4(words(ip)), tcp, mtu))
    } else {
        bytes(&ipv6(Ipv6(words(ip)), tcp, mtu))
    }
}

/// The message as one would write it by hand.
fn message(shape: &Shape, quoted: &[u8], mtu: u32) -> Vec<u8> {
    let (to, from) = &shape.ends;
    let len = u16::try_from(8 + quoted.len()).expect("a short message");
    let mut message = Vec::new();
    if shape.ip_len() == 20 {
        let next = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
        message.extend([0x45, 0xc0]);
        message.extend((20 + len).to_be_bytes());
        message.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
        message.extend([&from[..], to].concat());
        let checksum = !sum(&message);
        message[10..12].copy_from_slice(&checksum.to_be_bytes());
        message.extend([3, 4, 0, 0, 0, 0, next[0], next[1]]);
    } else {
        message.extend([0x6c, 0, 0, 0]);
        message.extend(len.to_be_bytes());
        message.extend([58, 64]);
        message.extend([&from[..], to].concat());
        message.extend([2, 0, 0, 0]);
        message.extend(mtu.to_be_bytes());
    }
    message.extend(quoted);
    let at = shape.ip_len();
    let mut summed = message[at..].to_vec();
    if at == 40 {
        // The model's has the protocol number of TCP.
        summed.extend([pseudo_sum(&message).to_be_bytes(), (58_u16 - 6).to_be_bytes()].concat());
    }
    let checksum = !sum(&summed);
    message[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[test]
fn what_leaves_is_as_large_as_its_largest_part() {
    let check =
        |headers, payload, gso_size, expected| assert_eq!(largest(headers, payload, gso_size), expected);
    check(52, 1_448, 0, 1_500);
    check(52, 40_000, 1_448, 1_500);
    // A last part, or one that is smaller than the rest would be.
    check(52, 100, 1_448, 152);
    check(52, 1_448, 1_448, 1_500);
}

#[test]
fn an_end_is_told_once_in_a_while() {
    let check = |now, told, expected| assert_eq!(is_due(now, told), expected, "{now} {told}");
    check(5, 0, true);
    check(1_000, 1_000, false);
    check(1_000 + PAUSE_MS - 1, 1_000, false);
    check(1_000 + PAUSE_MS, 1_000, true);
    // The number wraps every 49 days.
    check(3, u32::MAX - 1, false);
    check(PAUSE_MS, u32::MAX, true);
}
