// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends of many servers, whose choice lags behind: what holds meanwhile, and that it always comes to what it should.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use lb_common::reason::ServerState::{Down, Up};

use super::super::rebuild::PROMPT_MAX;
use super::super::testing::{backup, server};
use super::super::*;
use super::{ALL, backend, picked};
use crate::config::Balance;

const SOURCE: Balance = Balance::Source { bound: None };

/// Just so many that it lags.
const MANY: usize = PROMPT_MAX + 4;

fn many(balance: Balance) -> Backend {
    backend(balance, regular(MANY))
}

fn regular(count: usize) -> Vec<config::Server> {
    (0..count).map(|number| server(&format!("s{number}"), 1, 0)).collect()
}

fn settle(backend: &Backend) {
    while !backend.is_settled() {
        thread::yield_now();
    }
}

/// The servers that so many clients are led to.
fn picks(backend: &Backend, clients: u32) -> Vec<usize> {
    let key = |client: u32| backend.key(client.to_be_bytes().into(), None);
    (0..clients).map(|client| backend.pick(key(client), &[]).unwrap().server().id()).collect()
}

#[test]
fn who_goes_down_is_left_out_at_once_and_who_comes_back_is_soon_taken_in() {
    for balance in ALL {
        let backend = many(balance);
        assert!(backend.is_settled());
        for server in &backend.servers()[..20] {
            server.set_state(Down);
            let taken = picks(&backend, 300);
            assert!(taken.iter().all(|taken| *taken > server.id() || *taken >= 20), "{balance:?}");
        }
        settle(&backend);
        assert_eq!(backend.servers_up(), MANY - 20);
        assert!(picks(&backend, 2_000).into_iter().all(|taken| taken >= 20), "{balance:?}");
        backend.servers()[..20].iter().for_each(|server| _ = server.set_state(Up));
        settle(&backend);
        let held: Vec<_> = (0..20 * MANY as u32)
            .map(|client| backend.pick(backend.key(client.to_be_bytes().into(), Some("a")), &[]))
            .collect();
        let taken: BTreeSet<_> = held.iter().flatten().map(|slot| slot.server().id()).collect();
        let by_name = matches!(balance, Balance::Maglev { on: crate::config::HashOn::Sni, .. });
        assert!(by_name || (0..20).filter(|id| taken.contains(id)).count() >= 19, "{balance:?}: {taken:?}");
    }
}

#[test]
fn backups_stand_in_at_once_and_leave_at_once() {
    for balance in ALL {
        let backend = backend(balance, [regular(MANY), vec![backup("b"), backup("c")]].concat());
        let servers = backend.servers();
        servers[..MANY].iter().for_each(|server| _ = server.set_state(Down));
        assert!(picks(&backend, 10).into_iter().all(|taken| taken >= MANY), "{balance:?}");
        servers[3].set_state(Up);
        assert_eq!(picks(&backend, 10), [3; 10], "{balance:?}");
        // The only one that takes connections changes: from one that the choice knows to one that it may not know yet.
        servers[4].set_state(Up);
        servers[3].set_state(Down);
        assert_eq!(picks(&backend, 10), [4; 10], "{balance:?}");
        servers.iter().for_each(|server| _ = server.set_state(Down));
        assert_eq!(picked(&backend, &[]), Err(NoServer::AllDown));
        assert!(!backend.is_available());
    }
}

#[test]
fn who_is_gone_is_left_out_at_once_and_who_is_new_is_soon_taken_in() {
    let at = |last: u8| std::net::SocketAddr::from(([127, 0, 0, last], 80));
    for balance in super::BOTH {
        let backend = many(balance);
        let mut changes = backend.changes();
        backend.set_addresses(0, &[at(1), at(2)]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(backend.servers().len(), MANY + 1);
        let held: Vec<_> = (0..2 * MANY).map(|_| backend.pick(0, &[]).unwrap()).collect();
        assert!(held.iter().all(|slot| slot.server().id() != 0));
        settle(&backend);
        let more: Vec<_> = (0..=MANY).map(|_| backend.pick(0, &[]).unwrap()).collect();
        let new: BTreeSet<_> = more.iter().map(|slot| slot.server().address).collect();
        assert!(new.is_superset(&[at(1), at(2)].into()), "{balance:?}");
        // All servers of an entry at once.
        backend.servers()[2..].iter().for_each(|server| _ = server.set_state(Down));
        settle(&backend);
        backend.set_addresses(0, &[at(3)]);
        assert_eq!(backend.pick(0, &[]).unwrap().server().address, at(3), "nobody else is left");
    }
}

#[test]
fn what_changes_nothing_makes_no_new_choice() {
    for servers in [regular(3), regular(MANY)] {
        let idle = config::Server { weight: 0, ..server("idle", 1, 0) };
        let backend = backend(SOURCE, [servers, vec![idle, backup("b")]].concat());
        let before = Arc::clone(&backend.roster.group().choice);
        let servers = backend.servers();
        for server in &servers[servers.len() - 2..] {
            server.set_state(Down);
        }
        settle(&backend);
        assert!(Arc::ptr_eq(&before, &backend.roster.group().choice));
        servers[0].set_state(Down);
        settle(&backend);
        assert!(!Arc::ptr_eq(&before, &backend.roster.group().choice));
    }
}

#[test]
fn a_burst_of_changes_makes_few_choices() {
    let backend = many(SOURCE);
    let mut choices = Vec::new();
    for round in 0..10 {
        for server in &backend.servers()[1..] {
            server.set_state(if round % 2 == 0 { Down } else { Up });
            let choice = Arc::clone(&backend.roster.group().choice);
            if choices.last().is_none_or(|last| !Arc::ptr_eq(last, &choice)) {
                choices.push(choice);
            }
        }
    }
    settle(&backend);
    assert!(choices.len() < MANY, "{} for {} changes", choices.len(), 10 * MANY);
}

/// The change from the last server to a backup and back leaves no moment in which nobody takes connections.
#[test]
fn nobody_is_refused_while_backups_come_and_go() {
    for (regulars, rounds) in [(1, 3_000), (MANY, 10)] {
        let backend = backend(Balance::LeastConnections, [regular(regulars), vec![backup("b")]].concat());
        thread::scope(|scope| {
            let flapping = scope.spawn(|| {
                for round in 0..2 * rounds {
                    let state = if round % 2 == 0 { Down } else { Up };
                    backend.servers()[..regulars].iter().for_each(|server| _ = server.set_state(state));
                }
            });
            while !flapping.is_finished() {
                assert!(backend.pick(0, &[]).is_ok());
            }
        });
        settle(&backend);
        assert_ne!(picked(&backend, &[]), Ok(regulars), "the backup has left");
    }
}

/// Whatever came when, and whoever made it: in the end the choice is the one of an agent that has known the states all along.
#[test]
fn the_last_states_always_end_in_the_choice() {
    for balance in [SOURCE, Balance::RoundRobin, Balance::LeastConnections] {
        let backend = many(balance);
        for round in 0..3 {
            thread::scope(|scope| {
                for thread in 0..4 {
                    let backend = &backend;
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(round * 4 + thread);
                        for _ in 0..500 {
                            // The last one stays up.
                            let server = &backend.servers()[random.usize(..MANY - 1)];
                            server.set_state(if random.bool() { Down } else { Up });
                            assert!(backend.pick(random.u64(..), &[]).is_ok());
                        }
                    });
                }
            });
            settle(&backend);
            check_states(&backend, balance);
        }
    }
}

fn check_states(backend: &Backend, balance: Balance) {
    let up: BTreeSet<usize> =
        backend.servers().iter().filter(|server| server.state() == Up).map(|server| server.id()).collect();
    assert_eq!(backend.servers_up(), up.len());
    if balance.keeps_clients() {
        let other = many(balance);
        let down =
            other.servers().iter().filter(|server| !up.contains(&server.id())).cloned().collect::<Vec<_>>();
        down.iter().for_each(|server| _ = server.set_state(Down));
        settle(&other);
        assert_eq!(picks(backend, 2_000), picks(&other, 2_000));
        return;
    }
    let held: Vec<_> = (0..3 * up.len()).map(|_| backend.pick(0, &[]).unwrap()).collect();
    let mut counts = BTreeMap::new();
    held.iter().for_each(|slot| *counts.entry(slot.server().id()).or_insert(0) += 1);
    assert_eq!(counts, up.into_iter().map(|id| (id, 3)).collect(), "{balance:?}");
}

#[test]
fn a_backend_that_is_dropped_while_its_table_is_made_takes_its_servers_along() {
    let backend = many(SOURCE);
    let servers = backend.servers();
    servers[0].set_state(Down);
    let roster = Arc::downgrade(&backend.roster);
    drop(backend);
    // The thread ends, and nobody else holds the roster.
    while roster.strong_count() > 0 {
        thread::yield_now();
    }
    assert_eq!(servers[1].set_state(Down), Up);
}
