// SPDX-License-Identifier: MIT OR Apache-2.0
//! When the choice among servers is made anew: at once where that is quick, and else by a thread of its own, once for all changes
//! that come while it is at it.
//!
//! A table over ten thousand servers takes some tens of milliseconds. If as many servers fail together, whoever checks them must not
//! wait that long for each. So the choice may lag behind the states, but never in what matters: servers that are down or gone are
//! passed over at once, and if that leaves none, or backups have to make way, the choice is made before anybody goes on.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::choice::Choice;
use super::roster::{Changing, Group, Roster};

/// Most servers of a backend whose choice is made at once with every change: that takes a few milliseconds at most.
pub(super) const PROMPT_MAX: usize = 256;

/// How far the choice is behind.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// Counts changes of what the choice goes by.
    wanted: u64,
    /// The change up to which it was made.
    made: u64,
    /// Whether a thread is at it, which looks at these numbers before it ends.
    is_running: bool,
}

impl Roster {
    /// Lets the choice follow a change of servers, states or weights, which must have been made under the same lock.
    pub(super) fn follow(&self, changing: &mut Changing) {
        changing.lag.wanted += 1;
        if self.may_lag(&self.group()) && (changing.lag.is_running || self.start()) {
            changing.lag.is_running = true;
            return;
        }
        self.make_now(changing);
    }

    /// Makes the choice that follows every change so far. Picks that cannot go on without it wait for the lock.
    fn make_now(&self, changing: &mut Changing) {
        let group = self.group();
        let choice = group.choice.renewed(self.plan, &group.servers);
        let wanted = changing.lag.wanted;
        self.install(changing, &choice, wanted);
        // Loads that changed before the balancer could be told are looked at again. Whoever changes one from here on tells it.
        choice.settle_all();
    }

    /// Whether the choice follows every change so far.
    pub(super) fn is_settled(&self) -> bool {
        let lag = &self.lock().lag;
        lag.made == lag.wanted
    }

    /// Whether picks may go on with the choice that there is, until a better one is made.
    fn may_lag(&self, group: &Group) -> bool {
        let must_leave_backups = || {
            let takes_over = |server: &super::Server| !server.is_backup() && server.is_usable();
            group.choice.is_of_backups() && group.servers.iter().any(|server| takes_over(server))
        };
        group.servers.len() > PROMPT_MAX && group.choice.has_usable() && !must_leave_backups()
    }

    /// Starts the thread. False if that is impossible.
    fn start(&self) -> bool {
        let Some(roster) = self.own.upgrade() else { return false };
        let thread = thread::Builder::new().name("lb-tables".into()).spawn(move || roster.catch_up());
        if let Err(error) = &thread {
            warn!(%error, "no thread for a backend's table; it is made by the one that checks servers");
        }
        thread.is_ok()
    }

    /// Makes choices until there is no newer change.
    fn catch_up(self: Arc<Self>) {
        // Before a second choice there is no rest: the first was made when a burst had just begun.
        let mut rest = Duration::ZERO;
        loop {
            let begun = Instant::now();
            let mut changing = self.lock();
            if changing.lag.made == changing.lag.wanted {
                changing.lag.is_running = false;
                return;
            }
            let (wanted, group) = (changing.lag.wanted, Arc::clone(&self.group()));
            drop(changing);
            // What changes meanwhile it may have or not have: it is made once more.
            let choice = group.choice.renewed(self.plan, &group.servers);
            drop(group);
            let is_last = self.adopt(&choice, wanted);
            choice.settle_all();
            self.serve_queue();
            if !is_last {
                // While changes keep coming, traffic has the core at least half of the time.
                thread::sleep(rest);
            }
            rest = begun.elapsed().saturating_sub(rest);
        }
    }

    /// Puts a choice in place that was made after so many changes. If those that came meanwhile have left nobody in it who takes
    /// connections, nobody can go on with it, nor could anybody know how long to wait: then the next one is made before the lock is
    /// given back. Returns whether there are no more changes.
    fn adopt(&self, choice: &Arc<Choice>, wanted: u64) -> bool {
        let mut changing = self.lock();
        let is_last = self.install(&mut changing, choice, wanted);
        if is_last || self.may_lag(&self.group()) {
            return is_last;
        }
        self.make_now(&mut changing);
        true
    }

    /// Puts a choice in place that was made after so many changes, unless there is a newer one. Returns whether there were no more.
    fn install(&self, changing: &mut Changing, choice: &Arc<Choice>, wanted: u64) -> bool {
        let lag = &mut changing.lag;
        if lag.made < wanted {
            lag.made = wanted;
            let group = self.group();
            if !Arc::ptr_eq(choice, &group.choice) {
                choice.resume(&group.choice);
                self.put(Group { servers: Arc::clone(&group.servers), choice: Arc::clone(choice) });
            }
        }
        lag.made == lag.wanted
    }
}

#[cfg(test)]
mod tests {
    use lb_common::reason::ServerState::{Down, Up};

    use super::super::testing;
    use super::*;
    use crate::config::{self, Balance};

    /// While a table was made, the only server that it knows has gone down and another one, which the table before knows, has come
    /// up: picks would find neither, again and again.
    #[test]
    fn a_choice_that_came_too_late_is_not_what_picks_go_by() {
        let servers = (0..=PROMPT_MAX).map(|number| testing::server(&number.to_string(), 1, 0)).collect();
        let balance = Balance::Source { bound: None };
        let backend = testing::backend(config::Backend { balance, ..testing::settings(servers) });
        let (roster, servers) = (&backend.roster, backend.servers());
        // As if the thread were at it.
        roster.lock().lag.is_running = true;
        servers[2..].iter().chain([&servers[0]]).for_each(|server| _ = server.set_state(Down));
        let (late, wanted) = (roster.group().choice.renewed(roster.plan, &servers), roster.lock().lag.wanted);
        servers[0].set_state(Up);
        servers[1].set_state(Down);
        roster.adopt(&late, wanted);
        assert!(roster.group().choice.has_usable());
        assert_eq!(backend.pick(0, &[]).map(|slot| slot.server().id()), Ok(0));
    }
}
