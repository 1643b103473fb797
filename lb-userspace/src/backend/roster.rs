// SPDX-License-Identifier: MIT OR Apache-2.0
//! The servers of a backend, which may come and go, and the choice among those that are eligible.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use lb_common::reason::ServerState;
use tokio::sync::{Notify, watch};

use super::NoServer;
use super::choice::{Choice, Plan};
use super::departed::Departed;
use super::queue::Queue;
use super::rebuild::Lag;
use super::server::{Endpoint, Server};
use super::slow_start::Warming;
use crate::config;
use crate::observe::metrics::ServerMetrics;

/// The servers of one backend.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) own: Weak<Self>,
    pub(super) plan: Plan,
    /// Whether a server may come up that ends the sessions of backups.
    may_cut_backups: bool,
    group: ArcSwap<Group>,
    /// Held while states, servers and the choice change.
    changing: Mutex<Changing>,
    /// How many servers are up.
    up: AtomicUsize,
    /// Connections that hold a place on a server; each server counts in it.
    pub(super) active: Arc<AtomicU64>,
    /// Told when a server begins to take its share slowly.
    pub(super) has_warming: Notify,
    /// Counts changes of the set of servers.
    generation: watch::Sender<u64>,
    /// Who waits for one of the servers.
    pub(super) queue: Queue,
}

/// What only those need who change something.
#[derive(Debug, Default)]
pub(super) struct Changing {
    /// The id of the next server that comes.
    next_id: usize,
    /// Servers that have left and may come back.
    departed: Departed,
    /// Servers whose share grows.
    pub(super) warming: Vec<Warming>,
    /// How far the choice is behind.
    pub(super) lag: Lag,
}

/// The servers of one moment.
#[derive(Debug)]
pub(super) struct Group {
    /// In the order of the configuration, and of addresses where an entry stands for several.
    pub(super) servers: Arc<[Arc<Server>]>,
    /// Among those that are eligible, or were a moment ago: see [`super::rebuild`].
    pub(super) choice: Arc<Choice>,
}

/// One entry of the configuration with what its servers have in common.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its position in the configuration.
    pub(super) position: usize,
    /// What it says.
    pub(super) settings: Arc<config::Server>,
    /// The counters of all its servers.
    pub(super) metrics: ServerMetrics,
}

impl Roster {
    /// Without servers.
    pub(super) fn new(settings: &config::Backend, queue: Queue) -> Arc<Self> {
        let plan = Plan::new(settings);
        // Whether or not one is there now: its name may lead somewhere later.
        let may_cut_backups = settings.servers.iter().any(|server| server.shutdown_backups_on_marked_up);
        let servers = Arc::default();
        let choice = Arc::new(Choice::new(plan, &servers));
        Arc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            plan,
            may_cut_backups,
            group: ArcSwap::from_pointee(Group { servers, choice }),
            changing: Mutex::default(),
            up: AtomicUsize::new(0),
            active: Arc::default(),
            has_warming: Notify::new(),
            generation: watch::Sender::new(0),
            queue,
        })
    }

    /// Servers and choice of this moment.
    pub(super) fn group(&self) -> Guard<Arc<Group>> {
        self.group.load()
    }

    /// Takes a place on a server; see [`super::Backend::pick`].
    pub(super) fn pick(&self, key: u64, tried: &[usize]) -> Result<Arc<Server>, NoServer> {
        loop {
            let group = self.group();
            let picked = self.pick_by(&group.choice, key, tried);
            let is_outdated =
                || !group.choice.has_usable() || !Arc::ptr_eq(&group.choice, &self.group().choice);
            if !matches!(picked, Err(NoServer::AllFull)) || !is_outdated() {
                return picked;
            }
            // The last of its servers has just gone down. Whoever saw to that holds the lock until there is another choice.
            drop(group);
            drop(self.lock());
        }
    }

    fn pick_by(&self, choice: &Arc<Choice>, key: u64, tried: &[usize]) -> Result<Arc<Server>, NoServer> {
        let server = choice.pick(key, tried)?;
        if self.follows_loads() {
            self.settle_elsewhere(choice, &server);
        }
        Ok(server)
    }

    /// Whether [`Self::note_given_back`] is due for every server, and not only for those with a limit.
    pub(super) fn follows_loads(&self) -> bool {
        self.plan.balance.follows_loads()
    }

    /// Lets the balancer know that a place on a server was given back, and those who wait for one.
    pub(super) fn note_given_back(&self, server: &Server) {
        if self.follows_loads() {
            self.group().choice.settle(server);
        }
        self.pass_on();
    }

    /// Lets the balancer know that a place was taken that it did not choose.
    pub(super) fn note_kept(&self, server: &Server) {
        self.group().choice.settle(server);
    }

    /// Tells the balancer of a place that was taken, if it is no longer the one that chose it. It may have been made before.
    fn settle_elsewhere(&self, chooser: &Arc<Choice>, server: &Server) {
        let group = self.group();
        if !Arc::ptr_eq(chooser, &group.choice) {
            group.choice.settle(server);
        }
    }

    /// Tells when servers come or go.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Gives each of the entries the servers at these addresses: those that it has at others leave, new ones come.
    pub(super) fn set_endpoints(self: &Arc<Self>, changes: &[(&Entry, &[Endpoint])]) {
        let mut changing = self.lock();
        let before = Arc::clone(&self.group().servers);
        let wanted: BTreeMap<usize, HashMap<SocketAddr, &Endpoint>> = (changes.iter())
            .map(|(entry, ends)| (entry.position, ends.iter().map(|end| (end.address, end)).collect()))
            .collect();
        let (mut servers, mut gone) = (Vec::new(), Vec::new());
        let mut is_reweighted = false;
        for server in before.iter() {
            let endpoint = wanted.get(&server.entry()).map(|endpoints| endpoints.get(&server.address));
            let is_kept = endpoint.is_none_or(|endpoint| endpoint.is_some());
            if is_kept { &mut servers } else { &mut gone }.push(Arc::clone(server));
            is_reweighted |= endpoint.flatten().is_some_and(|endpoint| server.exchange_role(endpoint));
        }
        let mut known: HashSet<_> = servers.iter().map(|server| (server.entry(), server.address)).collect();
        for (entry, endpoints) in changes {
            for endpoint in endpoints.iter().filter(|end| known.insert((entry.position, end.address))) {
                let endpoint = wanted[&entry.position][&endpoint.address];
                servers.push(self.arrive(&mut changing, entry, endpoint));
            }
        }
        let is_same = gone.is_empty() && servers.len() == before.len();
        if is_same && !is_reweighted {
            return;
        }
        servers.sort_by_key(|server| (server.entry(), server.id()));
        let now = Instant::now();
        for server in &gone {
            server.leave();
            changing.departed.note(server, now);
            self.group().choice.settle(server);
        }
        changing.departed.forget(now);
        self.replace(&mut changing, if is_same { before } else { servers.into() });
        for (entry, _) in changes {
            self.show_state(entry.position, &entry.metrics);
        }
        if !is_same {
            self.generation.send_modify(|generation| *generation += 1);
        }
        drop(changing);
        self.serve_queue();
        // One that has come, or is no backup any more, may be a relief.
        self.reconsider_backups();
    }

    /// The server for an address that an entry did not have: a new one, or the one that it was before.
    fn arrive(self: &Arc<Self>, changing: &mut Changing, entry: &Entry, endpoint: &Endpoint) -> Arc<Server> {
        if let Some(server) = changing.departed.take(entry.position, endpoint.address) {
            server.come_back(endpoint);
            return server;
        }
        changing.next_id += 1;
        Arc::new(Server::new(entry, endpoint, changing.next_id - 1, self))
    }

    /// Changes the state of a server and returns the old one.
    pub(super) fn set_state(&self, server: &Server, state: ServerState) -> ServerState {
        let mut changing = self.lock();
        let old = server.exchange_state(state);
        if old != state {
            self.note_warming(&mut changing, server, state);
            // Until there is another choice, this one passes over the server, or no longer.
            self.group().choice.settle(server);
            self.follow(&mut changing);
            self.count_up(server, state);
            server.metrics.state_changes.inc();
        }
        self.show_state(server.entry(), &server.metrics);
        drop(changing);
        self.serve_queue();
        if old != state {
            let has_relief = self.may_cut_backups && self.has_relief();
            server.reconsider_sessions(has_relief);
            if server.relieves_backups() {
                self.reconsider_backups();
            }
        }
        old
    }

    /// Ends the sessions of backups that have to end.
    fn reconsider_backups(&self) {
        let (servers, has_relief) = (Arc::clone(&self.group().servers), self.has_relief());
        let backups = servers.iter().filter(|server| server.is_backup());
        backups.for_each(|server| server.reconsider_sessions(has_relief));
    }

    /// How many servers are up.
    pub(super) fn up(&self) -> usize {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether a server may come up that ends the sessions of backups.
    pub(super) fn may_cut_backups(&self) -> bool {
        self.may_cut_backups
    }

    /// Whether such a server is up.
    pub(super) fn has_relief(&self) -> bool {
        self.group().servers.iter().any(|server| server.relieves_backups())
    }

    /// Lets go of all servers, which know the roster.
    pub(super) fn clear(&self) {
        let mut changing = self.lock();
        changing.departed = Departed::default();
        self.replace(&mut changing, Arc::default());
    }

    /// A server that has come back takes its share slowly, if it is configured so.
    fn note_warming(&self, changing: &mut Changing, server: &Server, state: ServerState) {
        changing.warming.retain(|warming| !warming.is_of(server));
        let group = self.group();
        let back = group.find(server).filter(|_| state == ServerState::Up);
        if let Some(warming) = back.and_then(|server| Warming::begin(Arc::clone(server))) {
            changing.warming.push(warming);
            self.has_warming.notify_one();
        }
    }

    /// Counts a server that has changed its state, unless it has gone.
    fn count_up(&self, server: &Server, state: ServerState) {
        if self.group().find(server).is_some() {
            match state {
                ServerState::Up => self.up.fetch_add(1, Ordering::Relaxed),
                ServerState::Down => self.up.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }

    /// Waits until nobody else changes anything.
    pub(super) fn lock(&self) -> MutexGuard<'_, Changing> {
        // What it guards cannot be left half done, so a panic elsewhere is no reason to stop.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the choice go by other weights and limits. Tables that keep clients on their servers know neither.
    pub(super) fn refresh_shares(&self, changing: &mut Changing) {
        if !self.plan.balance.keeps_clients() {
            self.follow(changing);
        }
    }

    fn replace(&self, changing: &mut Changing, servers: Arc<[Arc<Server>]>) {
        let up = servers.iter().filter(|server| server.state() == ServerState::Up).count();
        self.up.store(up, Ordering::Relaxed);
        let choice = Arc::clone(&self.group().choice);
        self.put(Group { servers, choice });
        self.follow(changing);
    }

    /// Lets picks go by another group.
    pub(super) fn put(&self, group: Group) {
        self.group.store(Arc::new(group));
    }

    /// An entry of the configuration is up while one of its servers is.
    fn show_state(&self, entry: usize, metrics: &ServerMetrics) {
        let group = self.group();
        let own = group.of_entry(entry);
        metrics.addresses.set(own.len() as i64);
        metrics.up.set(i64::from(own.iter().any(|server| server.state() == ServerState::Up)));
    }
}

impl Group {
    /// The servers of an entry of the configuration.
    fn of_entry(&self, entry: usize) -> &[Arc<Server>] {
        let start = self.servers.partition_point(|server| server.entry() < entry);
        let end = self.servers.partition_point(|server| server.entry() <= entry);
        &self.servers[start..end]
    }

    /// A server, unless it has gone.
    fn find(&self, server: &Server) -> Option<&Arc<Server>> {
        let own = self.of_entry(server.entry());
        own.binary_search_by_key(&server.id(), |other| other.id()).ok().map(|position| &own[position])
    }
}
