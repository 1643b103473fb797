// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that connections waiting for their ClientHello may hold, over all workers. Pure, but for the wake-up of the one
//! that has to go.
//!
//! When the budget is used up, the oldest connection of the source that holds most gives way: a client that is slow on purpose,
//! or a host that opens thousands of connections, pushes out its own; a good client is done long before it is the oldest of
//! the heaviest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

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

/// Who waits, by source.
#[derive(Debug, Default)]
struct Waiting {
    held_bytes: u64,
    next_ticket: u64,
    sources: HashMap<IpAddr, Source>,
    /// Sources by what they hold, the heaviest last.
    by_weight: BTreeSet<(u64, IpAddr)>,
}

#[derive(Debug, Default)]
struct Source {
    held_bytes: u64,
    /// Oldest first.
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    charge: u64,
    evict: oneshot::Sender<()>,
}

impl PendingHellos {
    /// A budget in bytes; `gauge` shows what is held.
    pub fn new(budget_bytes: u64, gauge: Gauge) -> Self {
        Self { shared: Arc::new(Shared { budget_bytes, gauge, waiting: Mutex::default() }) }
    }

    /// Takes a part of `charge` bytes. Where that exceeds the budget, others give way, or this connection itself.
    pub fn enter(&self, source: IpAddr, charge: u64) -> Pending {
        let source = source_group(source);
        let (evict, evicted) = oneshot::channel();
        let mut waiting = self.shared.lock();
        let ticket = waiting.add(source, Connection { charge, evict });
        while waiting.held_bytes > self.shared.budget_bytes {
            if !waiting.evict_oldest_of_heaviest() {
                break;
            }
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
        self.gauge.set(i64::try_from(waiting.held_bytes).unwrap_or(i64::MAX));
    }
}

impl Waiting {
    fn add(&mut self, source: IpAddr, connection: Connection) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let charge = connection.charge;
        self.reweigh(source, |entry| {
            entry.held_bytes += charge;
            entry.connections.insert(ticket, connection);
        });
        self.held_bytes += charge;
        ticket
    }

    fn remove(&mut self, source: IpAddr, ticket: u64) -> Option<Connection> {
        let mut removed = None;
        self.reweigh(source, |entry| {
            removed = entry.connections.remove(&ticket);
            entry.held_bytes -= removed.as_ref().map_or(0, |connection| connection.charge);
        });
        self.held_bytes -= removed.as_ref().map_or(0, |connection| connection.charge);
        removed
    }

    /// Changes a source's entry and keeps its place in the order by weight.
    fn reweigh(&mut self, source: IpAddr, change: impl FnOnce(&mut Source)) {
        let entry = self.sources.entry(source).or_default();
        self.by_weight.remove(&(entry.held_bytes, source));
        change(entry);
        if entry.connections.is_empty() {
            self.sources.remove(&source);
        } else {
            self.by_weight.insert((entry.held_bytes, source));
        }
    }

    fn evict_oldest_of_heaviest(&mut self) -> bool {
        let Some(&(_, source)) = self.by_weight.last() else { return false };
        let Some(ticket) =
            self.sources.get(&source).and_then(|entry| entry.connections.keys().next().copied())
        else {
            return false;
        };
        let Some(connection) = self.remove(source, ticket) else { return false };
        // A receiver that is gone has just finished by itself.
        let _ = connection.evict.send(());
        true
    }
}

/// Whom an address counts for: itself, or for IPv6 its /64, the least that one customer gets (RFC 6177).
fn source_group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(place: &mut Pending) -> bool {
        place.evicted.try_recv().is_ok()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address in a test")
    }

    #[test]
    fn the_oldest_of_the_heaviest_source_gives_way() {
        let gauge = Gauge::default();
        let hellos = PendingHellos::new(300, gauge.clone());
        let mut good = hellos.enter(address("192.0.2.1"), 100);
        let mut first = hellos.enter(address("198.51.100.1"), 100);
        let mut second = hellos.enter(address("198.51.100.1"), 100);
        assert_eq!(gauge.get(), 300);
        let mut third = hellos.enter(address("198.51.100.1"), 100);
        assert_eq!(gauge.get(), 300);
        assert!(!is_evicted(&mut good));
        assert!(is_evicted(&mut first));
        assert!(!is_evicted(&mut second));
        assert!(!is_evicted(&mut third));
        drop((good, first, second, third));
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn a_connection_larger_than_the_budget_goes_itself() {
        let hellos = PendingHellos::new(50, Gauge::default());
        assert!(is_evicted(&mut hellos.enter(address("192.0.2.1"), 100)));
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_addresses_as_ipv4() {
        assert_eq!(source_group(address("2001:db8:1:2:3::9")), address("2001:db8:1:2::"));
        assert_eq!(source_group(address("::ffff:192.0.2.7")), address("192.0.2.7"));
    }
}
