// SPDX-License-Identifier: MIT OR Apache-2.0
//! One server, and one connection's place on it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lb_common::reason::{CloseReason, ServerState};
use tokio::sync::Notify;

use super::roster::{Entry, Roster};
use super::slow_start::WARM_PERCENT;
use crate::balance::{Standing, identity};
use crate::config;
use crate::health::Vitals;
use crate::observe::metrics::ServerMetrics;

/// One address that an entry of the configuration stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the server is.
    pub address: SocketAddr,
    /// Its share: 0 to 256, as [`config::Server::weight`].
    pub weight: u16,
    /// Whether it stands in only while no other server takes connections.
    pub is_backup: bool,
}

/// A server while running: one address. An entry of the configuration may stand for several, which then share its counters.
#[derive(Debug)]
pub struct Server {
    /// Its configuration.
    pub settings: Arc<config::Server>,
    /// Where it is.
    pub address: SocketAddr,
    /// The counters of its entry in the configuration.
    pub metrics: ServerMetrics,
    /// What its checks and traffic say of it.
    pub vitals: Vitals,
    entry: usize,
    id: usize,
    /// Connections that hold a place.
    active: AtomicU32,
    /// The same for all servers of the backend together.
    active_of_all: Arc<AtomicU64>,
    /// Most that may.
    limit: u32,
    /// [`crate::balance::identity`]
    identity: u64,
    /// [`ServerState::index`]
    state: AtomicU8,
    weight: AtomicU16,
    is_backup: AtomicBool,
    /// Percent of weight and limit that count.
    warmth: AtomicU8,
    /// Whether the backend no longer has it.
    is_gone: AtomicBool,
    /// Told when its sessions must end.
    cut: Notify,
    roster: Weak<Roster>,
    /// Whether the balancer wants to know of places that are given back.
    is_followed: bool,
}

/// One connection's place on a server. Dropping it gives the place back.
#[derive(Debug)]
pub struct ServerSlot {
    server: Arc<Server>,
}

impl Server {
    /// A server that is up and without connections.
    pub(super) fn new(entry: &Entry, endpoint: &Endpoint, id: usize, roster: &Arc<Roster>) -> Self {
        Self {
            settings: Arc::clone(&entry.settings),
            address: endpoint.address,
            metrics: entry.metrics.clone(),
            vitals: Vitals::default(),
            entry: entry.position,
            id,
            active: AtomicU32::new(0),
            active_of_all: Arc::clone(&roster.active),
            limit: entry.settings.max_connections.map_or(u32::MAX, NonZeroU32::get),
            // An entry that stands for one server is known by its name alone, wherever that server is.
            identity: identity(
                &entry.settings.name,
                Some(endpoint.address).filter(|address| entry.settings.address.ip() != Some(*address)),
            ),
            state: AtomicU8::new(ServerState::Up.index() as u8),
            weight: AtomicU16::new(endpoint.weight),
            is_backup: AtomicBool::new(endpoint.is_backup),
            warmth: AtomicU8::new(WARM_PERCENT),
            is_gone: AtomicBool::new(false),
            cut: Notify::new(),
            is_followed: roster.follows_loads(),
            roster: Arc::downgrade(roster),
        }
    }

    /// Whether it takes connections.
    pub fn state(&self) -> ServerState {
        ServerState::ALL[usize::from(self.state.load(Ordering::Relaxed))]
    }

    /// Connections that hold a place now.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Its share: 0 to 256.
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Whether it stands in only while no other server takes connections.
    pub fn is_backup(&self) -> bool {
        self.is_backup.load(Ordering::Relaxed)
    }

    /// The position of its entry in [`config::Backend::servers`].
    pub fn entry(&self) -> usize {
        self.entry
    }

    /// Its number in the backend, which no other server ever has. Servers that the configuration gives an address have the numbers
    /// from 0 in its order.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Makes it take connections, or take none; open connections stay. Picks that begin after the return leave it out if it is down.
    /// If it is up they may take it, but among more than 256 servers perhaps not before some tens of milliseconds have passed, unless
    /// there is no other. Returns the state that it was in.
    pub fn set_state(&self, state: ServerState) -> ServerState {
        match self.roster.upgrade() {
            Some(roster) => roster.set_state(self, state),
            // Its backend is gone.
            None => self.exchange_state(state),
        }
    }

    /// Whether its sessions may have to end before their time; else [`Self::cut`] never returns.
    pub fn may_be_cut(&self) -> bool {
        let backups_may = |roster: Arc<Roster>| roster.may_cut_backups();
        self.settings.shutdown_on_marked_down
            || self.is_backup() && self.roster.upgrade().is_some_and(backups_may)
    }

    /// Waits until its sessions must end, and says why.
    pub async fn cut(&self) -> CloseReason {
        loop {
            let told = self.cut.notified();
            // `notified` counts from its creation on for notify_waiters, so that nothing is missed in between.
            if let Some(reason) = self.cut_reason() {
                return reason;
            }
            told.await;
        }
    }

    fn cut_reason(&self) -> Option<CloseReason> {
        self.cut_reason_if(|| self.roster.upgrade().is_some_and(|roster| roster.has_relief()))
    }

    fn cut_reason_if(&self, has_relief: impl FnOnce() -> bool) -> Option<CloseReason> {
        // Nobody checks a server that has left, so that nobody would mark it down.
        let is_gone = || self.state() == ServerState::Down || self.is_gone.load(Ordering::Relaxed);
        if self.settings.shutdown_on_marked_down && is_gone() {
            return Some(CloseReason::ServerDown);
        }
        (self.is_backup() && has_relief()).then_some(CloseReason::ActiveServerUp)
    }

    /// Ends its sessions if they must end; those of others sleep on. `has_relief`: what [`Roster::has_relief`] says.
    pub(super) fn reconsider_sessions(&self, has_relief: bool) {
        if self.cut_reason_if(|| has_relief).is_some() {
            self.cut.notify_waiters();
        }
    }

    /// Whether it takes connections and ends the sessions of backups then. One of weight 0 is no relief (as with HAProxy): backups
    /// stand in for it.
    pub(super) fn relieves_backups(&self) -> bool {
        let settings = &self.settings;
        settings.shutdown_backups_on_marked_up
            && !self.is_backup()
            && self.weight() > 0
            && self.state() == ServerState::Up
    }

    /// Writes down a state, and returns the one before.
    pub(super) fn exchange_state(&self, state: ServerState) -> ServerState {
        let old = ServerState::ALL[usize::from(self.state.swap(state.index() as u8, Ordering::Relaxed))];
        if old != state {
            self.vitals.note_change();
        }
        old
    }

    /// Whether it may get connections, if it is not full.
    pub(super) fn is_usable(&self) -> bool {
        self.state() == ServerState::Up && self.weight() > 0 && !self.is_gone.load(Ordering::Relaxed)
    }

    /// Lets it get no more connections, because the backend no longer has it, and ends its sessions if `on-marked-down` says so.
    /// Its state stays as it is.
    pub(super) fn leave(&self) {
        self.is_gone.store(true, Ordering::Relaxed);
        self.reconsider_sessions(false);
    }

    /// Lets it get connections again, because the backend has it again. Its state is what it was.
    pub(super) fn come_back(&self, endpoint: &Endpoint) {
        self.exchange_role(endpoint);
        self.is_gone.store(false, Ordering::Relaxed);
    }

    /// Writes down weight and role, and says whether that changes anything.
    pub(super) fn exchange_role(&self, endpoint: &Endpoint) -> bool {
        let weight = self.weight.swap(endpoint.weight, Ordering::Relaxed);
        let is_backup = self.is_backup.swap(endpoint.is_backup, Ordering::Relaxed);
        (weight, is_backup) != (endpoint.weight, endpoint.is_backup)
    }

    /// Percent of weight and limit that count, 1 to 100.
    pub(super) fn warmth(&self) -> u8 {
        self.warmth.load(Ordering::Relaxed)
    }

    /// Lets so many percent of weight and limit count.
    pub(super) fn set_warmth(&self, percent: u8) {
        self.warmth.store(percent, Ordering::Relaxed);
    }

    /// Most connections that may hold a place at this moment; `u32::MAX` for no limit.
    pub(super) fn limit_now(&self) -> u32 {
        let warmth = self.warmth();
        if warmth == WARM_PERCENT || self.limit == u32::MAX {
            return self.limit;
        }
        let limit = u64::from(self.limit) * u64::from(warmth) / u64::from(WARM_PERCENT);
        u32::try_from(limit).unwrap_or(u32::MAX).max(1)
    }

    /// What decides whether it takes part in the choice, with its weight multiplied.
    pub(super) fn standing(&self, times: u16) -> Standing {
        Standing {
            weight: self.weight().saturating_mul(times),
            is_backup: self.is_backup(),
            state: self.state(),
            identity: self.identity,
        }
    }

    /// Takes a place, if there is one.
    pub(super) fn take(&self) -> bool {
        // Comparing and swapping makes the limit hard: no two threads take the last place.
        let limit = self.limit_now();
        let one_more = |active| if active < limit { Some(active + 1) } else { None };
        self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Takes a place while there are `load` connections, if that leaves one.
    pub(super) fn take_at(&self, load: u32) -> bool {
        load < self.limit_now()
            && self.active.compare_exchange(load, load + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl ServerSlot {
    /// The slot for a place that was taken.
    pub(super) fn of_taken(server: Arc<Server>) -> Self {
        server.metrics.active.inc();
        server.active_of_all.fetch_add(1, Ordering::Relaxed);
        Self { server }
    }

    /// A place for a connection that another agent has given one, whether or not there is room.
    pub fn kept(server: Arc<Server>) -> Self {
        server.active.fetch_add(1, Ordering::Relaxed);
        if server.is_followed
            && let Some(roster) = server.roster.upgrade()
        {
            roster.note_kept(&server);
        }
        Self::of_taken(server)
    }

    /// The server that the place is on.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Drop for ServerSlot {
    fn drop(&mut self) {
        let server = &self.server;
        server.active.fetch_sub(1, Ordering::Relaxed);
        server.metrics.active.dec();
        server.active_of_all.fetch_sub(1, Ordering::Relaxed);
        // Nobody waits for a server that is never full.
        if (server.is_followed || server.limit != u32::MAX)
            && let Some(roster) = server.roster.upgrade()
        {
            roster.note_given_back(server);
        }
    }
}
