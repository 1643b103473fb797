// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rustls accepts, we find the same name and protocols; where it waits, we wait or refuse what it would refuse later.

use lb::prelude::hello::HelloOutcome;

use crate::build::{Parts, records};
use crate::mutate::mutated;
use crate::oracle::{LIMITS, Verdict, client_hello, ours, rustls};
use crate::random::Random;

const HELLOS: usize = 100_000;
const SEED: u64 = 0x5eed_0001;

/// Real hellos and hand-made ones in every shape.
fn seeds(random: &mut Random) -> Vec<Parts> {
    let mut seeds = Vec::new();
    for number in 0..50 {
        let name = format!("host-{number}.{}", "sub.".repeat(number % 9) + "example");
        let protocols: &[&str] = [&[][..], &["h2"], &["h2", "http/1.1"], &["acme-tls/1"]][number % 4];
        seeds.push(Parts::of_wire(&client_hello(&name, protocols)));
        seeds.push(Parts::browser(&name, random));
        seeds.push(Parts::old(Some(&name).filter(|_| number % 5 > 0).map(String::as_str)));
        seeds.push(Parts::minimal().sni(&name).padded_to(300 + 300 * number));
    }
    seeds.push(Parts::minimal().sni("largest.example").padded_to(LIMITS.handshake_max));
    seeds
}

/// Compares both on one input; true if rustls accepts it.
fn compare(wire: &[u8]) -> bool {
    let (ours, theirs) = (ours(wire), rustls(wire));
    let shown = || format!("ours {ours:?}, rustls {theirs:?}: {}", wire.escape_ascii());
    match (&theirs, &ours) {
        (Verdict::Accepted { name, alpn }, HelloOutcome::Complete(hello)) => {
            assert_eq!(&hello.server_name, name, "{}", shown());
            assert_eq!(&hello.alpn.iter().collect::<Vec<_>>(), alpn, "{}", shown());
            true
        }
        // rustls takes up to 64 KiB.
        (Verdict::Accepted { .. }, HelloOutcome::TooLarge) => {
            assert!(wire.len() > LIMITS.handshake_max, "{}", shown());
            true
        }
        (Verdict::Accepted { .. }, _) => panic!("{}", shown()),
        (Verdict::NeedsMore, HelloOutcome::NeedMore(_)) | (Verdict::Refused(_), _) => false,
        // rustls judges whole records, we judge bytes: whatever comes in the rest of the record, it will not accept.
        (Verdict::NeedsMore, _) => {
            let filled = [wire, &[0; 1 << 16]].concat();
            assert!(matches!(rustls(&filled), Verdict::Refused(_)), "{}", shown());
            false
        }
    }
}

/// Everything that arrives earlier is either waited for or judged as the whole is.
fn check_prefix(wire: &[u8], end: usize) {
    match ours(&wire[..end]) {
        HelloOutcome::NeedMore(bytes) => {
            assert!(bytes > 0);
            let nearly = ours(&wire[..wire.len().min(end + bytes - 1)]);
            assert!(
                !matches!(nearly, HelloOutcome::Complete(_)),
                "{bytes} behind {end}: {}",
                wire.escape_ascii()
            );
        }
        early => assert_eq!(early, ours(wire), "{end}: {}", wire.escape_ascii()),
    }
}

#[test]
fn mutated_hellos_never_get_another_name_than_rustls_finds() {
    println!("seed {SEED:#x}");
    let mut random = Random(SEED);
    let seeds = seeds(&mut random);
    let mut accepted = 0;
    for number in 0..HELLOS {
        let wire = mutated(&seeds[number % seeds.len()], &mut random);
        accepted += usize::from(compare(&wire));
        check_prefix(&wire, random.below(wire.len() + 1));
    }
    println!("{accepted} of {HELLOS} accepted by rustls");
    assert!(accepted * 3 >= HELLOS, "only {accepted} of {HELLOS} accepted by rustls");
    assert!(accepted * 10 <= HELLOS * 9, "{accepted} of {HELLOS} accepted: the mutations do not bite");
}

#[test]
fn unchanged_hellos_are_accepted() {
    for (number, parts) in seeds(&mut Random(2)).iter().enumerate() {
        for size in [1 << 14, 1 + number, 1] {
            let wire = records(&parts.handshake(), &[size]);
            assert!(matches!(ours(&wire), HelloOutcome::Complete(_)), "seed {number} in records of {size}");
            // rustls buffers at most 64 KiB of records.
            assert_eq!(compare(&wire), wire.len() < 1 << 16, "seed {number} in records of {size}");
        }
    }
}
