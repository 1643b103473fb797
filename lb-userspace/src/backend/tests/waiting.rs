// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting in the queue by a clock that stands still while anything else can happen: the time that passes is what was waited for, to
//! the tick. (End to end, a busy machine adds to it: see `queue` there.)

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

use super::super::testing::server;
use super::super::*;
use super::backend;
use crate::config::Balance;

/// Clients that come, and how many of them the server takes at once.
const CLIENTS: u32 = 300;
const AT_ONCE: u32 = 100;

/// The tick of the timers that stand in for those of workers here (tokio::time::sleep: "operates at millisecond granularity").
const TICK: Duration = Duration::from_millis(1);

/// What a client came to, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Visit {
    number: u32,
    is_served: bool,
    waited: Duration,
}

/// A server that takes so many at once, and a queue for all that come.
fn small(at_once: u32) -> Backend {
    let settings = super::settings(vec![server("small", 1, at_once)]);
    testing::backend(config::Backend { balance: Balance::LeastConnections, max_queue: 1_000, ..settings })
}

/// Clients come one after the other, `apart` from each other; each waits for `timeout`, and holds its place for as long as `hold` says
/// of its number. Returns how they fared, in the order in which they were served or left.
async fn visits(
    backend: Backend,
    apart: Duration,
    timeout: Duration,
    hold: fn(u32) -> Duration,
) -> Vec<Visit> {
    let backend = Rc::new(backend);
    let order = Rc::<std::cell::RefCell<Vec<Visit>>>::default();
    let mut clients = JoinSet::new();
    let come = async {
        for number in 0..CLIENTS {
            let turn = backend.pick_or_queue(0, &[], None).unwrap();
            let (backend, order) = (Rc::clone(&backend), Rc::clone(&order));
            clients.spawn_local(async move {
                let begun = Instant::now();
                let slot = match turn {
                    Turn::Now(slot) => Some(slot),
                    Turn::Later(ticket) => ticket.place(sleep(timeout)).await,
                };
                let visit = Visit { number, is_served: slot.is_some(), waited: begun.elapsed() };
                order.borrow_mut().push(visit);
                assert!(backend.active() <= u64::from(AT_ONCE));
                if slot.is_some() {
                    sleep(hold(number)).await;
                }
            });
            // At least once, so that nobody comes before the one in front waits.
            tokio::task::yield_now().await;
            if !apart.is_zero() {
                sleep(apart).await;
            }
        }
        while let Some(end) = clients.join_next().await {
            end.unwrap();
        }
    };
    tokio::task::LocalSet::new().run_until(come).await;
    assert_eq!((backend.active(), backend.metrics.queue_length.get()), (0, 0));
    order.take()
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_at_its_tick_and_never_earlier() {
    let backend = backend(Balance::RoundRobin, vec![server("a", 1, 1)]);
    let _held = backend.pick(0, &[]).unwrap();
    let wait = async |timeout: Duration| {
        let Turn::Later(ticket) = backend.pick_or_queue(0, &[], None).unwrap() else {
            panic!("a free place")
        };
        let begun = Instant::now();
        assert!(ticket.place(sleep(timeout)).await.is_none());
        assert_eq!(backend.metrics.queue_length.get(), 0, "it has left");
        begun.elapsed()
    };
    for milliseconds in [10, 11, 999, 2_000, 4_097, 60_000, 3_600_000] {
        let timeout = Duration::from_millis(milliseconds);
        assert_eq!(wait(timeout).await, timeout);
    }
    // Where the beginning or the timeout is between two ticks, it is the next one.
    for (begin_ns, timeout_ns) in
        [(0, 10_000_001), (1, 10_000_000), (999_999, 2_000_000_000), (250_000, 10_500_000)]
    {
        advance(Duration::from_nanos(begin_ns)).await;
        let timeout = Duration::from_nanos(timeout_ns);
        let waited = wait(timeout).await;
        assert!(timeout <= waited && waited <= timeout + TICK, "{waited:?} instead of {timeout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn three_hundred_on_a_limit_of_a_hundred_are_served_in_order() {
    // Places come free one by one and several at a time.
    let hold = |number: u32| Duration::from_millis(u64::from(20 + number * 37 % 50));
    let visits = visits(small(AT_ONCE), Duration::ZERO, Duration::from_secs(60), hold).await;
    let numbers: Vec<u32> = visits.iter().map(|visit| visit.number).collect();
    assert_eq!(numbers, (0..CLIENTS).collect::<Vec<_>>());
    assert!(visits.iter().all(|visit| visit.is_served));
    let waited = visits.iter().filter(|visit| !visit.waited.is_zero()).count();
    assert_eq!(waited, (CLIENTS - AT_ONCE) as usize);
}

#[tokio::test(start_paused = true)]
async fn each_of_two_hundred_who_wait_in_vain_leaves_at_its_own_tick() {
    let timeout = Duration::from_secs(2);
    let visits = visits(small(AT_ONCE), TICK, timeout, |_| Duration::from_secs(5)).await;
    let (served, left): (Vec<Visit>, Vec<Visit>) = visits.into_iter().partition(|visit| visit.is_served);
    assert!(served.iter().map(|visit| visit.number).eq(0..AT_ONCE));
    assert!(left.iter().map(|visit| visit.number).eq(AT_ONCE..CLIENTS), "in the order in which they came");
    assert!(left.iter().all(|visit| visit.waited == timeout), "{left:?}");
}

/// A place that comes free in the tick in which the time of who waits for it is over is taken by somebody, or is free.
#[tokio::test(start_paused = true)]
async fn a_place_that_comes_at_the_last_tick_is_not_lost() {
    let timeout = Duration::from_secs(2);
    let visits = visits(small(AT_ONCE), Duration::ZERO, timeout, |_| Duration::from_secs(2)).await;
    assert_eq!(visits.len(), CLIENTS as usize);
    // The first hundred end when the others' time does; whoever is served then was first in line.
    let late: Vec<u32> = visits.iter().filter(|visit| visit.is_served).map(|visit| visit.number).collect();
    assert!(late.len() >= AT_ONCE as usize && late.iter().copied().eq(0..late.len() as u32), "{late:?}");
    assert!(visits.iter().all(|visit| visit.waited == Duration::ZERO || visit.waited == timeout));
}
