// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a key to a server by a table, and to the next ones where that does not take it.

use std::fmt;

use super::hash::{below, mix};
use super::summary::{Sum, Summary};
use super::{Member, Places};
use crate::config::BalanceFactor;

/// Slots of a key's order that are looked at before all servers are. With the least bound, 101 %, and loads as uneven as they can be,
/// a slot may well lead to a server over the bound each time.
const PROBES: u64 = 64;

/// Slots, each of which leads to a server. A key has an order of slots of its own, and goes to the first whose server takes it: the
/// server is not full, was not tried, and is not above the bound.
///
/// So servers that a key cannot go to leave their keys to all the others in proportion to their slots, and get the same keys back
/// when they can be used again. If [`PROBES`] slots do not lead to one, servers are asked one after the other from one that depends
/// on the key. If none of them is within the bound and open, the bound is given up: a connection is refused only where no server is
/// open at all.
///
/// The bound is exact as long as no other thread takes or gives back a place meanwhile. Otherwise threads may go by a sum that
/// lacks each other's places: it is off by as many as there are threads at most, and right again when they are done.
pub struct Table {
    members: Box<[Member]>,
    /// Positions in `members`.
    slots: Box<[u32]>,
    bound: Option<Bound>,
}

/// Which servers have more than their part of all connections.
#[derive(Debug)]
struct Bound {
    factor: BalanceFactor,
    /// Sum of weights.
    weights: u64,
    /// Connections of each member, by position in the backend, and of all.
    loads: Summary<Sum>,
    /// Whether a position in the backend is a member's.
    is_member: Box<[bool]>,
}

impl Table {
    /// A table in which `slots` are positions in `members`.
    pub(super) fn new(
        members: Vec<Member>,
        slots: Box<[u32]>,
        factor: Option<BalanceFactor>,
        places: &impl Places,
    ) -> Self {
        let bound = factor.map(|factor| Bound::new(factor, &members, places));
        Self { members: members.into(), slots, bound }
    }

    /// Takes a place on the first server in the order of `key` that can be taken and is not among `tried`.
    pub fn pick(&self, places: &impl Places, key: u64, tried: &[usize]) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let probes = (0..PROBES).map(|probe| &self.members[self.slot(key, probe)]);
        let all = || {
            let (before, after) = self.members.split_at(below(mix(key, PROBES), self.members.len()));
            after.iter().chain(before)
        };
        let is_untried = |member: &&Member| !tried.contains(&member.index);
        let most = self.bound.as_ref().map(Bound::most);
        let take = |member: &Member| match most {
            None => places.take(member.index),
            Some(most) => take_within(places, member, most.of(member)),
        };
        let within = probes.chain(all()).filter(is_untried).find(|member| take(member));
        let taken = match (within, most) {
            (None, Some(_)) => all().filter(is_untried).find(|member| places.take(member.index)),
            (within, _) => within,
        }?;
        self.settle(taken.index, places);
        Some(taken.index)
    }

    /// Takes notice of a load that has changed.
    pub fn settle(&self, index: usize, places: &impl Places) {
        if let Some(bound) = &self.bound
            && bound.is_member.get(index).is_some_and(|is_member| *is_member)
        {
            bound.loads.settle(index, || u64::from(places.load(index)));
        }
    }

    /// Takes notice of all loads.
    pub fn settle_all(&self, places: &impl Places) {
        self.members.iter().for_each(|member| self.settle(member.index, places));
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The positions in the backend that slots lead to.
    pub fn servers(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().map(|slot| self.members[*slot as usize].index)
    }

    /// The position in `members` of a key's first slot, second slot and so on.
    fn slot(&self, key: u64, probe: u64) -> usize {
        let number = if probe == 0 { key } else { mix(key, probe) };
        self.slots[below(number, self.slots.len())] as usize
    }
}

/// Takes a place on a server that has less than `most` connections.
fn take_within(places: &impl Places, member: &Member, most: u64) -> bool {
    loop {
        let load = places.load(member.index);
        if u64::from(load) >= most || load >= places.limit(member.index) {
            return false;
        }
        if places.take_at(member.index, load) {
            return true;
        }
    }
}

/// What servers may have at this moment.
#[derive(Clone, Copy)]
struct Most {
    /// Connections of all with the one to come, times percent.
    percent: u64,
    /// Sum of weights, times a hundred.
    weights: u64,
}

impl Most {
    /// The most connections of a member: its part by weight, times the factor, rounded up. Over all members that is at least as many
    /// as there are with the one to come, so one of them always has less.
    fn of(self, member: &Member) -> u64 {
        self.percent.saturating_mul(u64::from(member.weight.get())).div_ceil(self.weights)
    }
}

impl Bound {
    fn new(factor: BalanceFactor, members: &[Member], places: &impl Places) -> Self {
        let mut is_member = vec![false; members.iter().map(|member| member.index + 1).max().unwrap_or(0)];
        members.iter().for_each(|member| is_member[member.index] = true);
        let load = |index: usize| if is_member[index] { u64::from(places.load(index)) } else { 0 };
        Self {
            factor,
            weights: members.iter().map(|member| u64::from(member.weight.get())).sum(),
            loads: Summary::new(is_member.len(), load),
            is_member: is_member.into(),
        }
    }

    fn most(&self) -> Most {
        let connections = self.loads.total().saturating_add(1);
        Most {
            percent: connections.saturating_mul(u64::from(self.factor.percent())),
            weights: self.weights * 100,
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("servers", &self.members.len())
            .field("slots", &self.slots.len())
            .field("factor", &self.bound.as_ref().map(|bound| bound.factor))
            .finish_non_exhaustive()
    }
}
