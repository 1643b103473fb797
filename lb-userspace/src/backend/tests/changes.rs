// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that come and go.

use std::thread;

use lb_common::reason::ServerState;

use super::super::testing::server;
use super::super::*;
use super::{BOTH, backend, pair, picked};
use crate::config::Balance;

fn at(last: u8) -> std::net::SocketAddr {
    ([127, 0, 0, last], 80).into()
}

fn addresses(backend: &Backend) -> Vec<std::net::SocketAddr> {
    backend.servers().iter().map(|server| server.address).collect()
}

#[test]
fn servers_come_and_go() {
    for balance in BOTH {
        let backend = backend(balance, vec![server("a", 1, 2), server("b", 1, 0)]);
        let mut changes = backend.changes();
        let b = backend.servers()[1].address;
        backend.set_addresses(0, &[at(1), at(2)]);
        assert!(changes.has_changed().unwrap());
        assert_eq!(addresses(&backend), [at(1), at(2), b], "in the order of the configuration");

        let [first, second, _] = &*backend.servers() else { unreachable!() };
        let slot = backend.pick(0, &[second.id(), 1]).unwrap();
        first.set_state(ServerState::Down);
        assert_eq!((slot.server().address, first.metrics.up.get()), (at(1), 1), "another of its entry is up");
        second.set_state(ServerState::Down);
        assert_eq!(first.metrics.up.get(), 0);

        changes.mark_unchanged();
        backend.set_addresses(0, &[at(2), at(1)]);
        assert!(!changes.has_changed().unwrap(), "the same servers in another order");

        backend.set_addresses(0, &[at(3), at(1)]);
        assert_eq!(addresses(&backend), [at(1), at(3), b]);
        let [kept, new, _] = &*backend.servers() else { unreachable!() };
        assert_eq!((kept.state(), kept.active()), (ServerState::Down, 1));
        assert_eq!((new.state(), new.active(), new.metrics.up.get()), (ServerState::Up, 0, 1));

        backend.set_addresses(0, &[]);
        assert_eq!(addresses(&backend), [b]);
        assert_eq!(new.metrics.up.get(), 0);
        assert_eq!(slot.server().active(), 1, "who is gone keeps its connections");
        assert_eq!(backend.active(), 1, "and they are the backend's");
        drop(slot);
        assert_eq!((kept.active(), kept.metrics.active.get(), backend.active()), (0, 0, 0));
        backend.set_addresses(1, &[]);
        assert_eq!(backend.pick(0, &[]).unwrap_err(), NoServer::AllDown);
    }
}

/// DNS may name some of many addresses in turn.
#[test]
fn who_comes_back_is_who_it_was() {
    for balance in BOTH {
        let backend = backend(balance, vec![server("a", 1, 1)]);
        backend.set_addresses(0, &[at(1), at(2)]);
        let held = [backend.pick(0, &[]).unwrap(), backend.pick(0, &[]).unwrap()];
        let [first, second] = &*backend.servers() else { unreachable!() };
        second.set_state(ServerState::Down);
        backend.set_addresses(0, &[at(3)]);
        let idle = backend.pick(0, &[]).unwrap().server().clone();
        backend.set_addresses(0, &[at(1), at(2)]);
        assert_eq!((backend.servers_up(), backend.active()), (1, 2));
        assert_eq!(
            picked(&backend, &[]),
            Err(NoServer::AllFull),
            "no more than max-connections, {balance:?}"
        );
        let [one, other] = &*backend.servers() else { unreachable!() };
        assert!(Arc::ptr_eq(one, first) && Arc::ptr_eq(other, second));
        drop(held);
        (0..3).for_each(|_| assert_eq!(picked(&backend, &[]), Ok(first.id()), "the other one is down"));
        // Without connections too, for a while.
        backend.set_addresses(0, &[at(3)]);
        assert!(Arc::ptr_eq(&idle, &backend.servers()[0]));
        assert_eq!(picked(&backend, &[]), Ok(idle.id()));
    }
}

#[test]
fn a_backend_that_is_dropped_takes_its_servers_along() {
    let backend = pair(Balance::RoundRobin);
    let slot = backend.pick(0, &[]).unwrap();
    let server = Arc::downgrade(slot.server());
    drop(backend);
    assert_eq!(slot.server().set_state(ServerState::Down), ServerState::Up);
    drop(slot);
    assert!(server.upgrade().is_none());
}

#[test]
fn picks_go_on_while_servers_come_and_go() {
    for balance in BOTH {
        let backend = backend(balance, vec![server("a", 1, 0), server("b", 1, 0)]);
        thread::scope(|scope| {
            let changing = scope.spawn(|| {
                for round in 0..2_000 {
                    backend.set_addresses(0, &[at(round as u8), at(1), at(round as u8 / 2)]);
                }
            });
            while !changing.is_finished() {
                assert!(backend.pick(0, &[]).is_ok());
            }
        });
        assert_eq!(backend.active(), 0);
    }
}

#[test]
fn weights_and_roles_change_and_servers_stay() {
    let at = |last: u8, weight: u16, is_backup: bool| Endpoint { address: at(last), weight, is_backup };
    for balance in BOTH {
        let backend = backend(balance, vec![server("a", 1, 0)]);
        backend.set_endpoints(0, &[at(1, 3, false), at(2, 1, false), at(3, 9, true)]);
        let ids = |backend: &Backend| backend.servers().iter().map(|server| server.id()).collect::<Vec<_>>();
        let (before, mut changes) = (ids(&backend), backend.changes());
        let mut picks = [0; 4];
        let slots: Vec<_> = (0..8).map(|_| backend.pick(0, &[]).unwrap()).collect();
        slots.iter().for_each(|slot| picks[slot.server().id() - before[0]] += 1);
        assert_eq!(picks, [6, 2, 0, 0], "{balance:?}");
        drop(slots);

        changes.mark_unchanged();
        backend.set_endpoints(0, &[at(1, 3, true), at(2, 0, false), at(3, 9, false)]);
        assert_eq!((ids(&backend), changes.has_changed().unwrap()), (before.clone(), false));
        (0..4).for_each(|_| assert_eq!(picked(&backend, &[]), Ok(before[2])));
        let [first, ..] = &*backend.servers() else { unreachable!() };
        assert_eq!((first.weight(), first.is_backup()), (3, true));
    }
}
