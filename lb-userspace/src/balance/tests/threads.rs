// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads that take and give back places at the same time: nothing is lost, and what the balancer knows is exact when they are done.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::super::summary::{Fold, Least, Sum, Summary};
use super::*;

const THREADS: u64 = 8;

/// Servers that threads share.
struct Shared {
    active: Vec<AtomicU32>,
    limit: u32,
}

impl Shared {
    fn new(count: usize, limit: u32) -> Self {
        Self { active: (0..count).map(|_| AtomicU32::new(0)).collect(), limit }
    }

    fn leave(&self, index: usize) {
        self.active[index].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places for Shared {
    fn load(&self, index: usize) -> u32 {
        self.active[index].load(Ordering::Relaxed)
    }

    fn limit(&self, _index: usize) -> u32 {
        self.limit
    }

    fn take(&self, index: usize) -> bool {
        let one_more = |active| (active < self.limit).then_some(active + 1);
        self.active[index].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn take_at(&self, index: usize, load: u32) -> bool {
        load < self.limit
            && self.active[index]
                .compare_exchange(load, load + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Each thread holds a few places and changes them; when all are done, they hold what is returned.
fn stress(balancer: &Balancer, servers: &Shared) -> Vec<usize> {
    let work = |seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut held = Vec::new();
        for _ in 0..20_000 {
            if held.len() < 20 && random.bool() {
                held.extend(balancer.pick(servers, random.u64(..)));
            } else if !held.is_empty() {
                let index = held.swap_remove(random.usize(..held.len()));
                servers.leave(index);
                balancer.settle(index, servers);
            }
        }
        held
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|seed| scope.spawn(move || work(seed))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn least_connections_is_exact_after_any_race() {
    for (count, limit) in [(2, 1_000), (70, 1_000), (70, 1)] {
        let servers = Shared::new(count, limit);
        let weights: Vec<u16> = (0..count as u16).map(|server| 1 + server % 3).collect();
        let members = members(&weights);
        let balancer = Balancer::new(Balance::LeastConnections, members, count, 0, &servers);
        let held = stress(&balancer, &servers);
        let active = servers.active.iter().map(|active| active.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(active.iter().sum::<u32>() as usize, held.len());

        // From here on every pick is the one of the definition.
        let alone = Servers::limited(vec![limit; count]);
        *alone.active.borrow_mut() = active;
        for _ in 0..300 {
            let expected = least_loaded(&weights, &alone, balancer.turn(), usize::MAX);
            assert_eq!(balancer.pick(&servers, 0), expected);
            let Some(server) = expected else { break };
            alone.active.borrow_mut()[server] += 1;
        }
    }
}

#[test]
fn bounded_loads_do_not_leak() {
    let servers = Shared::new(20, u32::MAX);
    let balance = Balance::Source { bound: BalanceFactor::new(101) };
    let balancer = Balancer::new(balance, members(&[1; 20]), 20, 0, &servers);
    for index in stress(&balancer, &servers) {
        servers.leave(index);
        balancer.settle(index, &servers);
    }
    // A server may have one of up to 19 connections, and two from the 20th on. If the sum were too high by one, the 19th would
    // go to the server of the first.
    let key = keys().next().unwrap();
    let picks: Vec<_> = (0..20).map(|_| balancer.pick(&servers, key).unwrap()).collect();
    assert_eq!(picks[..19].iter().collect::<BTreeSet<_>>().len(), 19, "{picks:?}");
    assert_eq!(picks[19], picks[0]);
}

#[test]
fn every_node_is_exact_after_any_race() {
    for leaves in [1, 8, 9, 513] {
        let numbers: Vec<AtomicU32> = (0..leaves).map(|_| AtomicU32::new(7)).collect();
        let number = |leaf: usize| u64::from(numbers[leaf].load(Ordering::Relaxed));
        let (least, sum) = (Summary::<Least>::new(leaves, number), Summary::<Sum>::new(leaves, number));
        thread::scope(|scope| {
            for seed in 0..THREADS {
                let (numbers, least, sum) = (&numbers, &least, &sum);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..20_000 {
                        let leaf = random.usize(..leaves);
                        numbers[leaf].store(random.u32(..1_000), Ordering::Relaxed);
                        least.settle(leaf, || number(leaf));
                        sum.settle(leaf, || number(leaf));
                    }
                });
            }
        });
        assert_eq!(least.total(), (0..leaves).map(number).min().unwrap());
        assert_eq!(sum.total(), (0..leaves).map(number).sum::<u64>());
    }
}

proptest! {
    #[test]
    fn a_tree_finds_the_first_leaf_that_is_small_enough(
        numbers in prop::collection::vec(0u64..6, 0..600),
        from in 0usize..700,
        most in 0u64..6,
        except in prop::collection::vec(0usize..600, 0..4),
    ) {
        let tree = Summary::<Least>::new(numbers.len(), |leaf| numbers[leaf]);
        let left = || (0..numbers.len()).filter(|leaf| !except.contains(leaf));
        let expected = left().filter(|leaf| *leaf >= from).find(|leaf| numbers[*leaf] <= most);
        prop_assert_eq!(tree.first(from, most, &except), expected);
        prop_assert_eq!(tree.least(&except), left().map(|leaf| numbers[leaf]).min().unwrap_or(Least::NONE));
    }
}
