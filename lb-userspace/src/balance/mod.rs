// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which server is next. Pure decisions over weights and counts; [`crate::backend`] holds the servers.
//!
//! A [`Balancer`] is made for one set of [`eligible`] servers and replaced when that set changes. Picking neither locks nor
//! allocates, so that all workers share one.

mod bits;
mod hash;
mod least_connections;
mod maglev;
mod race;
mod random;
mod round_robin;
mod sequence;
mod summary;
mod table;

use std::net::IpAddr;
use std::num::NonZeroU16;

use lb_common::reason::ServerState;

use crate::config::{Balance, HashOn};

pub use hash::{IPV6_PREFIX_BITS, identity};
pub use least_connections::LeastConnections;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use sequence::{SEQUENCE_MAX, sequence};
pub use table::Table;

/// What decides whether a server takes part in the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its configured weight; 0 takes no connections.
    pub weight: u16,
    /// Whether it stands in only while no other server takes connections.
    pub is_backup: bool,
    /// What its checks say.
    pub state: ServerState,
    /// [`identity`]
    pub identity: u64,
}

/// A server that takes part in the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its position in the backend.
    pub index: usize,
    /// Its share relative to the others.
    pub weight: NonZeroU16,
    /// What it is known by wherever keys lead to servers: [`identity`].
    pub identity: u64,
}

/// The connections of the servers, as far as a choice needs them. Servers go by their position in the backend.
pub trait Places {
    /// Open connections of a server.
    fn load(&self, index: usize) -> u32;

    /// The most connections that it takes. Where the balancer [follows the loads](Balance::follows_loads) it is to be replaced, or
    /// told by [`Balancer::settle_all`], when that changes.
    fn limit(&self, index: usize) -> u32;

    /// Takes a place on a server; false, and nothing happens, if it is full.
    fn take(&self, index: usize) -> bool;

    /// As [`Self::take`], but only while [`Self::load`] is still `load`.
    fn take_at(&self, index: usize, load: u32) -> bool;
}

/// The way of choosing that a backend is configured with, over the servers that are eligible.
#[derive(Debug)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin(RoundRobin),
    /// Fewest open connections for its weight.
    LeastConnections(LeastConnections),
    /// The better of two drawn by weight.
    Random(Random),
    /// By the key, over a table.
    Table(Table),
}

/// The servers that take part: those that are up with a weight above 0. Backups take part only if nobody else does; then all do.
pub fn eligible(servers: impl Iterator<Item = Standing> + Clone) -> Vec<Member> {
    let regular = members(servers.clone().map(|server| (server, !server.is_backup)));
    if regular.is_empty() { members(servers.map(|server| (server, server.is_backup))) } else { regular }
}

/// Those of the marked servers that are up and have a weight.
fn members(servers: impl Iterator<Item = (Standing, bool)>) -> Vec<Member> {
    servers
        .enumerate()
        .filter(|(_, (server, is_meant))| *is_meant && server.state == ServerState::Up)
        .filter_map(|(index, (Standing { weight, identity, .. }, _))| {
            Some(Member { index, weight: NonZeroU16::new(weight)?, identity })
        })
        .collect()
}

impl Balancer {
    /// A balancer over `members` of a backend that has so many `servers`, of which the first is next if `turn` is 0. [`Self::turn`]
    /// of the one that it replaces keeps servers early in the file from being favoured each time that the set changes.
    ///
    /// Where it [follows the loads](Balance::follows_loads), places that are taken or given back elsewhere while it is made may have
    /// escaped it: [`Self::settle_all`] is due once it has taken the place of the other.
    pub fn new(
        balance: Balance,
        members: Vec<Member>,
        servers: usize,
        turn: usize,
        places: &impl Places,
    ) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new(&members, turn)),
            Balance::LeastConnections => {
                Self::LeastConnections(LeastConnections::new(&members, turn, places))
            }
            Balance::Random => Self::Random(Random::new(members)),
            Balance::Source { bound } => {
                let slots = race::fill(&members, race::slots(servers));
                Self::Table(Table::new(members, slots, bound, places))
            }
            Balance::Maglev { on: _, bound } => {
                let slots = maglev::fill(&members, maglev::slots(servers));
                Self::Table(Table::new(members, slots, bound, places))
            }
        }
    }

    /// Takes a place on the server whose turn it is, and says which. `None` if no server lets itself be taken.
    ///
    /// `key` is what [`Balance::key`] says; turns and loads do not go by it.
    pub fn pick(&self, places: &impl Places, key: u64) -> Option<usize> {
        match self {
            Self::RoundRobin(balancer) => balancer.pick(places),
            Self::LeastConnections(balancer) => balancer.pick(places, &[]),
            Self::Random(balancer) => balancer.pick(places, key, &[]),
            Self::Table(balancer) => balancer.pick(places, key, &[]),
        }
    }

    /// As [`Self::pick`], for a connection that failed on the servers at the positions `tried`, which are left out.
    pub fn pick_again(&self, places: &impl Places, key: u64, tried: &[usize]) -> Option<usize> {
        match self {
            Self::RoundRobin(balancer) => balancer.pick_again(places, tried),
            Self::LeastConnections(balancer) => balancer.pick(places, tried),
            Self::Random(balancer) => balancer.pick(places, key, tried),
            Self::Table(balancer) => balancer.pick(places, key, tried),
        }
    }

    /// Takes notice that a server's load has changed otherwise than by a pick of this balancer. Needed where it [follows the
    /// loads](Balance::follows_loads); for others nothing happens.
    pub fn settle(&self, index: usize, places: &impl Places) {
        match self {
            Self::LeastConnections(balancer) => balancer.settle(index, places),
            Self::Table(balancer) => balancer.settle(index, places),
            Self::RoundRobin(_) | Self::Random(_) => {}
        }
    }

    /// [`Self::settle`] for every server.
    pub fn settle_all(&self, places: &impl Places) {
        match self {
            Self::LeastConnections(balancer) => balancer.settle_all(places),
            Self::Table(balancer) => balancer.settle_all(places),
            Self::RoundRobin(_) | Self::Random(_) => {}
        }
    }

    /// Where the rotation stands; 0 if there is none.
    pub fn turn(&self) -> usize {
        match self {
            Self::RoundRobin(balancer) => balancer.turn(),
            Self::LeastConnections(balancer) => balancer.turn(),
            Self::Random(_) | Self::Table(_) => 0,
        }
    }

    /// Lets the rotation, if there is one, go on from where [`Self::turn`] says that another stands.
    pub fn set_turn(&self, turn: usize) {
        match self {
            Self::RoundRobin(balancer) => balancer.set_turn(turn),
            Self::LeastConnections(balancer) => balancer.set_turn(turn),
            Self::Random(_) | Self::Table(_) => {}
        }
    }

    /// Whether no server is eligible.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::RoundRobin(balancer) => balancer.is_empty(),
            Self::LeastConnections(balancer) => balancer.is_empty(),
            Self::Random(balancer) => balancer.is_empty(),
            Self::Table(balancer) => balancer.is_empty(),
        }
    }
}

impl Balance {
    /// What a pick for this client goes by: its draws, or the number that its address or name has.
    pub fn key(self, client: IpAddr, server_name: Option<&str>, random: impl FnOnce() -> u64) -> u64 {
        match self {
            Self::RoundRobin | Self::LeastConnections => 0,
            Self::Random => random(),
            Self::Maglev { on: HashOn::Sni, .. } => {
                server_name.map_or_else(|| hash::source(client), hash::name)
            }
            Self::Source { .. } | Self::Maglev { on: HashOn::Source, .. } => hash::source(client),
        }
    }

    /// Whether clients keep their servers: a table says which, and weights that change often would move them about.
    pub fn keeps_clients(self) -> bool {
        matches!(self, Self::Source { .. } | Self::Maglev { .. })
    }

    /// Whether the balancer has to be told of every place that is taken or given back: [`Balancer::settle`].
    pub fn follows_loads(self) -> bool {
        match self {
            Self::RoundRobin | Self::Random => false,
            Self::LeastConnections => true,
            Self::Source { bound } | Self::Maglev { bound, .. } => bound.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
