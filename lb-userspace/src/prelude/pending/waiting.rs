// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who waits, and who goes next. Pure.
//!
//! Connections are grouped twice. A *source* is an IPv4 address, or for IPv6 a /64, the least that one customer gets. A
//! *site* is an IPv4 address too, or a /48, the most that one customer gets for the asking (RFC 6177 section 2): whoever has
//! one has 65,536 sources, which would each be light. The heaviest site gives way, in it the heaviest source, so that a busy
//! customer of a provider that hands out /56 does not take his neighbours along, and in that the oldest connection.
//!
//! Among equals the one with the oldest connection is the heavier. Thus no address is better than another: however many light
//! sources an attacker has, of either family, a newcomer stays until everybody who came before has gone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use tokio::sync::oneshot;

/// One waiting connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// What it holds, in bytes.
    pub(super) charge: u64,
    /// Tells it that it has to go.
    pub(super) evict: oneshot::Sender<()>,
}

/// All waiting connections.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    held_bytes: u64,
    next_ticket: u64,
    sites: Ranked<Site>,
}

/// Sources that may belong to one customer.
#[derive(Debug, Default)]
struct Site {
    held_bytes: u64,
    /// Of all its connections.
    tickets: BTreeSet<u64>,
    sources: Ranked<Source>,
}

/// Connections that surely come from one customer.
#[derive(Debug, Default)]
struct Source {
    held_bytes: u64,
    /// By ticket, so the oldest first.
    connections: BTreeMap<u64, Connection>,
}

impl Waiting {
    /// What all of them hold, in bytes.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Adds a connection; returns its ticket, which is larger than every one before.
    pub(super) fn add(&mut self, address: IpAddr, connection: Connection) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let charge = connection.charge;
        self.held_bytes += charge;
        self.sites.change(site_of(address), |site| {
            site.held_bytes += charge;
            site.tickets.insert(ticket);
            site.sources.change(source_of(address), |source| {
                source.held_bytes += charge;
                source.connections.insert(ticket, connection);
            });
        });
        ticket
    }

    /// Removes a connection; `None` if it was removed before.
    pub(super) fn remove(&mut self, address: IpAddr, ticket: u64) -> Option<Connection> {
        let removed = self.sites.change(site_of(address), |site| {
            let connection = site.sources.change(source_of(address), |source| {
                let connection = source.connections.remove(&ticket)?;
                source.held_bytes -= connection.charge;
                Some(connection)
            })?;
            site.held_bytes -= connection.charge;
            site.tickets.remove(&ticket);
            Some(connection)
        })?;
        self.held_bytes -= removed.charge;
        Some(removed)
    }

    /// Removes the connection that has to go for `newcomer`, which goes itself only if it is alone: what it holds alone must not
    /// make it heavier than everybody who waits already. `None`: nobody waits.
    pub(super) fn make_room(&mut self, newcomer: u64) -> Option<Connection> {
        let (source, ticket) =
            self.heaviest_first().find(|&(_, ticket)| ticket != newcomer).or_else(|| {
                self.heaviest_first().next() // The newcomer.
            })?;
        self.remove(source, ticket)
    }

    /// An address of the source, and the ticket, of every connection, in the order in which they would have to go if what has gone
    /// changed no weight. Only the first two are ever looked at.
    fn heaviest_first(&self) -> impl Iterator<Item = (IpAddr, u64)> {
        self.sites
            .heaviest_first()
            .flat_map(|(_, site)| site.sources.heaviest_first())
            .flat_map(|(address, source)| source.connections.keys().map(move |&ticket| (address, ticket)))
    }
}

/// What has a place in an order by weight.
trait Weighs {
    /// The bytes held and the oldest ticket, which decides among equals; `None`: empty.
    fn weight(&self) -> Option<(u64, Reverse<u64>)>;
}

impl Weighs for Site {
    fn weight(&self) -> Option<(u64, Reverse<u64>)> {
        self.tickets.first().map(|&oldest| (self.held_bytes, Reverse(oldest)))
    }
}

impl Weighs for Source {
    fn weight(&self) -> Option<(u64, Reverse<u64>)> {
        self.connections.keys().next().map(|&oldest| (self.held_bytes, Reverse(oldest)))
    }
}

/// Members by the first address of their block, and in the order of their weight. Holds no empty ones.
#[derive(Debug)]
struct Ranked<M> {
    members: HashMap<IpAddr, M>,
    /// The heaviest last.
    by_weight: BTreeSet<(u64, Reverse<u64>, IpAddr)>,
}

impl<M: Weighs + Default> Ranked<M> {
    /// Changes a member, which may be a new one, and keeps the order.
    fn change<R>(&mut self, address: IpAddr, change: impl FnOnce(&mut M) -> R) -> R {
        let member = self.members.entry(address).or_default();
        if let Some((held_bytes, oldest)) = member.weight() {
            self.by_weight.remove(&(held_bytes, oldest, address));
        }
        let result = change(member);
        match member.weight() {
            Some((held_bytes, oldest)) => {
                self.by_weight.insert((held_bytes, oldest, address));
            }
            None => {
                self.members.remove(&address);
            }
        }
        result
    }

    fn heaviest_first(&self) -> impl Iterator<Item = (IpAddr, &M)> {
        self.by_weight
            .iter()
            .rev()
            .filter_map(|&(_, _, address)| self.members.get(&address).map(|member| (address, member)))
    }
}

impl<M> Default for Ranked<M> {
    fn default() -> Self {
        Self { members: HashMap::new(), by_weight: BTreeSet::new() }
    }
}

/// The first address of the block that surely belongs to one customer.
fn source_of(address: IpAddr) -> IpAddr {
    block(address, 64)
}

/// The first address of the block that may belong to one customer.
fn site_of(address: IpAddr) -> IpAddr {
    block(address, 48)
}

/// The first address of an IPv6 address' block with a prefix of so many bits, 1 to 128; an IPv4 address as it is.
fn block(address: IpAddr, prefix_bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << (128 - prefix_bits))).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_counts_by_blocks_and_mapped_addresses_as_ipv4() {
        let check = |address: &str, source: &str, site: &str| {
            let address = address.parse().unwrap();
            assert_eq!(source_of(address), source.parse::<IpAddr>().unwrap());
            assert_eq!(site_of(address), site.parse::<IpAddr>().unwrap());
        };
        check("2001:db8:1:2:3::9", "2001:db8:1:2::", "2001:db8:1::");
        check("192.0.2.7", "192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7");
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let mut waiting = Waiting::default();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let connection = || Connection { charge: 7, evict: oneshot::channel().0 };
        let (first, second) = (waiting.add(address, connection()), waiting.add(address, connection()));
        assert!(waiting.remove(address, first).is_some());
        assert!(waiting.remove(address, first).is_none());
        assert_eq!(waiting.held_bytes(), 7);
        assert!(waiting.make_room(second).is_some());
        assert!(waiting.make_room(second).is_none() && waiting.remove(address, second).is_none());
        assert_eq!(waiting.held_bytes(), 0);
        assert!(waiting.sites.members.is_empty() && waiting.sites.by_weight.is_empty());
    }
}
