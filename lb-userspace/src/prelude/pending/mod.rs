// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that connections waiting for their ClientHello may hold, over all workers. Pure, but for the wake-up of the one
//! that has to go.
//!
//! When the budget is used up, the oldest connection of the source that holds most gives way: a client that is slow on purpose,
//! or a host that opens thousands of connections, pushes out its own; a good client is done long before it is the oldest of
//! the heaviest. How sources are told apart, and who goes among equals, says `waiting`.

mod waiting;

use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use self::waiting::{Connection, Waiting};

/// The budget and who holds a part of it.
#[derive(Clone, Debug)]
pub struct PendingHellos {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    budget_bytes: u64,
    gauge: Gauge,
    waiting: Mutex<Waiting>,
}

/// One connection's part. Dropping it gives the memory back.
#[derive(Debug)]
pub struct Pending {
    shared: Arc<Shared>,
    source: IpAddr,
    ticket: u64,
    evicted: oneshot::Receiver<()>,
}

impl PendingHellos {
    /// A budget in bytes; `gauge` shows what is held.
    pub fn new(budget_bytes: u64, gauge: Gauge) -> Self {
        Self { shared: Arc::new(Shared { budget_bytes, gauge, waiting: Mutex::default() }) }
    }

    /// Takes a part of `charge` bytes for a connection from `source`. Where that exceeds the budget, others give way; this
    /// connection itself only if it does not fit alone.
    pub fn enter(&self, source: IpAddr, charge: u64) -> Pending {
        let (evict, evicted) = oneshot::channel();
        let mut waiting = self.shared.lock();
        let ticket = waiting.add(source, Connection { charge, evict });
        while waiting.held_bytes() > self.shared.budget_bytes {
            let Some(connection) = waiting.make_room(ticket) else { break };
            // A receiver that is gone has just finished by itself.
            let _ = connection.evict.send(());
        }
        self.shared.show(&waiting);
        drop(waiting);
        Pending { shared: Arc::clone(&self.shared), source, ticket, evicted }
    }
}

impl Pending {
    /// Resolves when this connection has to give way.
    pub async fn evicted(&mut self) {
        if (&mut self.evicted).await.is_err() {
            // The sender is dropped with this place's entry, which only this place's own end removes.
            pending::<()>().await;
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.remove(self.source, self.ticket);
        self.shared.show(&waiting);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, waiting: &Waiting) {
        self.gauge.set(i64::try_from(waiting.held_bytes()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
