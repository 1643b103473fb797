// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue: order, ends, and nobody lost.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use lb_common::reason::ServerState;

use super::super::testing::server;
use super::super::*;
use super::{ALL, backend, pair};
use crate::config::Balance;

/// Threads that come and go.
const THREADS: usize = 8;

/// How often each comes.
const ROUNDS: usize = 1_000;

/// The place that somebody in line has got, if so.
fn place(ticket: Ticket) -> Option<ServerSlot> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { ticket.place(tokio::time::sleep(std::time::Duration::ZERO)).await })
}

#[track_caller]
fn in_line(backend: &Backend) -> Ticket {
    let Turn::Later(ticket) = backend.pick_or_queue(0, &[], None).unwrap() else { panic!("a place is free") };
    ticket
}

#[test]
fn who_comes_first_is_served_first() {
    let backend = pair(Balance::RoundRobin);
    let mut held = [backend.pick(0, &[]).unwrap(), backend.pick(0, &[]).unwrap()].map(Some);
    let (first, second, third) = (in_line(&backend), in_line(&backend), in_line(&backend));
    assert_eq!([&first, &second, &third].map(Ticket::position), [0, 1, 2]);
    assert_eq!(backend.metrics.queue_length.get(), 3);

    held[1] = None;
    let got = place(first).unwrap();
    assert_eq!((backend.active(), backend.metrics.queue_length.get()), (2, 2));
    // Who leaves lets the next one through, also with a place that was just given.
    held[0] = None;
    drop(second);
    let other = place(third).unwrap();
    assert_ne!(got.server().id(), other.server().id());
    assert_eq!((backend.active(), backend.metrics.queue_length.get()), (2, 0));
}

#[test]
fn nobody_passes_those_who_wait() {
    let backend = pair(Balance::LeastConnections);
    let held = [backend.pick(0, &[]).unwrap(), backend.pick(0, &[]).unwrap()];
    let (first, second) = (in_line(&backend), in_line(&backend));
    drop(held);
    // Both places are promised.
    let third = in_line(&backend);
    let got = [place(first).unwrap(), place(second).unwrap()];
    assert!(place(third).is_none());
    assert_eq!(backend.metrics.queue_length.get(), 0, "it has left");
    drop(got);
    assert!(matches!(backend.pick_or_queue(0, &[], None), Ok(Turn::Now(_))));
}

#[test]
fn who_could_not_connect_stands_where_it_stood() {
    let backend = pair(Balance::RoundRobin);
    let held = [backend.pick(0, &[]).unwrap(), backend.pick(0, &[]).unwrap()];
    let (first, second) = (in_line(&backend), in_line(&backend));
    let number = first.number();
    drop(first);
    let Turn::Later(again) = backend.pick_or_queue(0, &[0], Some(number)).unwrap() else { panic!("a place") };
    assert_eq!((again.position(), second.position()), (0, 1));
    let [one, other] = held;
    drop(one);
    let got = place(again).unwrap();
    assert!(place(second).is_none());
    drop((got, other));
}

#[test]
fn a_queue_has_an_end() {
    let backend = backend(Balance::RoundRobin, vec![server("a", 1, 1)]);
    let held = backend.pick(0, &[]).unwrap();
    let waiting: Vec<_> = (0..backend.settings.max_queue).map(|_| in_line(&backend)).collect();
    assert_eq!(backend.pick_or_queue(0, &[], None).unwrap_err(), NoServer::AllFull);
    drop(waiting);
    let last = in_line(&backend);
    // Nobody can be served: who waits may hope, who comes is told.
    backend.servers()[0].set_state(ServerState::Down);
    assert_eq!(backend.pick_or_queue(0, &[], None).unwrap_err(), NoServer::AllDown);
    drop(held);
    backend.servers()[0].set_state(ServerState::Up);
    assert!(place(last).is_some(), "a server that comes back serves the queue");
}

#[test]
fn who_comes_back_needs_no_room() {
    let backend = backend(Balance::RoundRobin, vec![server("a", 1, 1), server("b", 1, 1)]);
    let mut held = vec![backend.pick(0, &[]).unwrap(), backend.pick(0, &[]).unwrap()];
    let first = in_line(&backend);
    let number = first.number();
    drop(held.pop());
    let got = place(first).unwrap();
    let waiting: Vec<_> = (0..backend.settings.max_queue).map(|_| in_line(&backend)).collect();
    assert_eq!(backend.pick_or_queue(0, &[], None).unwrap_err(), NoServer::AllFull);

    // It cannot connect, and others have taken all the room meanwhile: the next place is its own all the same.
    let tried = [got.server().id()];
    held.push(got);
    let Ok(Turn::Later(again)) = backend.pick_or_queue(0, &tried, Some(number)) else {
        panic!("it must wait")
    };
    assert_eq!((again.position(), waiting[99].position()), (0, 99));
    held.clear();
    assert!(place(again).is_some());
}

/// Places that are freed one after the other go to as many who wait, however many came to wait meanwhile.
#[test]
fn each_place_that_is_freed_is_somebodys_turn() {
    let backend = backend(Balance::LeastConnections, vec![server("a", 1, 2), server("b", 1, 2)]);
    let mut held: Vec<_> = (0..4).map(|_| backend.pick(0, &[]).unwrap()).collect();
    let first: Vec<_> = (0..2).map(|_| in_line(&backend)).collect();
    held.truncate(1);
    // Two have had their turn, and one place is free: who comes finds it.
    let Turn::Now(_slot) = backend.pick_or_queue(0, &[], None).unwrap() else { panic!("a place is free") };
    let waiting: Vec<_> = (0..3).map(|_| in_line(&backend)).collect();
    held.clear();
    let got: Vec<_> = first.into_iter().chain(waiting).filter_map(place).collect();
    assert_eq!((got.len(), backend.metrics.queue_length.get()), (3, 0));
}

#[test]
fn a_queue_loses_nobody_under_concurrency() {
    for balance in ALL {
        lose_nobody(&backend(balance, vec![server("a", 1, 2), server("b", 1, 1)]));
    }
}

fn lose_nobody(backend: &Backend) {
    let served = AtomicU32::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let served = &served;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                for round in 0..ROUNDS {
                    let slot = match backend.pick_or_queue(0, &[], None).unwrap() {
                        Turn::Now(slot) => slot,
                        Turn::Later(ticket) if (thread + round) % 7 == 0 => {
                            drop(ticket);
                            continue;
                        }
                        Turn::Later(ticket) => {
                            let place = runtime.block_on(async {
                                let patience = tokio::time::sleep(std::time::Duration::from_secs(20));
                                ticket.place(patience).await
                            });
                            place.expect("everybody has a turn")
                        }
                    };
                    served.fetch_add(1, Ordering::Relaxed);
                    if round % 3 == 0 {
                        thread::yield_now();
                    }
                    drop(slot);
                }
            });
        }
    });
    assert_eq!((backend.active(), backend.metrics.queue_length.get()), (0, 0));
    assert!(served.into_inner() as usize > THREADS * ROUNDS / 2);
}
