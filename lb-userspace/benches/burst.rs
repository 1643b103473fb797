// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs when a tenth of a backend's servers fails at once: `cargo bench --bench burst`. Says for each way of choosing how long
//! the choice takes to make, how long the changes hold up whoever makes them (all in all, and the longest one), and when the last choice
//! is in place.
#![forbid(unsafe_code)]

#[path = "cases/backends.rs"]
mod backends;

use std::num::NonZeroU16;
use std::thread;
use std::time::{Duration, Instant};

use backends::{Idle, backend_of, balance_of, member};
use lb::balance::{Balancer, Member};
use lb_common::reason::ServerState;

const BALANCES: [&str; 6] =
    ["round-robin", "least-connections", "random", "source", "maglev", "maglev-bounded"];

const SERVERS: [usize; 3] = [10, 1_000, 10_000];

/// The least of so many counts: the rest is what others do on this machine.
const REPEATS: usize = 3;

/// What a burst takes.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    all: Duration,
    longest: Duration,
    settled: Duration,
}

fn main() {
    println!(
        "In ms: a choice, of equal and of unequal weights; a tenth goes down: all changes, the longest, the last choice."
    );
    for balance in BALANCES {
        for servers in SERVERS {
            let [equal, unequal] = [1, 256].map(|weights| {
                (0..REPEATS).map(|_| made(balance, servers, weights)).min().unwrap_or_default()
            });
            let bursts = (0..REPEATS).map(|_| burst(balance, servers));
            let Burst { all, longest, settled } =
                bursts.min_by_key(|burst| burst.settled).unwrap_or_default();
            let times = [equal, unequal, all, longest, settled];
            let times = times.map(|time| format!("{:9.3}", time.as_secs_f64() * 1e3)).join(" ");
            println!("{balance:>18} {servers:>6} {times}");
        }
    }
}

/// How long a choice among servers of so many different weights takes to make.
fn made(balance: &str, servers: usize, weights: u16) -> Duration {
    let weight = |index: usize| NonZeroU16::MIN.saturating_add((index * 7919) as u16 % weights);
    let members: Vec<Member> = (0..servers).map(|index| member(index, weight(index))).collect();
    let begun = Instant::now();
    let balancer = Balancer::new(balance_of(balance), members, servers, 0, &Idle);
    let taken = begun.elapsed();
    assert!(!balancer.is_empty());
    taken
}

/// A tenth of the servers goes down, one right after the other.
fn burst(balance: &str, servers: usize) -> Burst {
    let backend = backend_of(balance, servers);
    let begun = Instant::now();
    let change = |index: usize| {
        let begun = Instant::now();
        backend.servers()[index * 10].set_state(ServerState::Down);
        begun.elapsed()
    };
    let longest = (0..servers / 10).map(change).max().unwrap_or_default();
    let all = begun.elapsed();
    while !backend.is_settled() {
        thread::yield_now();
    }
    Burst { all, longest, settled: begun.elapsed() }
}
