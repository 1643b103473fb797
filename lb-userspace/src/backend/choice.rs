// SPDX-License-Identifier: MIT OR Apache-2.0
//! The choice among the servers of one moment: a balancer, and whom its positions stand for.

use std::sync::Arc;

use super::NoServer;
use super::server::Server;
use super::slow_start::WARM_PERCENT;
use crate::balance::{Balancer, Member, Places, eligible};
use crate::config::{self, Balance};

/// A balancer with its servers. It goes by the states and weights that there were when it was made; servers that are down or gone
/// since then are passed over as if they were full.
#[derive(Debug)]
pub(super) struct Choice {
    servers: Arc<[Arc<Server>]>,
    /// Ids of servers and their positions in `servers`, by id.
    positions: Box<[(usize, usize)]>,
    /// Those that were eligible.
    members: Vec<Member>,
    /// Whether these are backups.
    is_of_backups: bool,
    balancer: Balancer,
}

/// What the configuration says of every choice of a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How it is made.
    pub(super) balance: Balance,
    /// Most servers that there may be. Tables have a size for all of them: with the size nearly every client would move when names
    /// lead to more servers, and balancers whose answers differ by one would agree on nobody.
    capacity: usize,
}

/// Places on these servers, by position.
struct Servers<'a>(&'a [Arc<Server>]);

impl Plan {
    /// Of a backend.
    pub(super) fn new(settings: &config::Backend) -> Self {
        let capacity = settings.servers.iter().map(|server| server.address.servers_max() as usize).sum();
        Self { balance: settings.balance, capacity }
    }
}

impl Choice {
    /// Among these servers.
    pub(super) fn new(plan: Plan, servers: &Arc<[Arc<Server>]>) -> Self {
        Self::among(plan, servers, members(plan.balance, servers))
    }

    fn among(plan: Plan, servers: &Arc<[Arc<Server>]>, members: Vec<Member>) -> Self {
        let servers = Arc::clone(servers);
        let balancer = Balancer::new(
            plan.balance,
            members.clone(),
            plan.capacity.max(servers.len()),
            0,
            &Servers(&servers),
        );
        let mut positions: Box<[_]> =
            servers.iter().enumerate().map(|(position, server)| (server.id(), position)).collect();
        positions.sort_unstable();
        let is_of_backups = are_backups(&servers, &members);
        Self { servers, positions, members, is_of_backups, balancer }
    }

    /// The choice among these servers as they are now: the same one, if it would be made alike.
    pub(super) fn renewed(self: &Arc<Self>, plan: Plan, servers: &Arc<[Arc<Server>]>) -> Arc<Self> {
        let members = members(plan.balance, servers);
        let is_same_role = are_backups(servers, &members) == self.is_of_backups;
        if Arc::ptr_eq(servers, &self.servers) && members == self.members && is_same_role {
            return Arc::clone(self);
        }
        Arc::new(Self::among(plan, servers, members))
    }

    /// Takes a place on a server; see [`super::Backend::pick`].
    pub(super) fn pick(&self, key: u64, tried: &[usize]) -> Result<Arc<Server>, NoServer> {
        let (balancer, places) = (&self.balancer, &Servers(&self.servers));
        if balancer.is_empty() {
            return Err(NoServer::AllDown);
        }
        let picked = if tried.is_empty() {
            balancer.pick(places, key)
        } else {
            let tried: Vec<usize> = tried.iter().filter_map(|id| self.position(*id)).collect();
            balancer.pick_again(places, key, &tried).or_else(|| balancer.pick_again(places, key, &[]))
        };
        Ok(Arc::clone(&self.servers[picked.ok_or(NoServer::AllFull)?]))
    }

    /// Takes notice that a server's places or its state have changed.
    pub(super) fn settle(&self, server: &Server) {
        if let Some(position) = self.position(server.id()) {
            self.balancer.settle(position, &Servers(&self.servers));
        }
    }

    /// [`Self::settle`] for every server.
    pub(super) fn settle_all(&self) {
        self.balancer.settle_all(&Servers(&self.servers));
    }

    /// Begins where the rotation of another one stands.
    pub(super) fn resume(&self, other: &Self) {
        self.balancer.set_turn(other.balancer.turn());
    }

    /// Whether nobody was eligible.
    pub(super) fn is_empty(&self) -> bool {
        self.balancer.is_empty()
    }

    /// Whether one of those that were eligible is still up. It may be full.
    pub(super) fn has_usable(&self) -> bool {
        self.members.iter().any(|member| self.servers[member.index].is_usable())
    }

    /// Whether it is among backups.
    pub(super) fn is_of_backups(&self) -> bool {
        self.is_of_backups
    }

    /// The position of a server, by its id.
    fn position(&self, id: usize) -> Option<usize> {
        // As long as no server has gone, ids are without gaps.
        let guess = self.positions.get(id).filter(|(other, _)| *other == id);
        let search = || self.positions.binary_search_by_key(&id, |(other, _)| *other).ok();
        guess.or_else(|| self.positions.get(search()?)).map(|(_, position)| *position)
    }
}

/// Those that are eligible now, with their weights.
fn members(balance: Balance, servers: &[Arc<Server>]) -> Vec<Member> {
    // Weights in percent, if somebody has less than all of its own.
    let is_even = balance.keeps_clients() || servers.iter().all(|server| server.warmth() == WARM_PERCENT);
    let percent = |server: &Server| if is_even { 1 } else { u16::from(server.warmth()) };
    eligible(servers.iter().map(|server| server.standing(percent(server))))
}

/// Whether these are backups: all are, or none.
fn are_backups(servers: &[Arc<Server>], members: &[Member]) -> bool {
    members.first().is_some_and(|member| servers[member.index].is_backup())
}

impl Places for Servers<'_> {
    fn load(&self, index: usize) -> u32 {
        self.0[index].active()
    }

    fn limit(&self, index: usize) -> u32 {
        let server = &self.0[index];
        if server.is_usable() { server.limit_now() } else { 0 }
    }

    fn take(&self, index: usize) -> bool {
        self.0[index].is_usable() && self.0[index].take()
    }

    fn take_at(&self, index: usize, load: u32) -> bool {
        self.0[index].is_usable() && self.0[index].take_at(load)
    }
}
