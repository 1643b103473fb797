// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of a SYN of ours: as if it had been built so, its checksum included.

extern crate std;

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::Shape;
use super::options::copy;
use crate::packet::checksum::Difference;
use crate::packet::offer::{Offer, heeded, is_heeded, reduce};
use crate::packet::options::ROOM;
use crate::packet::reason::Untranslatable;
use crate::packet::record::{place, slot};
use crate::packet::tcp::{ACK, SYN, Tcp};

const NOP: u8 = 1;

/// What Linux puts into a SYN (net/ipv4/tcp_output.c, tcp_options_write): size, SACK permitted, timestamps, scale.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 9, 9, 9, 9, 0, 0, 0, 0, NOP, 3, 3, 7];

const EVERYTHING: Offer =
    Offer { has_timestamps: true, has_sack: true, has_ecn: true, segment_size: u16::MAX };

fn shape(options: &[u8], flags: u8) -> Shape {
    Shape {
        ends: (vec![1; 4], vec![2; 4]),
        hops: 64,
        ports: (1, 2),
        sequence: 3,
        acknowledgement: 0,
        flags,
        window: 65_535,
        urgent: 0,
        options: options.to_vec(),
        payload: vec![],
        padding: 0,
    }
}

/// A SYN with such options as the server gets it, and the same as if it had been built so.
fn reduced(options: &[u8], offer: Offer) -> (Vec<u8>, Vec<u8>) {
    let (mut copied, len) = (copy(options), options.len());
    let change = reduce(&mut copied, u32::try_from(len).expect("a few bytes"), offer).expect("well-formed");
    let mut packet = shape(options, SYN).packet();
    packet[40..40 + len].copy_from_slice(&copied[..len]);
    let checksum = change.applied(u16::from_be_bytes([packet[36], packet[37]]));
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    (packet, shape(&copied[..len], SYN).packet())
}

#[test]
fn our_syn_offers_nothing_that_the_client_lacks() {
    let check = |offer, expected: [u8; 20]| {
        let (packet, built) = reduced(&SYN_OPTIONS, offer);
        assert_eq!(packet, built);
        assert_eq!(packet[40..60], expected);
    };
    let [mut no_timestamps, mut no_sack, mut neither, mut smaller] = [SYN_OPTIONS; 4];
    no_timestamps[6..16].fill(NOP);
    no_sack[4..6].fill(NOP);
    neither[4..16].fill(NOP);
    smaller[2..4].copy_from_slice(&1_300_u16.to_be_bytes());
    check(EVERYTHING, SYN_OPTIONS);
    check(Offer { has_timestamps: false, ..EVERYTHING }, no_timestamps);
    check(Offer { has_sack: false, ..EVERYTHING }, no_sack);
    check(Offer { has_timestamps: false, has_sack: false, ..EVERYTHING }, neither);
    check(Offer { segment_size: 1_300, ..EVERYTHING }, smaller);
    check(Offer { segment_size: 1_460, ..EVERYTHING }, SYN_OPTIONS);
}

/// As they stand where others put them: at odd offsets.
#[test]
fn options_may_stand_anywhere() {
    let options = [NOP, 2, 4, 5, 0xb4, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, NOP, NOP, 4, 2, 0];
    let nothing = Offer { has_timestamps: false, has_sack: false, has_ecn: false, segment_size: 536 };
    let (packet, built) = reduced(&options, nothing);
    assert_eq!(packet, built);
    let mut expected = [NOP; 20];
    expected[1..5].copy_from_slice(&[2, 4, 2, 24]);
    expected[19] = 0;
    assert_eq!(packet[40..60], expected);
}

#[test]
fn what_is_not_understood_stays_as_it_is() {
    let nothing = Offer { has_timestamps: false, has_sack: false, has_ecn: false, segment_size: 88 };
    let mut bytes: [u8; ROOM] = copy(&[&SYN_OPTIONS[..], &[34, 2, NOP, NOP]].concat());
    let before = bytes;
    assert_eq!(reduce(&mut bytes, 24, nothing).err(), Some(Untranslatable::FastOpen));
    assert_eq!(bytes, before);
}

/// Both kinds of it: the flags of the old one, and the one more of the accurate one.
#[test]
fn a_syn_asks_for_congestion_notification_or_not() {
    const BOTH: u8 = 0xc0;
    let words = |packet: &[u8]| -> [u32; 5] {
        std::array::from_fn(|word| {
            u32::from_be_bytes(packet[20 + 4 * word..24 + 4 * word].try_into().expect("four bytes"))
        })
    };
    let asking = Tcp(words(&shape(&[], SYN | BOTH).packet()));
    let (silent, change) = asking.without_ecn();
    let expected = Tcp(words(&shape(&[], SYN).packet()));
    assert_eq!(silent.with_checksum(change.applied(asking.checksum())), expected);
    let accurate = Tcp([0, 0, 0, asking.0[3] | 1 << 24, 0]);
    assert_eq!(accurate.without_ecn().0.0[3], expected.0[3]);
    assert_eq!(expected.without_ecn().0, expected);
    let (same, change) = expected.without_ecn();
    assert_eq!(Difference::NONE.and(change).applied(same.checksum()), same.checksum());
    assert_eq!(silent.flags() & (SYN | ACK), SYN);
}

proptest! {
    /// A word tells the offer again, whether it was heeded or not, and is no place.
    #[test]
    fn a_word_is_an_offer_or_a_place(bits in 0_u8..8, segment_size: u16, number in 0_u32..1 << 20) {
        let [has_timestamps, has_sack, has_ecn] = [1, 2, 4].map(|bit| bits & bit != 0);
        let offer = Offer { has_timestamps, has_sack, has_ecn, segment_size };
        let word = offer.word();
        prop_assert_eq!([word, heeded(word)].map(Offer::of_word), [Some(offer); 2]);
        prop_assert_eq!([word, heeded(word)].map(is_heeded), [false, true]);
        prop_assert!(slot(word) >= 1 << 20);
        for side in crate::packet::flow::Side::ALL {
            prop_assert_eq!(Offer::of_word(place(number, side)), None);
        }
        prop_assert_eq!(Offer::of_word(u32::MAX), None);
    }
}
