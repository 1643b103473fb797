// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes that share a name, and the choice among them by ALPN.

use std::collections::HashMap;

use crate::config::{BackendId, Route};
use crate::prelude::hello::AlpnList;

/// Every set of routes that some name belongs to. Names with the same routes share a set.
#[derive(Debug)]
pub(super) struct RouteSets {
    routes: Vec<Target>,
    /// Positions of routes, in the order of the file.
    sets: Vec<Box<[usize]>>,
    /// The set that another set and a further route make.
    extended: HashMap<Extension, SetId>,
    /// The last of them that was asked for: the names of a route come one after the other.
    last: Option<(Extension, SetId)>,
}

/// A set, or none, and a route behind it.
type Extension = (Option<SetId>, usize);

/// The position of a set in [`RouteSets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetId(u32);

/// What a route demands and where it leads.
#[derive(Debug)]
struct Target {
    backend: BackendId,
    /// Empty: no condition.
    alpn: Box<[String]>,
}

impl RouteSets {
    /// The routes of a frontend, no sets yet.
    pub(super) fn new(routes: &[Route]) -> Self {
        let target = |route: &Route| Target { backend: route.backend, alpn: route.alpn.clone().into() };
        let routes = routes.iter().map(target).collect();
        Self { routes, sets: Vec::new(), extended: HashMap::new(), last: None }
    }

    /// The set of the routes in `set` and a route behind them.
    pub(super) fn extend(&mut self, set: Option<SetId>, route: usize) -> SetId {
        let Self { sets, extended, last, .. } = self;
        if let Some((_, known)) = last.filter(|(extension, _)| *extension == (set, route)) {
            return known;
        }
        let extended = *extended.entry((set, route)).or_insert_with(|| {
            let before = set.map_or(&[][..], |SetId(set)| &sets[set as usize]);
            // A name that stands twice in a route is in its set once.
            let more = Some(route).filter(|route| !before.contains(route));
            let longer = before.iter().copied().chain(more).collect();
            sets.push(longer);
            SetId(u32::try_from(sets.len() - 1).expect("memory ends before there are 2^32 sets"))
        });
        *last = Some(((set, route), extended));
        extended
    }

    /// The route of a set that takes a client: the first whose ALPN condition holds, or else the first without one.
    pub(super) fn choose(&self, SetId(set): SetId, alpn: &AlpnList) -> Option<(usize, BackendId)> {
        let routes = || self.sets[set as usize].iter().map(|&route| (route, &self.routes[route]));
        let asked_for = |target: &Target| target.alpn.iter().any(|name| alpn.contains(name.as_bytes()));
        routes()
            .find(|(_, target)| asked_for(target))
            .or_else(|| routes().find(|(_, target)| target.alpn.is_empty()))
            .map(|(route, target)| (route, target.backend))
    }
}

impl SetId {
    pub(super) fn to_bytes(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }
}
