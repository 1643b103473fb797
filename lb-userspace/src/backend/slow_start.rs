// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that come back take their share little by little (`slow-start`): caches are cold, and who has just recovered should not be
//! overrun. As with HAProxy, weight and `max-connections` grow evenly, and only after a server was down.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Backend;
use super::roster::Roster;
use super::server::Server;

/// Steps in which a server's share grows.
const STEPS: u32 = 20;

/// Warm all the way.
pub(super) const WARM_PERCENT: u8 = 100;

/// A server that has come back.
#[derive(Debug)]
pub(super) struct Warming {
    server: Arc<Server>,
    since: Instant,
}

impl Warming {
    /// From now on; `None` if the server's share does not grow slowly.
    pub(super) fn begin(server: Arc<Server>) -> Option<Self> {
        server.settings.slow_start?;
        let warming = Self { server, since: Instant::now() };
        warming.server.set_warmth(warming.percent(warming.since));
        Some(warming)
    }

    /// Whether it is about this server.
    pub(super) fn is_of(&self, server: &Server) -> bool {
        self.server.id() == server.id()
    }

    fn period(&self) -> Duration {
        self.server.settings.slow_start.unwrap_or_default()
    }

    fn percent(&self, now: Instant) -> u8 {
        let steps =
            now.duration_since(self.since).as_nanos() * u128::from(STEPS) / self.period().as_nanos().max(1);
        let percent = (steps + 1) * u128::from(WARM_PERCENT) / u128::from(STEPS);
        u8::try_from(percent).unwrap_or(WARM_PERCENT).min(WARM_PERCENT)
    }
}

impl Roster {
    /// Lets the shares of servers grow with time. Returns when to do so again; `None` if there is nobody whose share grows.
    fn warm_up(&self, now: Instant) -> Option<Duration> {
        let mut changing = self.lock();
        for warming in &changing.warming {
            warming.server.set_warmth(warming.percent(now));
        }
        changing.warming.retain(|warming| warming.server.warmth() < WARM_PERCENT);
        let pause = changing.warming.iter().map(|warming| warming.period() / STEPS).min();
        self.refresh_shares(&mut changing);
        drop(changing);
        self.serve_queue();
        pause
    }
}

/// Lets the shares of servers that come back grow, until it is dropped.
pub async fn run(backends: Arc<[Arc<Backend>]>) {
    let mut tasks = JoinSet::new();
    for backend in backends.iter() {
        if backend.settings.servers.iter().any(|server| server.slow_start.is_some()) {
            tasks.spawn(run_backend(Arc::clone(backend)));
        }
    }
    while tasks.join_next().await.is_some() {}
    std::future::pending().await
}

async fn run_backend(backend: Arc<Backend>) {
    loop {
        backend.roster.has_warming.notified().await;
        while let Some(pause) = backend.roster.warm_up(Instant::now()) {
            tokio::select! {
                () = sleep(pause) => {}
                // It may be quicker than those before it.
                () = backend.roster.has_warming.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::reason::ServerState;

    use super::super::testing;
    use super::*;
    use crate::config;

    /// Server `b` comes back and takes 10 s for its share; `a` was never away. Both take at most 40.
    fn backend() -> Backend {
        let slow =
            config::Server { slow_start: Some(Duration::from_secs(10)), ..testing::server("b", 1, 40) };
        testing::backend(testing::settings(vec![testing::server("a", 1, 40), slow]))
    }

    /// What `b` gets of so many connections that end at once.
    fn share(backend: &Backend, connections: usize) -> usize {
        (0..connections).filter(|_| backend.pick(0, &[]).unwrap().server().id() == 1).count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_grows_evenly() {
        let backend = Arc::new(backend());
        let task = tokio::spawn(run(Arc::from([backend.clone()])));
        assert_eq!(share(&backend, 2_000), 1_000, "at the start of the agent nobody is cold");

        backend.servers()[1].set_state(ServerState::Down);
        assert_eq!(share(&backend, 100), 0);
        backend.servers()[1].set_state(ServerState::Up);
        for (seconds, percent) in [(0, 5), (2, 25), (5, 55), (9, 95), (10, 100), (20, 100)] {
            let since = Duration::from_millis(seconds * 1_000 + 100);
            let begun = Instant::now();
            tokio::time::sleep(since).await;
            // The last step may have been taken for a server that came back a moment before this one.
            let [least, most] = [percent - 5, percent].map(|percent| 10_000 * percent / (100 + percent));
            let share = share(&backend, 10_000);
            assert!(
                (least - least / 50..=most + most / 50 + 10).contains(&share),
                "{share} after {seconds} s"
            );
            // The next row counts from the same beginning.
            backend.servers()[1].set_state(ServerState::Down);
            backend.servers()[1].set_state(ServerState::Up);
            assert!(begun.elapsed() >= since);
        }
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_slower_one() {
        let slow = |name, seconds| config::Server {
            slow_start: Some(Duration::from_secs(seconds)),
            ..testing::server(name, 1, 0)
        };
        let backend = Arc::new(testing::backend(testing::settings(vec![slow("a", 3_600), slow("b", 10)])));
        let task = tokio::spawn(run(Arc::from([backend.clone()])));
        for server in backend.servers().iter() {
            server.set_state(ServerState::Down);
            server.set_state(ServerState::Up);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let warmth: Vec<u8> = backend.servers().iter().map(|server| server.warmth()).collect();
        assert_eq!(warmth, [5, 100]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_grows_with_it() {
        let backend = Arc::new(backend());
        let task = tokio::spawn(run(Arc::from([backend.clone()])));
        backend.servers()[0].set_state(ServerState::Down);
        backend.servers()[1].set_state(ServerState::Down);
        backend.servers()[1].set_state(ServerState::Up);
        let fill = || std::iter::from_fn(|| backend.pick(0, &[]).ok()).collect::<Vec<_>>();
        let mut held = fill();
        assert_eq!(held.len(), 2, "5 percent of 40");
        let crate::backend::Turn::Later(ticket) = backend.pick_or_queue(0, &[], None).unwrap() else {
            panic!("there is no room");
        };
        let place = ticket.place(tokio::time::sleep(Duration::from_secs(5))).await;
        held.push(place.expect("who waits gets what the next step brings"));
        tokio::time::sleep(Duration::from_secs(11)).await;
        held.extend(fill());
        assert_eq!(held.len(), 40);
        task.abort();
    }
}
