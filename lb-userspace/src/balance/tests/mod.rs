// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shares, smoothness and limits of the choices, over arbitrary sets of servers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::config::BalanceFactor;

mod lasting;
mod reference;
mod shares;
mod tables;
mod threads;

/// Servers as vectors of open connections and limits.
struct Servers {
    active: RefCell<Vec<u32>>,
    limits: Vec<u32>,
}

impl Servers {
    fn unlimited(count: usize) -> Self {
        Self::limited(vec![u32::MAX; count])
    }

    fn limited(limits: Vec<u32>) -> Self {
        Self { active: RefCell::new(vec![0; limits.len()]), limits }
    }

    fn active(&self) -> Vec<u32> {
        self.active.borrow().clone()
    }
}

impl Places for Servers {
    fn load(&self, index: usize) -> u32 {
        self.active.borrow()[index]
    }

    fn limit(&self, index: usize) -> u32 {
        self.limits[index]
    }

    fn take(&self, index: usize) -> bool {
        self.take_at(index, self.load(index))
    }

    fn take_at(&self, index: usize, load: u32) -> bool {
        let is_open = self.load(index) == load && load < self.limits[index];
        self.active.borrow_mut()[index] += u32::from(is_open);
        is_open
    }
}

const FACTOR: Option<BalanceFactor> = BalanceFactor::new(125);

/// Every way of choosing.
const ALL: [Balance; 6] = [
    Balance::RoundRobin,
    Balance::LeastConnections,
    Balance::Random,
    Balance::Source { bound: None },
    Balance::Maglev { on: HashOn::Source, bound: None },
    Balance::Maglev { on: HashOn::Source, bound: FACTOR },
];

fn members(weights: &[u16]) -> Vec<Member> {
    let members = weights.iter().enumerate().map(|(index, weight)| Some((index, NonZeroU16::new(*weight)?)));
    members.flatten().map(|(index, weight)| member(index, weight)).collect()
}

fn member(index: usize, weight: NonZeroU16) -> Member {
    Member { index, weight, identity: identity(&format!("server-{index}"), None) }
}

fn balancer(balance: Balance, weights: &[u16], turn: usize, servers: &Servers) -> Balancer {
    Balancer::new(balance, members(weights), weights.len(), turn, servers)
}

/// Keys as clients have them.
fn keys() -> impl Iterator<Item = u64> {
    (0_u32..).map(|client| hash::source(IpAddr::from(client.to_be_bytes())))
}

fn up(weight: u16) -> Standing {
    Standing { weight, is_backup: false, state: ServerState::Up, identity: 0 }
}

fn backup(weight: u16) -> Standing {
    Standing { is_backup: true, ..up(weight) }
}

fn down(server: Standing) -> Standing {
    Standing { state: ServerState::Down, ..server }
}

fn turns(sequence: &[u32], servers: usize) -> Vec<u64> {
    let mut turns = vec![0; servers];
    sequence.iter().for_each(|server| turns[*server as usize] += 1);
    turns
}

/// The least loaded server, the first from `turn` on among equals.
fn least_loaded(weights: &[u16], places: &Servers, turn: usize, tried: usize) -> Option<usize> {
    let cost = |server: usize| (u64::from(places.load(server)) + 1, u64::from(weights[server]));
    let is_less = |one: usize, other: usize| cost(one).0 * cost(other).1 < cost(other).0 * cost(one).1;
    let turn = turn.min(weights.len());
    (turn..weights.len())
        .chain(0..turn)
        .filter(|server| {
            weights[*server] > 0 && *server != tried && places.load(*server) < places.limit(*server)
        })
        .reduce(|least, server| if is_less(server, least) { server } else { least })
}

#[test]
fn who_is_eligible() {
    #[track_caller]
    fn check(servers: &[Standing], expected: &[usize]) {
        let members = eligible(servers.iter().copied());
        assert_eq!(members.iter().map(|member| member.index).collect::<Vec<_>>(), expected);
    }
    check(&[], &[]);
    check(&[up(1), up(2), backup(1)], &[0, 1]);
    check(&[up(1), down(up(2)), backup(1)], &[0]);
    check(&[down(up(1)), down(up(2)), backup(1), backup(3)], &[2, 3]);
    check(&[down(up(1)), backup(1), down(backup(3))], &[1]);
    check(&[down(up(1)), down(backup(1))], &[]);
    // Weight 0 takes no connections, so it does not keep backups from standing in.
    check(&[up(0), up(1)], &[1]);
    check(&[up(0), backup(1), backup(0)], &[1]);
}

#[test]
fn cycles_are_even() {
    #[track_caller]
    fn check(weights: &[u16], expected: &[u32]) {
        assert_eq!(&*sequence(&members(weights)), expected);
    }
    check(&[], &[]);
    check(&[7], &[0]);
    check(&[100, 100, 100], &[0, 1, 2]);
    check(&[2, 0, 4], &[2, 0, 2]);
    check(&[5, 1, 1], &[0, 1, 0, 0, 2, 0, 0]);
    // Many light servers beside a heavy one do not come in a bunch.
    check(&[4, 1, 1, 1, 1], &[0, 1, 0, 2, 0, 3, 0, 4]);
}

#[test]
fn a_cycle_is_bounded_and_leaves_nobody_out() {
    let weights: Vec<u16> = (0..10_000).map(|server| 1 + server % 256).collect();
    let sequence = sequence(&members(&weights));
    assert!(sequence.len() <= SEQUENCE_MAX, "{}", sequence.len());
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    for (server, turns) in turns(&sequence, weights.len()).into_iter().enumerate() {
        let room = (SEQUENCE_MAX - weights.len()) as f64;
        let ideal = (f64::from(weights[server]) * room / total).max(1.0);
        assert!((turns as f64 - ideal).abs() <= 0.51, "{server}: {turns} instead of {ideal}");
    }
}

#[test]
fn turns_of_a_full_server_are_shared_by_weight() {
    let servers = Servers::limited(vec![0, u32::MAX, u32::MAX]);
    let balancer = balancer(Balance::RoundRobin, &[256, 1, 1], 0, &servers);
    (0..100).for_each(|_| assert!(balancer.pick(&servers, 0).is_some()));
    assert_eq!(servers.active(), [0, 50, 50]);
}

#[test]
fn the_last_open_server_is_found_among_ten_thousand() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::Random] {
        let weights: Vec<u16> = (0..10_000).map(|server| 1 + server % 256).collect();
        let mut limits = vec![0; weights.len()];
        limits[1234] = 3;
        let servers = Servers::limited(limits);
        let balancer = balancer(balance, &weights, 5_000, &servers);
        let picks: Vec<_> = (0..4).map(|key| balancer.pick(&servers, key)).collect();
        assert_eq!(picks, [Some(1234), Some(1234), Some(1234), None]);
    }
}

#[test]
fn the_search_without_weights_is_in_turn() {
    // 700 full servers of great weight put more turns between the two open ones than a pick walks through.
    let weights = [vec![256; 700], vec![1, 1]].concat();
    let servers = Servers::limited([vec![0; 700], vec![u32::MAX; 2]].concat());
    let balancer = balancer(Balance::RoundRobin, &weights, 0, &servers);
    (0..100).for_each(|_| assert!(balancer.pick(&servers, 0).is_some()));
    let active = servers.active();
    assert!(active[700].abs_diff(active[701]) <= 2, "{:?}", &active[700..]);
}

#[test]
fn the_rotation_goes_on_when_the_set_changes() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let mut picks = Vec::new();
        let mut turn = 0;
        for _ in 0..6 {
            let servers = Servers::unlimited(3);
            let balancer = balancer(balance, &[1, 1, 1], turn, &servers);
            picks.extend(balancer.pick(&servers, 0));
            turn = balancer.turn();
        }
        assert_eq!(picks, [0, 1, 2, 0, 1, 2], "{balance:?}");
    }
}

#[test]
fn equals_take_turns_in_least_connections() {
    let servers = Servers::unlimited(3);
    // The second server keeps a connection; those of the others end at once.
    servers.active.borrow_mut()[1] = 1;
    let balancer = balancer(Balance::LeastConnections, &[1, 1, 1], 0, &servers);
    let mut picks = vec![0; 3];
    for _ in 0..100 {
        let server = balancer.pick(&servers, 0).unwrap();
        servers.active.borrow_mut()[server] -= 1;
        balancer.settle(server, &servers);
        picks[server] += 1;
    }
    assert_eq!(picks, [50, 0, 50]);
}

proptest! {
    #[test]
    fn after_any_number_of_turns_every_server_had_its_share(weights in prop::collection::vec(0u16..=256, 0..60)) {
        let members = members(&weights);
        let sequence = sequence(&members);
        let total: i64 = weights.iter().copied().map(i64::from).sum();
        prop_assert_eq!(sequence.is_empty(), total == 0);
        let mut turns = vec![0i64; weights.len()];
        for (slot, server) in sequence.iter().enumerate() {
            turns[*server as usize] += 1;
            for (turns, weight) in turns.iter().zip(&weights) {
                // |turns - (slot + 1) * weight / total| < 1, in whole numbers.
                let error = turns * total - (slot as i64 + 1) * i64::from(*weight);
                prop_assert!(error.abs() < total, "slot {slot}: {turns} turns at weight {weight} of {total}");
            }
        }
        // A full cycle is exact.
        for (turns, weight) in turns.iter().zip(&weights) {
            prop_assert_eq!(turns * total, sequence.len() as i64 * i64::from(*weight));
        }
    }

    #[test]
    fn no_server_waits_longer_than_twice_its_share(weights in prop::collection::vec(1u16..=256, 1..60)) {
        let sequence = sequence(&members(&weights));
        let total: usize = weights.iter().copied().map(usize::from).sum();
        let mut last = vec![None; weights.len()];
        for (slot, server) in sequence.iter().chain(&sequence).enumerate() {
            let server = *server as usize;
            if let Some(last) = last[server].replace(slot) {
                let bound = (2 * total).div_ceil(usize::from(weights[server]));
                prop_assert!(slot - last <= bound, "server {server} of {weights:?}: {} > {bound}", slot - last);
            }
        }
    }

    #[test]
    fn a_pick_goes_to_an_open_server_while_there_is_one(
        balance in prop::sample::select(&ALL),
        servers in prop::collection::vec((0u16..=256, any::<bool>(), any::<bool>(), 0u32..5), 0..40),
        turn in any::<usize>(),
    ) {
        let standings: Vec<_> = servers.iter().map(|(weight, is_up, is_backup, _)| Standing {
            weight: *weight,
            is_backup: *is_backup,
            state: if *is_up { ServerState::Up } else { ServerState::Down },
            identity: u64::from(*weight),
        }).collect();
        let members = eligible(standings.iter().copied());
        let allowed: BTreeSet<_> = members.iter().map(|member| member.index).collect();
        let usable = |server: &&Standing| server.state == ServerState::Up && server.weight > 0;
        let has_regular = standings.iter().filter(usable).any(|server| !server.is_backup);
        let limits: Vec<u32> = servers.iter().map(|server| server.3).collect();
        let places: u32 = allowed.iter().map(|index| limits[*index]).sum();

        let open = Servers::limited(limits);
        let balancer = Balancer::new(balance, members, standings.len(), turn, &open);
        for key in keys().take(places as usize) {
            let server = balancer.pick(&open, key);
            prop_assert!(server.is_some_and(|server| allowed.contains(&server)), "{server:?} not in {allowed:?}");
            let standing = standings[server.unwrap()];
            prop_assert!(usable(&&standing) && standing.is_backup != has_regular, "{standing:?}");
        }
        prop_assert_eq!(balancer.pick(&open, 0), None);
    }

    #[test]
    fn a_retry_goes_to_an_open_server_that_was_not_tried_while_there_is_one(
        balance in prop::sample::select(&ALL),
        servers in prop::collection::vec((1u16..=256, any::<bool>(), any::<bool>()), 1..40),
        key in any::<u64>(),
    ) {
        let weights: Vec<u16> = servers.iter().map(|server| server.0).collect();
        let tried: Vec<usize> = (0..servers.len()).filter(|server| servers[*server].1).collect();
        let open = Servers::limited(servers.iter().map(|server| u32::from(server.2)).collect());
        let left = servers.iter().filter(|server| !server.1 && server.2).count();
        let balancer = balancer(balance, &weights, 0, &open);
        for _ in 0..left {
            let server = balancer.pick_again(&open, key, &tried);
            prop_assert!(server.is_some_and(|server| !tried.contains(&server)), "{server:?}");
        }
        prop_assert_eq!(balancer.pick_again(&open, key, &tried), None);
    }

    /// Against the definition: all servers looked at, from the one whose turn it is.
    #[test]
    fn least_connections_is_exact(
        servers in prop::collection::vec((0u16..=256, 0u32..50, 0u32..50), 1..200),
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200),
    ) {
        let weights: Vec<u16> = servers.iter().map(|server| server.0).collect();
        let places = Servers::limited(servers.iter().map(|server| server.1).collect());
        *places.active.borrow_mut() = servers.iter().map(|server| server.2).collect();
        let balancer = balancer(Balance::LeastConnections, &weights, 0, &places);
        for (is_pick, which) in steps {
            if is_pick {
                let tried = which.index(2 * weights.len());
                let expected = least_loaded(&weights, &places, balancer.turn(), tried);
                prop_assert_eq!(balancer.pick_again(&places, 0, &[tried]), expected);
            } else {
                let server = which.index(weights.len());
                let mut active = places.active.borrow_mut();
                active[server] = active[server].saturating_sub(1);
                drop(active);
                balancer.settle(server, &places);
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_any_cycle(weights in prop::collection::vec(0u16..=256, 1..20), turn in any::<usize>()) {
        let members = members(&weights);
        let cycle = sequence(&members).len();
        let servers = Servers::unlimited(weights.len());
        // Far from the end of the counter's range, where a cycle may be cut short once.
        let balancer = balancer(Balance::RoundRobin, &weights, turn / 2, &servers);
        (0..cycle).for_each(|_| assert!(balancer.pick(&servers, 0).is_some()));
        let total: usize = weights.iter().copied().map(usize::from).sum();
        for (active, weight) in servers.active().into_iter().zip(weights) {
            prop_assert_eq!(active as usize * total, cycle * usize::from(weight));
        }
    }
}
