// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shares, smoothness and limits of the choices, over arbitrary sets of servers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;

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
    fn load(&self, index: usize) -> Option<u32> {
        let active = self.active.borrow()[index];
        (active < self.limits[index]).then_some(active)
    }

    fn take(&self, index: usize) -> bool {
        self.load(index).is_some_and(|load| self.take_at(index, load))
    }

    fn take_at(&self, index: usize, load: u32) -> bool {
        let is_open = self.load(index) == Some(load);
        self.active.borrow_mut()[index] += u32::from(is_open);
        is_open
    }
}

fn members(weights: &[u16]) -> Vec<Member> {
    let members = weights.iter().enumerate().map(|(index, weight)| Some((index, NonZeroU16::new(*weight)?)));
    members.flatten().map(|(index, weight)| Member { index, weight }).collect()
}

fn up(weight: u16) -> Standing {
    Standing { weight, is_backup: false, state: ServerState::Up }
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
    let balancer = Balancer::new(Balance::RoundRobin, members(&[256, 1, 1]), 0);
    (0..100).for_each(|_| assert!(balancer.pick(&servers).is_some()));
    assert_eq!(servers.active(), [0, 50, 50]);
}

#[test]
fn the_last_open_server_is_found_among_ten_thousand() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let weights: Vec<u16> = (0..10_000).map(|server| 1 + server % 256).collect();
        let mut limits = vec![0; weights.len()];
        limits[1234] = 3;
        let servers = Servers::limited(limits);
        let balancer = Balancer::new(balance, members(&weights), 5_000);
        let picks: Vec<_> = (0..4).map(|_| balancer.pick(&servers)).collect();
        assert_eq!(picks, [Some(1234), Some(1234), Some(1234), None]);
    }
}

#[test]
fn the_search_without_weights_is_in_turn() {
    // 700 full servers of great weight put more turns between the two open ones than a pick walks through.
    let weights = [vec![256; 700], vec![1, 1]].concat();
    let servers = Servers::limited([vec![0; 700], vec![u32::MAX; 2]].concat());
    let balancer = Balancer::new(Balance::RoundRobin, members(&weights), 0);
    (0..100).for_each(|_| assert!(balancer.pick(&servers).is_some()));
    let active = servers.active();
    assert!(active[700].abs_diff(active[701]) <= 2, "{:?}", &active[700..]);
}

#[test]
fn the_rotation_goes_on_when_the_set_changes() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let mut picks = Vec::new();
        let mut turn = 0;
        for _ in 0..6 {
            let balancer = Balancer::new(balance, members(&[1, 1, 1]), turn);
            picks.extend(balancer.pick(&Servers::unlimited(3)));
            turn = balancer.turn();
        }
        assert_eq!(picks, [0, 1, 2, 0, 1, 2], "{balance:?}");
    }
}

#[test]
fn equals_take_turns_in_least_connections() {
    let balancer = Balancer::new(Balance::LeastConnections, members(&[1, 1, 1]), 0);
    let servers = Servers::unlimited(3);
    // The second server keeps a connection; those of the others end at once.
    servers.active.borrow_mut()[1] = 1;
    let mut picks = vec![0; 3];
    for _ in 0..100 {
        let server = balancer.pick(&servers).unwrap();
        servers.active.borrow_mut()[server] -= 1;
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
        balance in prop::sample::select(&[Balance::RoundRobin, Balance::LeastConnections]),
        servers in prop::collection::vec((0u16..=256, any::<bool>(), any::<bool>(), 0u32..5), 0..40),
        turn in any::<usize>(),
    ) {
        let standings: Vec<_> = servers.iter().map(|(weight, is_up, is_backup, _)| Standing {
            weight: *weight,
            is_backup: *is_backup,
            state: if *is_up { ServerState::Up } else { ServerState::Down },
        }).collect();
        let members = eligible(standings.iter().copied());
        let allowed: BTreeSet<_> = members.iter().map(|member| member.index).collect();
        let usable = |server: &&Standing| server.state == ServerState::Up && server.weight > 0;
        let has_regular = standings.iter().filter(usable).any(|server| !server.is_backup);
        let limits: Vec<u32> = servers.iter().map(|server| server.3).collect();
        let places: u32 = allowed.iter().map(|index| limits[*index]).sum();

        let open = Servers::limited(limits);
        let balancer = Balancer::new(balance, members, turn);
        for _ in 0..places {
            let server = balancer.pick(&open);
            prop_assert!(server.is_some_and(|server| allowed.contains(&server)), "{server:?} not in {allowed:?}");
            let standing = standings[server.unwrap()];
            prop_assert!(usable(&&standing) && standing.is_backup != has_regular, "{standing:?}");
        }
        prop_assert_eq!(balancer.pick(&open), None);
    }

    #[test]
    fn least_connections_takes_the_smallest_share(
        servers in prop::collection::vec((1u16..=256, 0u32..1000, 0u32..1000), 1..40),
        turn in any::<usize>(),
    ) {
        let weights: Vec<u16> = servers.iter().map(|server| server.0).collect();
        let places = Servers::limited(servers.iter().map(|server| server.1).collect());
        *places.active.borrow_mut() = servers.iter().map(|server| server.2).collect();
        let cost = |server: usize| (u64::from(servers[server].2) + 1, u64::from(weights[server]));
        let open: Vec<_> = (0..servers.len()).filter(|server| places.load(*server).is_some()).collect();

        let picked = Balancer::new(Balance::LeastConnections, members(&weights), turn).pick(&places);
        prop_assert_eq!(picked.is_none(), open.is_empty());
        if let Some((connections, weight)) = picked.map(cost) {
            for (other_connections, other_weight) in open.into_iter().map(cost) {
                prop_assert!(connections * other_weight <= other_connections * weight);
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_any_cycle(weights in prop::collection::vec(0u16..=256, 1..20), turn in any::<usize>()) {
        let members = members(&weights);
        let cycle = sequence(&members).len();
        let servers = Servers::unlimited(weights.len());
        // Far from the end of the counter's range, where a cycle may be cut short once.
        let balancer = Balancer::new(Balance::RoundRobin, members, turn / 2);
        (0..cycle).for_each(|_| assert!(balancer.pick(&servers).is_some()));
        let total: usize = weights.iter().copied().map(usize::from).sum();
        for (active, weight) in servers.active().into_iter().zip(weights) {
            prop_assert_eq!(active as usize * total, cycle * usize::from(weight));
        }
    }
}
