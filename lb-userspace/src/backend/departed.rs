// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that a name no longer leads to, in case it leads to them again: DNS may answer with some of many addresses in turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::Server;

/// How long a server without connections is remembered: twice the longest time between two answers, unless it is configured.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Most servers without connections that are remembered.
const REMEMBERED_MAX: usize = 1_024;

/// The servers that have left, by entry and address, with the moment at which they did. As long as one has connections it must come
/// back as itself, or its `max-connections` would count anew.
#[derive(Debug, Default)]
pub(super) struct Departed(BTreeMap<(usize, SocketAddr), (Arc<Server>, Instant)>);

impl Departed {
    /// Remembers a server that leaves at this moment.
    pub(super) fn note(&mut self, server: &Arc<Server>, now: Instant) {
        self.0.insert((server.entry(), server.address), (Arc::clone(server), now));
    }

    /// The server of an entry that was at this address, if it is remembered.
    pub(super) fn take(&mut self, entry: usize, address: SocketAddr) -> Option<Arc<Server>> {
        self.0.remove(&(entry, address)).map(|(server, _)| server)
    }

    /// Forgets those without connections that have left long ago, and of too many the first to have left.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_idle = |server: &Server| server.active() == 0;
        self.0.retain(|_, (server, since)| !is_idle(server) || now.duration_since(*since) < REMEMBERED);
        if self.0.len() <= REMEMBERED_MAX {
            return;
        }
        let idle = self.0.iter().filter(|(_, (server, _))| is_idle(server));
        let mut idle: Vec<_> = idle.map(|(key, (_, since))| (*since, *key)).collect();
        idle.sort_unstable();
        for (_, key) in &idle[..idle.len().saturating_sub(REMEMBERED_MAX)] {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn who_has_connections_is_remembered_and_others_for_a_while() {
        let backend = testing::backend(testing::settings(vec![testing::server("a", 1, 0)]));
        let at = |number: u16| SocketAddr::from(([127, 0, 0, 1], number));
        let addresses: Vec<_> = (1..1_100).map(at).collect();
        backend.set_addresses(0, &addresses);
        let held = backend.pick(0, &[]).unwrap();
        let (mut departed, begun) = (Departed::default(), Instant::now());
        for (number, server) in backend.servers().iter().enumerate() {
            departed.note(server, begun + Duration::from_millis(number as u64));
        }
        departed.forget(begun + Duration::from_secs(2));
        assert_eq!(departed.0.len(), REMEMBERED_MAX + 1);
        assert!(departed.0.contains_key(&(0, at(1_099))) && !departed.0.contains_key(&(0, at(9))));
        departed.forget(begun + REMEMBERED + Duration::from_secs(2));
        assert_eq!(departed.0.len(), 1);
        assert!(departed.take(0, held.server().address).is_some_and(|it| Arc::ptr_eq(&it, held.server())));
        assert!(departed.take(0, held.server().address).is_none());
    }
}
