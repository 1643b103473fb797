// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which server is next. Pure decisions over weights and counts; [`crate::backend`] holds the servers.
//!
//! A [`Balancer`] is made for one set of [`eligible`] servers and replaced when that set changes. Picking neither locks nor
//! allocates, so that all workers share one.

mod least_connections;
mod round_robin;
mod sequence;

use std::num::NonZeroU16;

use lb_common::reason::ServerState;

use crate::config::Balance;

pub use least_connections::LeastConnections;
pub use round_robin::RoundRobin;
pub use sequence::{SEQUENCE_MAX, sequence};

/// What decides whether a server takes part in the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its configured weight; 0 takes no connections.
    pub weight: u16,
    /// Whether it stands in only while no other server takes connections.
    pub is_backup: bool,
    /// What its checks say.
    pub state: ServerState,
}

/// A server that takes part in the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its position in the backend.
    pub index: usize,
    /// Its share relative to the others.
    pub weight: NonZeroU16,
}

/// The connections of the servers, as far as a choice needs them. Servers go by their position in the backend.
pub trait Places {
    /// Open connections of a server, or `None` if it must not be chosen at this moment (it is full, or was tried already).
    fn load(&self, index: usize) -> Option<u32>;

    /// Takes a place on a server; false, and nothing happens, if it must not be chosen at this moment.
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
        .filter_map(|(index, (server, _))| Some(Member { index, weight: NonZeroU16::new(server.weight)? }))
        .collect()
}

impl Balancer {
    /// A balancer over `members`, of which the first is next if `turn` is 0. [`Self::turn`] of the one that it replaces keeps
    /// servers early in the file from being favoured each time that the set changes.
    pub fn new(balance: Balance, members: Vec<Member>, turn: usize) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new(&members, turn)),
            Balance::LeastConnections => Self::LeastConnections(LeastConnections::new(members, turn)),
        }
    }

    /// Takes a place on the server whose turn it is, and says which. `None` if no server lets itself be taken.
    pub fn pick(&self, places: &impl Places) -> Option<usize> {
        match self {
            Self::RoundRobin(balancer) => balancer.pick(places),
            Self::LeastConnections(balancer) => balancer.pick(places),
        }
    }

    /// Where the rotation stands.
    pub fn turn(&self) -> usize {
        match self {
            Self::RoundRobin(balancer) => balancer.turn(),
            Self::LeastConnections(balancer) => balancer.turn(),
        }
    }

    /// Whether no server is eligible.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::RoundRobin(balancer) => balancer.is_empty(),
            Self::LeastConnections(balancer) => balancer.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
