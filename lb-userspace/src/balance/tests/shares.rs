// SPDX-License-Identifier: MIT OR Apache-2.0
//! What servers get of a hundred thousand connections, against what chance allows.

use super::*;

pub(super) const CONNECTIONS: u32 = 100_000;

/// Standard deviations that a count may be off. With ten counts a case, a deviation as large as this comes by chance once in
/// a hundred thousand runs; seeds are fixed, so that it is no matter of luck whether the test passes.
pub(super) const SIGMAS: f64 = 5.0;

/// Runs connections, each of which has ended before the next one comes, from as many clients.
pub(super) fn run(balance: Balance, servers: &[Standing]) -> Vec<u32> {
    let open = Servers::unlimited(servers.len());
    let members = eligible(named(servers).into_iter());
    let balancer = Balancer::new(balance, members, servers.len(), 0, &open);
    let mut counts = vec![0; servers.len()];
    let mut random = fastrand::Rng::with_seed(1);
    for client in 0..CONNECTIONS {
        let address = IpAddr::from((0x0a00_0000 + client).to_be_bytes());
        let server = balancer.pick(&open, balance.key(address, None, || random.u64(..))).unwrap();
        counts[server] += 1;
        open.active.borrow_mut()[server] -= 1;
        balancer.settle(server, &open);
    }
    counts
}

pub(super) fn named(servers: &[Standing]) -> Vec<Standing> {
    let name = |(index, server): (usize, &Standing)| Standing {
        identity: identity(&format!("server-{index}"), None),
        ..*server
    };
    servers.iter().enumerate().map(name).collect()
}

/// Weights of the servers that are eligible, by server; 0 for the others.
pub(super) fn weights_of(servers: &[Standing]) -> Vec<f64> {
    eligible(servers.iter().copied()).iter().fold(vec![0.0; servers.len()], |mut weights, member| {
        weights[member.index] = f64::from(member.weight.get());
        weights
    })
}

/// Counts are binomially distributed around `share`, but for what the table itself is off: `slack`, as a part of the share.
#[track_caller]
fn check(balance: Balance, servers: &[Standing], slack: f64) {
    let weights = weights_of(servers);
    let total: f64 = weights.iter().sum();
    for (index, count) in run(balance, servers).into_iter().enumerate() {
        let chance = weights[index] / total;
        let expected = f64::from(CONNECTIONS) * chance;
        let sigma = (expected * (1.0 - chance)).sqrt();
        let most = SIGMAS * sigma + slack * expected;
        let off = f64::from(count) - expected;
        assert!(
            off.abs() <= most,
            "{balance:?}: server {index} has {count} instead of {expected:.0} ± {most:.0}"
        );
    }
}

/// Equal, unequal, with one that takes none, with backups, and only backups.
pub(super) fn cases() -> Vec<Vec<Standing>> {
    vec![
        vec![up(1); 10],
        vec![up(1), up(3)],
        (1..=10).map(up).collect(),
        vec![up(256), up(1), up(0), up(100), backup(256)],
        vec![down(up(1)), backup(1), backup(3), down(backup(5))],
    ]
}

#[test]
fn random_gives_everyone_its_share() {
    cases().iter().for_each(|servers| check(Balance::Random, servers, 0.0));
    let many: Vec<Standing> = (0..1_000).map(|index| up(1 + index % 7)).collect();
    check(Balance::Random, &many, 0.0);
}

/// A server's slots are off by as much as if they had been drawn, which is part of the bound.
#[test]
fn source_gives_everyone_its_share() {
    for servers in cases() {
        let members = eligible(servers.iter().copied());
        let total: f64 = members.iter().map(|member| f64::from(member.weight.get())).sum();
        let least = members.iter().map(|member| f64::from(member.weight.get()) / total).fold(1.0, f64::min);
        let slots = race::slots(servers.len()) as f64 * least;
        check(Balance::Source { bound: None }, &servers, SIGMAS / slots.sqrt());
    }
}

/// A table of Maglev is off by a slot, or a hundredth, whichever is more.
#[test]
fn maglev_gives_everyone_its_share() {
    let maglev = Balance::Maglev { on: HashOn::Source, bound: None };
    for servers in cases() {
        let members = eligible(servers.iter().copied());
        let total: f64 = members.iter().map(|member| f64::from(member.weight.get())).sum();
        let least = members.iter().map(|member| f64::from(member.weight.get()) / total).fold(1.0, f64::min);
        let slots = maglev::slots(servers.len()) as f64 * least;
        check(maglev, &servers, f64::max(0.01, 1.0 / slots));
    }
}

#[test]
fn round_robin_gives_everyone_its_share_but_for_one_turn() {
    for servers in cases() {
        let members = eligible(servers.iter().copied());
        let total: f64 = members.iter().map(|member| f64::from(member.weight.get())).sum();
        let counts = run(Balance::RoundRobin, &servers);
        for member in members {
            let expected = f64::from(CONNECTIONS) * f64::from(member.weight.get()) / total;
            assert!((f64::from(counts[member.index]) - expected).abs() < 1.0, "{counts:?}");
        }
    }
}

/// With connections that stay, every way that looks at loads fills servers by weight.
#[test]
fn loads_are_even_where_connections_stay() {
    for (balance, slack) in [(Balance::LeastConnections, 1.0), (Balance::Random, 60.0)] {
        let servers = Servers::unlimited(10);
        let weights: Vec<u16> = (1..=10).collect();
        let balancer = balancer(balance, &weights, 0, &servers);
        let mut random = fastrand::Rng::with_seed(2);
        (0..CONNECTIONS).for_each(|_| assert!(balancer.pick(&servers, random.u64(..)).is_some()));
        for (load, weight) in servers.active().into_iter().zip(weights) {
            let expected = f64::from(CONNECTIONS) * f64::from(weight) / 55.0;
            assert!((f64::from(load) - expected).abs() <= slack, "{balance:?}: {load} instead of {expected}");
        }
    }
}

/// The better of two drawn keeps the fullest server close to the average, where one drawn would not.
#[test]
fn two_choices_are_better_than_one() {
    let servers = Servers::unlimited(1_000);
    let balancer = balancer(Balance::Random, &[1; 1_000], 0, &servers);
    let mut random = fastrand::Rng::with_seed(3);
    (0..CONNECTIONS).for_each(|_| assert!(balancer.pick(&servers, random.u64(..)).is_some()));
    let most = servers.active().into_iter().max().unwrap();
    // ln(ln(1000)) / ln(2) above the average of 100 (Mitzenmacher); with one choice about 135.
    assert!(most <= 100 + 6, "{most}");
}
