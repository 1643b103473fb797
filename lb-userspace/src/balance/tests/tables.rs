// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys and the servers that they lead to: consistency, shares of tables, the bound on loads.

use std::net::Ipv6Addr;

use super::*;

const SOURCE: Balance = Balance::Source { bound: None };
const MAGLEV: Balance = Balance::Maglev { on: HashOn::Source, bound: None };

/// The servers that the slots of a table lead to.
fn table(balance: Balance, members: &[Member], servers: usize) -> Vec<usize> {
    let slots = match balance {
        Balance::Source { .. } => race::fill(members, race::slots(servers)),
        _ => maglev::fill(members, maglev::slots(servers)),
    };
    slots.iter().map(|slot| members[*slot as usize].index).collect()
}

/// Slots that lead elsewhere in the second table, and how many of these led to `gone` in the first.
fn moved(before: &[usize], after: &[usize], gone: usize) -> (usize, usize) {
    assert_eq!(before.len(), after.len());
    let moved = before.iter().zip(after).filter(|(before, after)| before != after);
    moved.fold((0, 0), |(all, of_gone), (before, _)| (all + 1, of_gone + usize::from(*before == gone)))
}

fn share(table: &[usize], server: usize) -> usize {
    table.iter().filter(|slot| **slot == server).count()
}

fn without(members: &[Member], gone: usize) -> Vec<Member> {
    members.iter().copied().filter(|member| member.index != gone).collect()
}

/// These numbers are in use between nodes of different versions: they must never change. The first four come from another
/// implementation of SipHash-1-3.
#[test]
fn hashes_are_the_same_everywhere() {
    assert_eq!(identity("web-1", None), 0x3f36_804f_f06d_9e72);
    assert_eq!(identity("web-1", Some(([10, 0, 0, 1], 443).into())), 0xda02b5fe5582d4b3);
    assert_eq!(hash::source([192, 0, 2, 1].into()), 0x8ba7_6ae9_a4c5_cc0a);
    assert_eq!(hash::name("www.example.com"), 0x8faa_3e7c_cd7c_9f08);
    let digest = |balance| {
        table(balance, &members(&[1, 2, 3]), 3)
            .into_iter()
            .fold(0_u64, |digest, server| hash::mix(digest ^ server as u64, 1))
    };
    assert_eq!([digest(SOURCE), digest(MAGLEV)], [3_186_668_429_804_361_874, 15_083_092_116_647_254_736]);
}

#[test]
fn what_of_an_address_counts() {
    let key = |address: &str| hash::source(address.parse().unwrap());
    assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff:ffff:ffff:ffff"));
    assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    // An entry of several addresses is as many servers; its name with an address is no other server's name.
    let at = |ip: [u8; 4], port: u16| identity("a", Some((ip, port).into()));
    let v6 = identity("a", Some((Ipv6Addr::LOCALHOST, 1).into()));
    let all = [identity("a", None), at([1, 2, 3, 4], 1), at([1, 2, 3, 4], 2), at([1, 2, 3, 5], 1), v6];
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn what_keys_go_by() {
    let client: IpAddr = [192, 0, 2, 1].into();
    let unused = || unreachable!("no random number is needed");
    let sni = Balance::Maglev { on: HashOn::Sni, bound: None };
    assert_eq!(Balance::Random.key(client, None, || 7), 7);
    assert_eq!(SOURCE.key(client, Some("a.example"), unused), hash::source(client));
    assert_eq!(MAGLEV.key(client, Some("a.example"), unused), hash::source(client));
    assert_eq!(sni.key(client, Some("a.example"), unused), hash::name("a.example"));
    assert_eq!(sni.key(client, None, unused), hash::source(client));
    assert!(!SOURCE.follows_loads() && Balance::Source { bound: FACTOR }.follows_loads());
}

#[test]
fn tables_are_prime_and_large_enough() {
    let is_prime = |number: usize| {
        let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
        divisors.all(|divisor| !number.is_multiple_of(divisor))
    };
    for servers in [0, 1, 20, 21, 164, 165, 1_000, 1_311, 1_312, 10_000, 10_485, 83_886] {
        let slots = maglev::slots(servers);
        assert!(is_prime(slots) && slots > 100 * servers, "{slots} for {servers}");
        let slots = race::slots(servers);
        assert!(slots.is_power_of_two() && (4_096..=1 << 20).contains(&slots), "{slots} for {servers}");
    }
    assert_eq!(maglev::slots(10_000) * size_of::<u32>() / 1024 / 1024, 4, "MiB");
    assert_eq!(maglev::slots(1_000_000), 8_388_617);
}

#[test]
fn a_thousand_servers_of_maglev_have_equal_shares() {
    let members = members(&[1; 1_000]);
    let table = table(MAGLEV, &members, 1_000);
    let mut shares = vec![0; 1_000];
    table.iter().for_each(|server| shares[*server] += 1);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert_eq!((*least, *most), (131, 132));
}

/// Besides the keys of the server that leaves, which is one share of the table (1/N), so many shares move: none of `source`, and of
/// Maglev the fewer the more slots a server has. The paper gives no bound (section 5.3 measures); these are the most that was seen,
/// and an eighth more. Of each size of tables there are the most servers (100 slots each) and the fewest, but of the last.
#[test]
fn a_removal_moves_few_shares_besides_the_own() {
    let rows = [(2, 0.01), (20, 0.7), (21, 0.22), (164, 3.15), (165, 0.9), (500, 4.1), (1_000, 6.5)];
    for (count, most) in rows {
        let members = members(&vec![1; count]);
        for (balance, most) in [(SOURCE, 0.0), (MAGLEV, most)] {
            let before = table(balance, &members, count);
            for gone in (0..count).step_by((count / 12).max(1)) {
                let after = table(balance, &without(&members, gone), count);
                let (all, of_gone) = moved(&before, &after, gone);
                assert_eq!(of_gone, share(&before, gone));
                let others = (all - of_gone) as f64 / before.len() as f64 * count as f64;
                assert!(others <= most, "{balance:?}: {others} shares more than that of {gone} of {count}");
            }
        }
    }
}

/// What a key's server is while another one is full is what it is while that one is gone.
#[test]
fn a_full_server_leaves_its_keys_to_others_as_one_that_is_gone() {
    let all = Servers::limited(vec![u32::MAX, 0, u32::MAX, u32::MAX]);
    let balancer = balancer(SOURCE, &[1, 1, 2, 4], 0, &all);
    let mut counts = vec![0_u32; 4];
    for key in keys().take(70_000) {
        let first = balancer.pick(&all, key).unwrap();
        assert_eq!(balancer.pick(&all, key), Some(first), "keys keep to their servers");
        counts[first] += 1;
    }
    for (count, weight) in counts.iter().zip([1.0, 0.0, 2.0, 4.0]) {
        assert!(
            (f64::from(*count) - 10_000.0 * weight).abs() <= 1_500.0 * f64::max(weight, 0.0),
            "{counts:?}"
        );
    }
}

#[test]
fn the_bound_gives_way_before_a_connection_is_refused() {
    let servers = Servers::limited(vec![u32::MAX, 1, 1]);
    let balance = Balance::Maglev { on: HashOn::Sni, bound: FACTOR };
    let balancer = balancer(balance, &[1, 1, 1], 0, &servers);
    (0..10).for_each(|_| assert!(balancer.pick(&servers, hash::name("only.example")).is_some()));
    assert_eq!(servers.active(), [8, 1, 1]);
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(1u16..=256, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_servers_is_nothing_to_a_table(
        balance in prop::sample::select(&[SOURCE, MAGLEV]),
        (ordered, shuffled) in weights().prop_map(|weights| members(&weights))
            .prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
    ) {
        prop_assert_eq!(table(balance, &ordered, 24), table(balance, &shuffled, 24));
    }

    #[test]
    fn a_server_that_leaves_source_moves_its_own_keys_alone(weights in weights(), gone in any::<prop::sample::Index>()) {
        let members = members(&weights);
        let gone = gone.index(members.len());
        prop_assume!(members.len() > 1);
        let before = table(SOURCE, &members, members.len());
        let after = table(SOURCE, &without(&members, gone), members.len());
        let (all, of_gone) = moved(&before, &after, gone);
        prop_assert_eq!((all, of_gone), (share(&before, gone), share(&before, gone)));
    }

    /// The bound is twice what was seen at most. (The paper measures, and gives no bound.)
    #[test]
    fn a_server_that_leaves_maglev_moves_few_other_keys(weights in weights(), gone in any::<prop::sample::Index>()) {
        let members = members(&weights);
        let gone = gone.index(members.len());
        prop_assume!(members.len() > 1);
        let before = table(MAGLEV, &members, members.len());
        let after = table(MAGLEV, &without(&members, gone), members.len());
        let (all, of_gone) = moved(&before, &after, gone);
        prop_assert_eq!(of_gone, share(&before, gone));
        prop_assert!((all - of_gone) as f64 <= 0.08 * before.len() as f64, "{} of {}", all - of_gone, before.len());
    }

    /// At most a slot more than the share, and less by at most the number of servers over the number of slots.
    #[test]
    fn shares_of_maglev_follow_the_weights(weights in weights()) {
        let members = members(&weights);
        let table = table(MAGLEV, &members, members.len());
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (server, weight) in weights.iter().enumerate() {
            let ideal = table.len() as f64 * f64::from(*weight) / total;
            let share = share(&table, server) as f64;
            let least = ideal * (1.0 - members.len() as f64 / table.len() as f64);
            prop_assert!(share >= 1.0 && share <= ideal + 1.0 && share + 1e-6 >= least, "{share} instead of {ideal}");
        }
    }

    /// Whatever keys come, stay and go: no server has more than the factor allows, rounded up, at the moment that it gets one.
    #[test]
    fn no_server_is_above_the_bound(
        weights in weights(),
        percent in 101u16..=300,
        is_maglev in any::<bool>(),
        steps in prop::collection::vec((0u64..8, any::<prop::sample::Index>()), 1..400),
    ) {
        let bound = BalanceFactor::new(percent);
        let balance =
            if is_maglev { Balance::Maglev { on: HashOn::Sni, bound } } else { Balance::Source { bound } };
        let servers = Servers::unlimited(weights.len());
        let balancer = balancer(balance, &weights, 0, &servers);
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        for (key, which) in steps {
            if key == 0 {
                let server = which.index(weights.len());
                let mut active = servers.active.borrow_mut();
                active[server] = active[server].saturating_sub(1);
                drop(active);
                balancer.settle(server, &servers);
                continue;
            }
            let server = balancer.pick(&servers, hash::mix(key, 0)).unwrap();
            let connections: u64 = servers.active().into_iter().map(u64::from).sum();
            let most = (connections * u64::from(percent) * u64::from(weights[server])).div_ceil(100 * total);
            prop_assert!(u64::from(servers.active()[server]) <= most, "{} > {most}", servers.active()[server]);
        }
    }
}
