// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frontends as they are while running, and how many connections there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

use crate::config::{self, Mode};
use crate::observe::metrics::FrontendMetrics;
use crate::route::Router;

/// A frontend while running. Shared by all workers.
#[derive(Debug)]
pub struct Frontend {
    /// Its configuration.
    pub settings: config::Frontend,
    /// Its routes; `None` in mode `tcp`.
    pub router: Option<Router>,
    /// Its counters.
    pub metrics: FrontendMetrics,
    /// Its `max-connections`.
    pub gate: Gate,
}

impl Frontend {
    /// A frontend without connections.
    pub fn new(settings: config::Frontend, metrics: FrontendMetrics) -> Self {
        let router = match &settings.mode {
            Mode::TlsPassthrough(tls) => Some(Router::new(tls)),
            Mode::Tcp { .. } => None,
        };
        let gate = Gate::new(settings.max_connections.map_or(u32::MAX, Into::into));
        Self { settings, router, metrics, gate }
    }
}

/// Counts connections up to a limit. At the limit nobody is turned away: the kernel keeps further ones in its backlog.
#[derive(Debug)]
pub struct Gate {
    max: u32,
    open: AtomicU32,
    left: Notify,
}

impl Gate {
    /// At most `max` at once.
    pub fn new(max: u32) -> Self {
        Self { max, open: AtomicU32::new(0), left: Notify::new() }
    }

    /// Connections that are in now.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets one more in, if there is room.
    pub fn try_enter(&self) -> bool {
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |open| (open < self.max).then_some(open + 1))
            .is_ok()
    }

    /// Lets one more in, whether or not there is room: it was in before.
    pub fn enter(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// One went.
    pub fn leave(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) >= self.max {
            self.left.notify_waiters();
        }
    }

    /// Waits until there may be room.
    pub async fn room(&self) {
        loop {
            let left = self.left.notified();
            // `notified` counts from its creation on for notify_waiters, so that no departure is missed in between.
            if self.open() < self.max {
                return;
            }
            left.await;
        }
    }
}

/// One connection's place in the process and in its frontend. Dropping it gives both back.
#[derive(Debug)]
pub struct Permit {
    process: Arc<Gate>,
    frontend: Arc<Frontend>,
}

impl Permit {
    /// A place in both, if there is room in both.
    pub fn take(process: &Arc<Gate>, frontend: &Arc<Frontend>) -> Option<Self> {
        if !process.try_enter() {
            return None;
        }
        if !frontend.gate.try_enter() {
            process.leave();
            return None;
        }
        Some(Self { process: Arc::clone(process), frontend: Arc::clone(frontend) })
    }

    /// A place in both for a connection that another agent has let in, whether or not there is room.
    pub fn keep(process: &Arc<Gate>, frontend: &Arc<Frontend>) -> Self {
        process.enter();
        frontend.gate.enter();
        Self { process: Arc::clone(process), frontend: Arc::clone(frontend) }
    }

    /// The frontend that the connection came in by.
    pub fn frontend(&self) -> &Arc<Frontend> {
        &self.frontend
    }

    /// Connections of the process and of the frontend, this one included.
    pub fn counts(&self) -> (u32, u32) {
        (self.process.open(), self.frontend.gate.open())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.frontend.gate.leave();
        self.process.leave();
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Frontends for tests.

    use std::num::NonZeroU32;

    use super::Frontend;
    use crate::config::{self, BackendId, Config, Mode, PathChoice};
    use crate::observe::metrics::Metrics;

    /// A frontend `f` in mode `tcp`.
    pub(crate) fn frontend() -> Frontend {
        let settings = config::Frontend {
            name: "f".into(),
            bind: Vec::new(),
            accept_proxy: None,
            mode: Mode::Tcp { backend: BackendId(0) },
            max_connections: None,
            backlog: NonZeroU32::MIN,
            mss: None,
            keepalive: None,
            user_timeout: None,
            idle_timeout: None,
            half_close_timeout: None,
            path: PathChoice::DEFAULT,
        };
        let config = Config {
            global: config::Global {
                workers: std::num::NonZeroUsize::MIN,
                max_connections: None,
                pending_hello_memory: 0,
                sockmap_memory: None,
                sockmap_direction_memory: 16 << 20,
                packet_ports: None,
                packet_interfaces: Vec::new(),
                packet_state: None,
                drain_timeout: std::time::Duration::ZERO,
            },
            admin: None,
            log: config::Log {
                format: config::LogFormat::Json,
                target: config::LogTarget::Off,
                level: config::LogLevel::Info,
            },
            resolver: config::Resolver::default(),
            frontends: vec![settings.clone()],
            backends: Vec::new(),
        };
        Frontend::new(settings, Metrics::new(&config).frontends[0].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_admits_up_to_its_limit_and_wakes_who_waits() {
        let gate = Arc::new(Gate::new(2));
        assert!(gate.try_enter() && gate.try_enter());
        assert!(!gate.try_enter());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        gate.leave();
        waiting.await.expect("the waiter ends");
        assert!(gate.try_enter());
        assert_eq!(gate.open(), 2);
    }
}
