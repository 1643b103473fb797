// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is left of a SYN that a socket of the balancer's sends to a server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::packet::flow::Phase;
use lb_common::packet::offer::Offer;
use lb_common::packet::record::Counter;

use super::super::Opening;
use super::bench::{Bench, CLIENT, Family, Fate, PORTS, SERVER, address, record, shape_to};
use super::model::Shape;

const SYN: u8 = 2;
const ACK: u8 = 0x10;
const ECN: u8 = 0xc0;

/// What Linux puts into a SYN: size, SACK permitted, timestamps, scale; and the same with nothing in it that may be missing.
const OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 9, 9, 9, 9, 0, 0, 0, 0, 1, 3, 3, 7];
const REDUCED: [u8; 20] = [2, 4, 5, 20, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 7];

const NOTHING: Offer = Offer { has_timestamps: false, has_sack: false, has_ecn: false, segment_size: 1_300 };

/// A port towards the server that no flow has.
const PORT: u16 = 50_001;

fn server(family: Family) -> SocketAddr {
    let bytes = address(family, 3);
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four bytes")).into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("sixteen bytes")).into(),
    };
    SocketAddr::new(ip, PORTS[3])
}

fn syn(family: Family, flags: u8, options: &[u8]) -> Shape {
    Shape { ports: (PORT, PORTS[3]), flags, options: options.to_vec(), ..shape_to(family, SERVER) }
}

/// At each place, with a connection that begins from [`PORT`].
fn check(test: impl Fn(&mut Bench, &Opening)) {
    Bench::at_each_place(
        |family| record(family, Phase::Track),
        |bench| test(bench, &Opening::new(server(bench.family), PORT)),
    );
}

#[test]
fn a_syn_offers_no_more_than_it_may() {
    check(|bench, opening| {
        let family = bench.family;
        let asking = syn(family, SYN | ECN, &OPTIONS);
        assert_eq!(bench.goes_out(&asking.packet()), Fate::Passed(asking.packet()), "nobody has said so");
        assert!(bench.keys.offer(opening, NOTHING));
        let expected = syn(family, SYN, &REDUCED).packet();
        // As often as it is sent.
        for sent in 1..=3 {
            assert_eq!(bench.goes_out(&asking.packet()), Fate::Passed(expected.clone()));
            assert_eq!(bench.counts().of(Counter::Reduced), sent);
        }
        assert!(bench.keys.settle(opening));
        assert_eq!(bench.goes_out(&asking.packet()), Fate::Passed(asking.packet()), "it is over");
        assert_eq!((bench.keys.entries(), bench.counts().of(Counter::Reduced)), (2, 3));
    });
}

#[test]
fn what_the_client_has_may_stay() {
    check(|bench, opening| {
        let family = bench.family;
        let everything = Offer { has_timestamps: true, has_sack: true, has_ecn: true, segment_size: 1_460 };
        assert!(bench.keys.offer(opening, everything));
        for flags in [SYN, SYN | ECN] {
            let asking = syn(family, flags, &OPTIONS).packet();
            assert_eq!(bench.goes_out(&asking), Fate::Passed(asking.clone()));
        }
        assert!(bench.keys.settle(opening));
    });
}

/// Another connection's, one from elsewhere, an answer, what cannot be read: all go out as they are, and nobody is told otherwise.
#[test]
fn nothing_else_is_changed() {
    check(|bench, opening| {
        let family = bench.family;
        assert!(bench.keys.offer(opening, NOTHING));
        let asking = syn(family, SYN | ECN, &OPTIONS);
        let others = [
            Shape { ports: (PORT + 1, PORTS[3]), ..asking.clone() },
            Shape { ports: (PORT, PORTS[3] + 1), ..asking.clone() },
            Shape { ends: shape_to(family, CLIENT).ends, ..asking.clone() },
            syn(family, SYN | ACK, &OPTIONS),
            syn(family, ACK, &OPTIONS),
            syn(family, SYN, &[34, 2, 1, 1]),
            syn(family, SYN, &[8, 11, 1, 1]),
        ];
        for other in others {
            assert_eq!(bench.goes_out(&other.packet()), Fate::Passed(other.packet()));
        }
        assert_eq!(bench.is_forwarded(&asking.packet()), Fate::Passed(asking.packet()));
        // What is known of the SYN is nothing by which a packet that comes in is found.
        let mut answer = syn(family, SYN | ACK, &OPTIONS);
        (answer.ends.0, answer.ends.1) = (answer.ends.1, vec![0; answer.ends.0.len()]);
        answer.ports = (PORTS[3], PORT);
        assert_eq!(bench.comes_in(&answer.packet()), Fate::Passed(answer.packet()));
        assert!(!bench.keys.settle(opening), "no SYN has gone out so");
        assert_eq!(bench.counts().of(Counter::Reduced), 0);
    });
}

/// A SYN without options has nothing to take out but a request for ECN.
#[test]
fn a_bare_syn_is_no_obstacle() {
    check(|bench, opening| {
        let family = bench.family;
        assert!(bench.keys.offer(opening, NOTHING));
        let expected = syn(family, SYN, &[]).packet();
        assert_eq!(bench.goes_out(&syn(family, SYN | ECN, &[]).packet()), Fate::Passed(expected));
        assert!(bench.keys.settle(opening));
    });
}
