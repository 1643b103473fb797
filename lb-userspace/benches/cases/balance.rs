// SPDX-License-Identifier: MIT OR Apache-2.0
//! A place on a server, taken and given back: what one connection does, with counters and limits.

use std::hint::black_box;
use std::net::IpAddr;
use std::num::NonZeroU16;

use lb::backend::{Backend, ServerSlot};
use lb::balance::{Balancer, Member};
use lb::config::Balance;

use super::Case;
use super::backends::{Idle, backend_of, balance_of, member};

/// Sizes of backends.
const SERVERS: [usize; 4] = [1, 10, 1_000, 10_000];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for servers in SERVERS {
        cases.push(first("round-robin", Load::Busy, servers));
        cases.push(again("round-robin", servers));
        cases.push(first("least-connections", Load::Idle, servers));
        cases.push(first("least-connections", Load::Busy, servers));
        cases.push(again("least-connections", servers));
        for balance in ["random", "source", "maglev", "maglev-bounded"] {
            cases.push(keyed(balance, servers));
        }
    }
    for servers in [10, 1_000, 10_000] {
        cases.push(table("source", servers));
        cases.push(table("maglev", servers));
    }
    cases
}

/// Connections that servers have beside the one that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// None.
    Idle,
    /// One on each, so that no server can be told to be the best before all were looked at.
    Busy,
}

/// The pick of a connection that has not tried any server.
fn first(balance: &str, load: Load, servers: usize) -> Case {
    let (backend, open) = backend(balance, load, servers);
    let state = if load == Load::Idle { "-idle" } else { "" };
    Case::new(format!("balance/{balance}{state}-{servers}"), rounds(servers), move || {
        black_box(&open);
        black_box(backend.pick(0, &[]).expect("a server is up and not full"));
    })
}

/// The pick of a connection that its client's address decides, or chance; each comes from another client.
fn keyed(balance: &str, servers: usize) -> Case {
    let (backend, open) = backend(balance, Load::Busy, servers);
    let mut client = 0_u32;
    Case::new(format!("balance/{balance}-{servers}"), 1024, move || {
        black_box(&open);
        client = client.wrapping_add(1);
        let random = || u64::from(client).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let key = backend.settings.balance.key(client.to_be_bytes().into(), None, random);
        black_box(backend.pick(key, &[]).expect("a server is up and not full"));
    })
}

/// What a change of the set of servers costs: a new table.
fn table(balance: &str, servers: usize) -> Case {
    let way = balance_of(balance);
    let members: Vec<Member> = (0..servers).map(|index| member(index, NonZeroU16::MIN)).collect();
    let rounds = if servers > 100 { 1 } else { 64 };
    Case::new(format!("balance/{balance}-table-{servers}"), rounds, move || {
        black_box(Balancer::new(way, members.clone(), servers, 0, &Idle));
    })
}

/// The pick of a connection whose first server failed.
fn again(balance: &str, servers: usize) -> Case {
    let (backend, open) = backend(balance, Load::Busy, servers);
    let mut failed = 0;
    Case::new(format!("balance/{balance}-again-{servers}"), rounds(servers), move || {
        black_box(&open);
        failed = if failed + 1 < servers { failed + 1 } else { 0 };
        black_box(backend.pick(0, &[failed]).expect("a server is up and not full"));
    })
}

/// Rounds that callgrind sees.
fn rounds(servers: usize) -> u64 {
    if servers > 100 { 64 } else { 1024 }
}

/// A backend of so many servers, and the connections that they have.
fn backend(balance: &str, load: Load, servers: usize) -> (Backend, Vec<ServerSlot>) {
    let backend = backend_of(balance, servers);
    let count = if load == Load::Busy { servers } else { 0 };
    let client = |number: usize| IpAddr::from((number as u32).to_be_bytes());
    let pick = |number| backend.pick(backend.key(client(number), None), &[]);
    let open = (0..count).map(|number| pick(number).expect("a server is up and not full")).collect();
    if matches!(backend.settings.balance, Balance::RoundRobin | Balance::LeastConnections) {
        assert!(backend.servers().iter().all(|server| server.active() == u32::from(load == Load::Busy)));
    }
    (backend, open)
}
