// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the servers of a backend share: their states, their open connections, and the balancer over those that are eligible.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use lb_common::reason::ServerState;

use crate::balance::{Balancer, Places, Standing, eligible};
use crate::config;

/// The servers of one backend, by position. Entries lie side by side, so that least-connections reads through them quickly.
#[derive(Debug)]
pub(super) struct Roster {
    balance: config::Balance,
    entries: Box<[Entry]>,
    balancer: ArcSwap<Balancer>,
    /// Held while a state and the balancer change, so that the balancer never lags behind the last state.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    /// Connections that hold a place.
    active: AtomicU32,
    /// Most that may.
    limit: u32,
    weight: u16,
    is_backup: bool,
    /// [`ServerState::index`]
    state: AtomicU8,
}

/// The servers that a pick may take: those that are not full and not in `tried`.
pub(super) struct Candidates<'a> {
    /// All servers.
    pub(super) roster: &'a Roster,
    /// Positions to leave out; a handful at most.
    pub(super) tried: &'a [usize],
}

impl Roster {
    /// All servers up and without connections.
    pub(super) fn new(settings: &config::Backend) -> Self {
        let entries: Box<[Entry]> = settings.servers.iter().map(Entry::new).collect();
        let balancer = Balancer::new(settings.balance, eligible(entries.iter().map(Entry::standing)), 0);
        Self {
            balance: settings.balance,
            entries,
            balancer: ArcSwap::from_pointee(balancer),
            changing: Mutex::new(()),
        }
    }

    /// The balancer of this moment.
    pub(super) fn balancer(&self) -> Guard<Arc<Balancer>> {
        self.balancer.load()
    }

    /// The state of a server.
    pub(super) fn state(&self, index: usize) -> ServerState {
        self.entries[index].state()
    }

    /// Open connections of a server.
    pub(super) fn active(&self, index: usize) -> u32 {
        self.entries[index].active.load(Ordering::Relaxed)
    }

    /// Changes the state of a server and returns the old one, which `note` gets while no other change can come between.
    pub(super) fn set_state(
        &self,
        index: usize,
        state: ServerState,
        note: impl FnOnce(ServerState),
    ) -> ServerState {
        // What it guards cannot be left half done, so a panic elsewhere is no reason to stop.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = &self.entries[index];
        let old = entry.state();
        if old != state {
            entry.state.store(state.index() as u8, Ordering::Relaxed);
            let members = eligible(self.entries.iter().map(Entry::standing));
            let turn = self.balancer.load().turn();
            self.balancer.store(Arc::new(Balancer::new(self.balance, members, turn)));
        }
        note(old);
        old
    }

    /// Gives back a place that was taken.
    pub(super) fn give_back(&self, index: usize) {
        self.entries[index].active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Entry {
    fn new(server: &config::Server) -> Self {
        Self {
            active: AtomicU32::new(0),
            limit: server.max_connections.map_or(u32::MAX, NonZeroU32::get),
            weight: server.weight,
            is_backup: server.is_backup,
            state: AtomicU8::new(ServerState::Up.index() as u8),
        }
    }

    fn state(&self) -> ServerState {
        ServerState::ALL[usize::from(self.state.load(Ordering::Relaxed))]
    }

    fn standing(&self) -> Standing {
        Standing { weight: self.weight, is_backup: self.is_backup, state: self.state() }
    }
}

impl Candidates<'_> {
    /// The server's entry, unless it is to be left out.
    fn entry(&self, index: usize) -> Option<&Entry> {
        if self.tried.contains(&index) { None } else { Some(&self.roster.entries[index]) }
    }
}

impl Places for Candidates<'_> {
    fn load(&self, index: usize) -> Option<u32> {
        let entry = self.entry(index)?;
        let active = entry.active.load(Ordering::Relaxed);
        (active < entry.limit).then_some(active)
    }

    fn take(&self, index: usize) -> bool {
        let Some(entry) = self.entry(index) else { return false };
        // Comparing and swapping makes the limit hard: no two threads take the last place.
        let one_more = |active| if active < entry.limit { Some(active + 1) } else { None };
        entry.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    fn take_at(&self, index: usize, load: u32) -> bool {
        let Some(entry) = self.entry(index).filter(|entry| load < entry.limit) else { return false };
        entry.active.compare_exchange(load, load + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
