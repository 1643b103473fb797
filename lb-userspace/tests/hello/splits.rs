// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every way to cut a hello of 1,800 bytes: over TCP segments and over TLS records.

use lb::prelude::hello::{ClientHello, HelloOutcome};

use crate::build::{Parts, records};
use crate::oracle::ours;
use crate::random::Random;

const NAME: &str = "split.demo.example";

fn message() -> Vec<u8> {
    let parts = Parts::browser(NAME, &mut Random(1800)).padded_to(1800 - 5);
    assert_eq!(parts.wire().len(), 1800);
    parts.handshake()
}

/// The whole gives the name; each prefix needs more, and at least as much as it says, and never more than there is.
fn check_every_prefix(wire: &[u8]) {
    let HelloOutcome::Complete(ClientHello { server_name, has_ech, wire_len, .. }) = ours(wire) else {
        panic!("{:?}", ours(wire))
    };
    assert_eq!((server_name.as_deref(), has_ech, wire_len), (Some(NAME), true, wire.len()));
    for end in 0..wire.len() {
        let HelloOutcome::NeedMore(bytes) = ours(&wire[..end]) else {
            panic!("{end} of {}: {:?}", wire.len(), ours(&wire[..end]))
        };
        assert!(bytes > 0 && end + bytes <= wire.len(), "{bytes} more behind {end} of {}", wire.len());
        let still = ours(&wire[..end + bytes - 1]);
        assert!(matches!(still, HelloOutcome::NeedMore(_)), "{bytes} more behind {end}: {still:?}");
    }
}

#[test]
fn one_record_in_any_two_segments() {
    check_every_prefix(&records(&message(), &[1 << 14]));
}

#[test]
fn two_records_cut_anywhere_in_any_two_segments() {
    let message = message();
    for cut in 1..message.len() {
        check_every_prefix(&records(&message, &[cut, 1 << 14]));
    }
}

#[test]
fn equal_records_of_any_size_in_any_two_segments() {
    let message = message();
    for size in (1..64).chain([100, 255, 256, 257, 500, 899, 1000, 1794]) {
        check_every_prefix(&records(&message, &[size]));
    }
}

#[test]
fn records_of_mixed_sizes_in_any_two_segments() {
    let (message, mut random) = (message(), Random(7));
    for _ in 0..100 {
        let sizes: Vec<_> = (0..1800).map(|_| 1 + random.below(40)).collect();
        check_every_prefix(&records(&message, &sizes));
    }
}

/// A socket that wakes us up after as many bytes as asked for: how often it does.
fn looks(wire: &[u8]) -> usize {
    let (mut end, mut looks) = (0, 1);
    while let HelloOutcome::NeedMore(bytes) = ours(&wire[..end]) {
        end += bytes;
        looks += 1;
    }
    looks
}

#[test]
fn a_trickle_wakes_us_up_few_times() {
    let message = message();
    assert_eq!(looks(&records(&message, &[1 << 14])), 4, "nothing, header, length, all");
    assert!(looks(&records(&message, &[900])) <= 5);
    // Each look leaves at most five sixths of the message missing.
    assert!(looks(&records(&message, &[1])) <= 50, "{}", looks(&records(&message, &[1])));
    let largest = Parts::minimal().padded_to(16 * 1024).handshake();
    assert!(looks(&records(&largest, &[1])) <= 60, "{}", looks(&records(&largest, &[1])));
}
