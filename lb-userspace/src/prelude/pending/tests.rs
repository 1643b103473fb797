// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who gives way, and that the sums hold whatever happens.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::runtime::testing::run;
use crate::runtime::yield_now;

/// What one connection holds in these tests, in bytes.
const CHARGE: u64 = 100;

#[test]
fn the_oldest_of_the_heaviest_source_gives_way() {
    let gauge = Gauge::default();
    let hellos = PendingHellos::new(3 * CHARGE, gauge.clone());
    let mut good = hellos.enter(address("192.0.2.1"), CHARGE);
    let mut first = hellos.enter(address("198.51.100.1"), CHARGE);
    let mut second = hellos.enter(address("198.51.100.1"), CHARGE);
    assert_eq!(gauge.get(), 300);
    let mut third = hellos.enter(address("198.51.100.1"), CHARGE);
    assert_eq!(gauge.get(), 300);
    assert!(!is_evicted(&mut good));
    assert!(is_evicted(&mut first));
    assert!(!is_evicted(&mut second));
    assert!(!is_evicted(&mut third));
    drop((good, first, second, third));
    assert_eq!(gauge.get(), 0);
}

#[test]
fn a_connection_larger_than_the_budget_goes_itself() {
    let hellos = PendingHellos::new(50, Gauge::default());
    let mut small = hellos.enter(address("192.0.2.1"), 10);
    assert!(is_evicted(&mut hellos.enter(address("192.0.2.1"), CHARGE)));
    assert!(is_evicted(&mut small));
}

#[test]
fn among_equals_the_oldest_goes_whatever_its_address() {
    let ascending = ["0.0.0.1", "192.0.2.1", "255.255.255.254", "2001:db8::1", "ffff::1"];
    let descending: Vec<_> = ascending.into_iter().rev().collect();
    for addresses in [&ascending[..], &descending] {
        let hellos = PendingHellos::new(4 * CHARGE, Gauge::default());
        let mut places: Vec<_> = addresses.iter().map(|text| hellos.enter(address(text), CHARGE)).collect();
        let evicted: Vec<_> = places.iter_mut().map(is_evicted).collect();
        assert_eq!(evicted, [true, false, false, false, false], "{addresses:?}");
    }
}

#[test]
fn a_newcomer_who_holds_more_does_not_go_for_that() {
    let hellos = PendingHellos::new(4 * CHARGE, Gauge::default());
    let mut small: Vec<_> = (1..=4).map(|host| hellos.enter(v4(host), CHARGE)).collect();
    let mut large = hellos.enter(v4(9), 2 * CHARGE);
    let evicted: Vec<_> = small.iter_mut().map(is_evicted).collect();
    assert_eq!((evicted, is_evicted(&mut large)), (vec![true, true, false, false], false));
}

#[test]
fn the_networks_of_one_site_push_out_one_another() {
    let hellos = PendingHellos::new(100 * CHARGE, Gauge::default());
    let clients = ["192.0.2.1", "2001:db8:0:1::1", "2001:db8:ffff::1", "ffff::1"];
    let mut good: Vec<_> = clients.map(|text| hellos.enter(address(text), CHARGE)).into();
    let mut bad: Vec<_> = (0..1000).map(|network| hellos.enter(network_of_site(network), CHARGE)).collect();
    good.extend(["198.51.100.1", "2001:db8:0:2::1"].map(|text| hellos.enter(address(text), CHARGE)));
    assert!(!good.iter_mut().any(is_evicted));
    let evicted: Vec<_> = bad.iter_mut().map(is_evicted).collect();
    assert_eq!(evicted.iter().position(|evicted| !evicted), Some(906), "the oldest of them");
    assert!(!evicted[906..].contains(&true));
}

#[test]
fn in_a_site_the_heaviest_network_goes_first() {
    let hellos = PendingHellos::new(4 * CHARGE, Gauge::default());
    let mut neighbour = hellos.enter(network_of_site(1), CHARGE);
    let mut busy: Vec<_> = (0..8).map(|_| hellos.enter(network_of_site(2), CHARGE)).collect();
    assert!(!is_evicted(&mut neighbour));
    assert_eq!(busy.iter_mut().filter_map(|place| is_evicted(place).then_some(())).count(), 5);
}

#[test]
fn many_ipv4_hosts_do_not_shut_out_ipv6() {
    let hellos = PendingHellos::new(100 * CHARGE, Gauge::default());
    let mut before: Vec<_> = (0..100).map(|host| hellos.enter(v4(host), CHARGE)).collect();
    let mut client = hellos.enter(address("2001:db8::1"), CHARGE);
    let mut behind: Vec<_> = (100..199).map(|host| hellos.enter(v4(host), CHARGE)).collect();
    assert!(before.iter_mut().all(is_evicted));
    assert!(!is_evicted(&mut client) && !behind.iter_mut().any(is_evicted));
    // By now it is the oldest.
    let _last = hellos.enter(v4(199), CHARGE);
    assert!(is_evicted(&mut client));
}

#[test]
fn who_has_to_go_is_woken() {
    run(async {
        let hellos = PendingHellos::new(CHARGE, Gauge::default());
        let mut first = hellos.enter(v4(1), CHARGE);
        let entering = async {
            yield_now().await;
            hellos.enter(v4(2), CHARGE)
        };
        let ((), mut second) = tokio::join!(first.evicted(), entering);
        assert!(!is_evicted(&mut second));
    });
}

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    /// A connection comes, with an address out of few and a charge.
    Enter(IpAddr, u64),
    /// One of those that came ends, evicted or not.
    End(prop::sample::Index),
}

proptest! {
    #[test]
    fn sums_hold_and_nobody_goes_without_need(
        budget in 1_u64..500,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let gauge = Gauge::default();
        let hellos = PendingHellos::new(budget, gauge.clone());
        let mut places: Vec<(Pending, u64)> = Vec::new();
        let mut expected = 0;
        for step in steps {
            let mut is_larger = false;
            match step {
                Step::Enter(source, charge) => {
                    places.push((hellos.enter(source, charge), charge));
                    expected += charge;
                    is_larger = expected > budget;
                }
                Step::End(index) if !places.is_empty() => {
                    let (mut place, charge) = places.swap_remove(index.index(places.len()));
                    // Who was evicted before has been taken out of the sum and the list's charge is 0.
                    prop_assert!(!is_evicted(&mut place) || charge == 0);
                    expected -= charge;
                }
                Step::End(_) => {}
            }
            let mut last_victim = 0;
            for (place, charge) in &mut places {
                if *charge > 0 && is_evicted(place) {
                    expected -= *charge;
                    last_victim = std::mem::take(charge).max(last_victim);
                }
            }
            prop_assert_eq!(gauge.get(), i64::try_from(expected).unwrap());
            prop_assert!(expected <= budget);
            prop_assert!(last_victim == 0 || is_larger, "somebody went though there was room");
        }
        drop(places);
        prop_assert_eq!(gauge.get(), 0);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let source = prop_oneof![
        (0_u8..4).prop_map(v4),
        (0_u16..4).prop_map(network_of_site),
        (0_u16..4).prop_map(|site| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, 1))),
    ];
    prop_oneof![
        2 => (source, 1_u64..100).prop_map(|(source, charge)| Step::Enter(source, charge)),
        1 => any::<prop::sample::Index>().prop_map(Step::End),
    ]
}

fn is_evicted(place: &mut Pending) -> bool {
    place.evicted.try_recv().is_ok()
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address in a test")
}

fn v4(host: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, host).into()
}

/// A host in one of the 65,536 networks of one site.
fn network_of_site(network: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x7777, network, 0, 0, 0, 1).into()
}
