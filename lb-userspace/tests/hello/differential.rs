// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rustls accepts, we find the same name and protocols; where it waits, we wait or refuse what it would refuse later.

use lb::prelude::hello::HelloOutcome;

use crate::build::{Parts, client_hello, records};
use crate::mutate::mutated;
use crate::oracle::{LIMITS, check_prefix, compare, ours};
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
