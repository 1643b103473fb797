// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sessions that end before their time, because of what becomes of servers.

use std::pin::pin;
use std::time::Duration;

use lb_common::reason::{CloseReason, ServerState};
use tokio::time::timeout;

use super::super::testing::{backup, server};
use super::super::*;
use super::backend;
use crate::config::{Address, Balance, Family, Lookup};

fn at(last: u8) -> SocketAddr {
    ([127, 0, 0, last], 80).into()
}

/// A server that goes by a name, without an address at first.
fn named(name: &str, max_addresses: u32) -> config::Server {
    let lookup = Lookup { family: Family::Any, max_addresses };
    config::Server { address: Address::Host { name: "h".into(), port: 80, lookup }, ..server(name, 1, 0) }
}

/// Why a session on the server that is picked now ends when `change` is made, if it does.
fn ends(backend: &Backend, change: impl FnOnce()) -> Option<CloseReason> {
    let slot = backend.pick(0, &[]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut cut = pin!(slot.server().cut());
        let mut now = async || timeout(Duration::ZERO, cut.as_mut()).await.ok();
        assert_eq!(now().await, None, "it has just begun");
        change();
        let end = now().await;
        assert!(end.is_none() || slot.server().may_be_cut());
        end
    })
}

#[test]
fn who_takes_no_connections_relieves_no_backup() {
    let active = |weight| config::Server { shutdown_backups_on_marked_up: true, ..server("a", weight, 0) };
    for (weight, end) in [(0, None), (1, Some(CloseReason::ActiveServerUp))] {
        let backend = backend(Balance::RoundRobin, vec![active(weight), backup("b")]);
        backend.servers()[0].set_state(ServerState::Down);
        let up = || _ = backend.servers()[0].set_state(ServerState::Up);
        assert_eq!(ends(&backend, up), end, "weight {weight}");
    }
}

#[test]
fn a_server_that_comes_by_its_name_relieves_backups() {
    let active = config::Server { shutdown_backups_on_marked_up: true, ..named("a", 9) };
    let backend = backend(Balance::RoundRobin, vec![active, backup("b")]);
    let end = ends(&backend, || backend.set_addresses(0, &[at(1)]));
    assert_eq!(end, Some(CloseReason::ActiveServerUp));
}

#[test]
fn a_server_whose_name_leads_elsewhere_counts_as_down() {
    for (shutdown_on_marked_down, end) in [(true, Some(CloseReason::ServerDown)), (false, None)] {
        let server = config::Server { shutdown_on_marked_down, ..named("a", 9) };
        let backend = backend(Balance::RoundRobin, vec![server]);
        backend.set_addresses(0, &[at(1)]);
        assert_eq!(ends(&backend, || backend.set_addresses(0, &[at(1), at(2)])), None, "it stays");
        backend.set_addresses(0, &[at(1)]);
        assert_eq!(ends(&backend, || backend.set_addresses(0, &[at(2)])), end);
    }
}

/// Whatever the number of addresses at the moment: 17 is where a table for those that are there would double.
#[test]
fn a_server_that_comes_by_its_name_takes_clients_over_and_moves_none_between_others() {
    let backend = backend(Balance::Source { bound: None }, vec![named("a", 128)]);
    let leads_to = || -> Vec<SocketAddr> {
        let key = |client: u32| backend.key(std::net::Ipv4Addr::from_bits(client).into(), None);
        (0..2_000).map(|client| backend.pick(key(client), &[]).unwrap().server().address).collect()
    };
    let ends: Vec<_> = (1..=17).map(at).collect();
    backend.set_addresses(0, &ends[..16]);
    let before = leads_to();
    backend.set_addresses(0, &ends);
    let after = leads_to();
    let moved: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).collect();
    assert!(moved.iter().all(|(_, new)| **new == ends[16]), "{} have moved", moved.len());
    assert!((50..250).contains(&moved.len()), "{} have moved", moved.len());
}
