// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the balancer knows of the loads, and which server a client has, while servers change.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lb_common::reason::ServerState;

use super::super::testing::server;
use super::super::*;
use super::backend;
use crate::config::{Balance, BalanceFactor, HashOn};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn client(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

/// Balancers come and go between a pick and the moment that its place is given back.
#[test]
fn loads_are_known_exactly_after_any_change() {
    let backend = backend(Balance::LeastConnections, NAMES.map(|name| server(name, 1, 0)).into());
    let is_done = AtomicBool::new(false);
    let held: Vec<ServerSlot> = thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..3_000 {
                let state = if round % 2 == 0 { ServerState::Down } else { ServerState::Up };
                backend.servers()[round / 2 % 3].set_state(state);
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let work = |seed: u64| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut held = Vec::new();
            while !is_done.load(Ordering::Relaxed) {
                if held.len() > 10 || (!held.is_empty() && random.bool()) {
                    held.swap_remove(random.usize(..held.len()));
                } else {
                    held.extend(backend.pick(0, &[]));
                }
            }
            held
        };
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(seed))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(backend.active(), held.len() as u64);
    // Each pick now goes to one that has fewest.
    let mut more = Vec::new();
    for _ in 0..100 {
        let servers = backend.servers();
        let least = servers.iter().map(|server| server.active()).min().unwrap();
        let slot = backend.pick(0, &[]).unwrap();
        assert_eq!(slot.server().active(), least + 1);
        more.push(slot);
    }
}

#[test]
fn clients_keep_their_servers_while_others_go_and_come_back() {
    let maglev = Balance::Maglev { on: HashOn::Source, bound: None };
    for (balance, most_moved) in [(Balance::Source { bound: None }, 0), (maglev, 40)] {
        let backend = backend(balance, NAMES.map(|name| server(name, 1, 0)).into());
        let servers = || -> Vec<usize> {
            let key = |number| backend.key(client(number), None);
            (0..1_000).map(|number| backend.pick(key(number), &[]).unwrap().server().id()).collect()
        };
        let before = servers();
        backend.servers()[2].set_state(ServerState::Down);
        let during = servers();
        let moved = before.iter().zip(&during).filter(|(before, during)| **before != 2 && before != during);
        assert!(moved.count() <= most_moved, "{balance:?}");
        assert!(!during.contains(&2));
        backend.servers()[2].set_state(ServerState::Up);
        assert_eq!(servers(), before);
    }
}

/// A client's retry goes to the same second server each time, and a name is known on every balancer.
#[test]
fn keys_lead_the_same_way_in_every_agent() {
    let balance = Balance::Maglev { on: HashOn::Sni, bound: BalanceFactor::new(200) };
    let one = backend(balance, NAMES.map(|name| server(name, 2, 0)).into());
    let mut names = NAMES;
    names.reverse();
    let other = backend(balance, names.map(|name| server(name, 2, 0)).into());
    let way = |backend: &Backend, number: u32| {
        let key = backend.key(client(number), Some(&format!("{number}.example")));
        let first = backend.pick(key, &[]).unwrap().server().clone();
        let second = backend.pick(key, &[first.id()]).unwrap().server().clone();
        assert_ne!(first.id(), second.id());
        [first, second].map(|server| server.settings.name.clone())
    };
    for number in 0..100 {
        assert_eq!(way(&one, number), way(&other, number));
    }
}
