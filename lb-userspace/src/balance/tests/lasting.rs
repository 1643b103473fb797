// SPDX-License-Identifier: MIT OR Apache-2.0
//! What servers get of a hundred thousand connections that last, thousands at a time, each ended by chance: where loads decide.

use super::shares::{CONNECTIONS, SIGMAS, cases, named, run, weights_of};
use super::*;

/// Connections that are open at a time.
const OPEN: usize = 2_000;

/// A moment behind a pick.
struct Picked<'a> {
    loads: &'a [u32],
    server: usize,
    key: u64,
}

impl Picked<'_> {
    fn load(&self) -> f64 {
        f64::from(self.loads[self.server])
    }

    fn open(&self) -> f64 {
        f64::from(self.loads.iter().sum::<u32>())
    }
}

/// Runs connections with these keys; `look` is called behind every pick. Returns how many each server had.
fn run_open(
    balance: Balance,
    servers: &[Standing],
    keys: impl Iterator<Item = u64>,
    mut look: impl FnMut(&Picked),
) -> Vec<u32> {
    let places = Servers::unlimited(servers.len());
    let members = eligible(named(servers).into_iter());
    let balancer = Balancer::new(balance, members, servers.len(), 0, &places);
    let mut random = fastrand::Rng::with_seed(4);
    let (mut counts, mut open) = (vec![0; servers.len()], Vec::new());
    for key in keys.take(CONNECTIONS as usize) {
        let server = balancer.pick(&places, key).unwrap();
        look(&Picked { loads: &places.active.borrow(), server, key });
        counts[server] += 1;
        open.push(server);
        if open.len() == OPEN {
            let ended = open.swap_remove(random.usize(..OPEN));
            places.active.borrow_mut()[ended] -= 1;
            balancer.settle(ended, &places);
        }
    }
    assert_eq!(counts.iter().sum::<u32>(), CONNECTIONS);
    counts
}

/// Where keys lead while nothing is in the way.
fn leads(balance: Balance, servers: &[Standing]) -> impl Fn(u64) -> usize {
    let places = Servers::unlimited(servers.len());
    let members = eligible(named(servers).into_iter());
    let balancer = Balancer::new(balance, members, servers.len(), 0, &places);
    move |key| balancer.pick(&places, key).unwrap()
}

/// Standard deviation of a count around a chance.
fn sigma(chance: f64) -> f64 {
    (f64::from(CONNECTIONS) * chance * (1.0 - chance)).sqrt()
}

/// The ways of choosing by a key, without and with a bound.
fn bounded() -> [(Balance, Balance); 2] {
    let maglev = |bound| Balance::Maglev { on: HashOn::Source, bound };
    [(Balance::Source { bound: None }, Balance::Source { bound: FACTOR }), (maglev(None), maglev(FACTOR))]
}

/// What ends is drawn from what is open, and the next one comes where there is least for its weight. So a server's sum follows its
/// weight but for chance, with backups, with only backups, with servers that are down.
#[test]
fn least_connections_gives_everyone_its_share_of_connections_that_end() {
    for servers in cases() {
        let weights = weights_of(&servers);
        let (total, others) =
            (weights.iter().sum::<f64>(), weights.iter().filter(|weight| **weight > 0.0).count() - 1);
        let counts = run_open(Balance::LeastConnections, &servers, keys(), |picked| {
            // (load + 1) / weight was least, so that load / weight is at most (load + 1) / weight of each other one: summed up.
            let most = (picked.open() + others as f64) * weights[picked.server] / total;
            assert!(picked.load() <= most + 1e-9, "server {}: {:?}", picked.server, picked.loads);
        });
        for (server, count) in counts.into_iter().enumerate() {
            let chance = weights[server] / total;
            let off = (f64::from(count) - f64::from(CONNECTIONS) * chance).abs();
            assert!(off <= SIGMAS * sigma(chance), "server {server} of {servers:?}: {count}, off by {off}");
        }
    }
}

/// One connection at a time never reaches the bound: every client has the server that it has without.
#[test]
fn a_bound_changes_nothing_while_loads_are_small() {
    for servers in cases() {
        for (free, bound) in bounded() {
            assert_eq!(run(free, &servers), run(bound, &servers), "{bound:?}");
        }
    }
}

/// Where clients are many and alike, a bound of 125 % is reached by chance alone: nearly every client has its server, and so servers
/// have their shares (see `shares`).
#[test]
fn a_bound_moves_next_to_nobody_of_a_hundred_thousand_clients() {
    for servers in cases() {
        for (free, bound) in bounded() {
            let lead = leads(free, &servers);
            let (mut own, mut moved) = (vec![0; servers.len()], 0);
            let counts = run_open(bound, &servers, keys(), |picked| {
                let first = lead(picked.key);
                own[first] += 1;
                moved += u32::from(first != picked.server);
            });
            assert!(moved <= CONNECTIONS / 500, "{bound:?}: {moved} of {servers:?}");
            assert!(counts.iter().zip(&own).all(|(count, own)| count.abs_diff(*own) <= moved));
        }
    }
}

/// Where every other connection comes from one client: its server has what the bound allows, at any moment and in the sum; what is too
/// much goes to all others, who keep what is theirs.
#[test]
fn a_bound_shares_out_what_one_client_has_too_much() {
    let first = keys().next().unwrap();
    let mixed = || keys().enumerate().map(|(turn, key)| if turn % 2 == 0 { first } else { key });
    for servers in cases() {
        let weights = weights_of(&servers);
        let total: f64 = weights.iter().sum();
        for (free, bound) in bounded() {
            let lead = leads(free, &servers);
            let (hot, mut own) = (lead(first), vec![0.0; servers.len()]);
            let counts = run_open(bound, &servers, mixed(), |picked| {
                let most = (picked.open() * 1.25 * weights[picked.server] / total).ceil();
                assert!(picked.load() <= most, "{bound:?}: server {}: {:?}", picked.server, picked.loads);
                own[lead(picked.key)] += 1.0;
            });
            for (server, count) in counts.into_iter().enumerate() {
                let (count, all) = (f64::from(count), f64::from(CONNECTIONS));
                // The bound is rounded up at each moment.
                let most = f64::min(1.0, 1.25 * weights[server] / total + 1.0 / OPEN as f64);
                let slack = SIGMAS * sigma(most) + OPEN as f64;
                assert!(count <= all * most + slack, "{bound:?}: server {server} of {servers:?}: {count}");
                let least = f64::min(own[server], all * 1.25 * weights[server] / total);
                assert!(count >= least - slack, "{bound:?}: server {server} of {servers:?}: {count}");
                assert!(server != hot || own[server] >= all / 2.0);
            }
        }
    }
}
