// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a name to a backend: exact over longest wildcard over regular expression over default. Pure.
//!
//! A route with an ALPN condition matches only a client that offers one of its protocols. Where that fails, the search goes on as
//! if the route were not there. Names and wildcards cost one hash look-up each, however many there are.

use crate::config::{BackendId, NamePattern, Route, TlsPassthrough};
use crate::prelude::hello::AlpnList;

pub mod coalescing;
mod names;
mod patterns;
mod sets;

use names::NameTable;
use patterns::Patterns;
use sets::{RouteSets, SetId};

/// The routes of one frontend, indexed for lookup.
#[derive(Debug)]
pub struct Router {
    sets: RouteSets,
    exact: NameTable,
    /// The suffixes with their leading dot.
    wildcards: NameTable,
    /// The most labels of any suffix, so that a client's name of a hundred labels costs no hundred look-ups.
    wildcard_labels_max: usize,
    patterns: Patterns,
    /// The routes without names.
    default: Option<SetId>,
}

/// Which route a connection takes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Where it goes.
    pub backend: BackendId,
    /// The position of the route in [`TlsPassthrough::routes`].
    pub route: usize,
    /// What of the route it was.
    pub kind: MatchKind,
}

/// What of a route matched, the more specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchKind {
    /// The name as written.
    Exact,
    /// A wildcard, and no longer one.
    Wildcard,
    /// A regular expression.
    Regex,
    /// The route has no names: its ALPN condition alone.
    Default,
}

impl MatchKind {
    /// The word for it in what people read.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcard => "wildcard",
            Self::Regex => "regex",
            Self::Default => "default",
        }
    }
}

impl std::fmt::Display for MatchKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

impl Router {
    /// Indexes the routes of a frontend.
    pub fn new(settings: &TlsPassthrough) -> Self {
        let routes = &settings.routes;
        let mut router = Self {
            sets: RouteSets::new(routes),
            exact: NameTable::with_capacity(texts(routes, exact)),
            wildcards: NameTable::with_capacity(texts(routes, wildcard)),
            wildcard_labels_max: texts(routes, wildcard).map(labels).max().unwrap_or(0),
            patterns: Patterns::default(),
            default: None,
        };
        for (position, route) in routes.iter().enumerate() {
            if route.names.is_empty() {
                router.default = Some(router.sets.extend(router.default, position));
            }
            for pattern in &route.names {
                router.add(pattern, position);
            }
        }
        router.patterns.compile();
        router
    }

    fn add(&mut self, pattern: &NamePattern, route: usize) {
        let Self { sets, exact, wildcards, patterns, .. } = self;
        match pattern {
            NamePattern::Exact(name) => exact.update(name, |set| sets.extend(set, route)),
            NamePattern::Wildcard(suffix) => wildcards.update(suffix, |set| sets.extend(set, route)),
            NamePattern::Regex(regex) => patterns.update(regex, |set| sets.extend(set, route)),
        }
    }

    /// The route for a name (lower case, no trailing dot) and the protocols offered; `None` if no route matches.
    ///
    /// Allocates nothing unless a regular expression matches.
    pub fn route(&self, name: Option<&str>, alpn: &AlpnList) -> Option<Matched> {
        name.and_then(|name| {
            self.exact(name, alpn).or_else(|| self.wildcard(name, alpn)).or_else(|| self.pattern(name, alpn))
        })
        .or_else(|| self.choose(self.default?, alpn, MatchKind::Default))
    }

    fn exact(&self, name: &str, alpn: &AlpnList) -> Option<Matched> {
        self.choose(self.exact.find(name)?, alpn, MatchKind::Exact)
    }

    /// Goes through the suffixes from the right: the last that matches is the longest.
    fn wildcard(&self, name: &str, alpn: &AlpnList) -> Option<Matched> {
        name.rmatch_indices('.')
            .take(self.wildcard_labels_max)
            .filter(|(dot, _)| *dot > 0)
            .filter_map(|(dot, _)| self.choose(self.wildcards.find(&name[dot..])?, alpn, MatchKind::Wildcard))
            .last()
    }

    fn pattern(&self, name: &str, alpn: &AlpnList) -> Option<Matched> {
        self.patterns.find(name, |set| self.choose(set, alpn, MatchKind::Regex))
    }

    fn choose(&self, set: SetId, alpn: &AlpnList, kind: MatchKind) -> Option<Matched> {
        let (route, backend) = self.sets.choose(set, alpn)?;
        Some(Matched { backend, route, kind })
    }
}

/// The texts of one kind of pattern in all routes.
fn texts(routes: &[Route], of: fn(&NamePattern) -> Option<&str>) -> impl Iterator<Item = &str> {
    routes.iter().flat_map(|route| &route.names).filter_map(of)
}

fn exact(pattern: &NamePattern) -> Option<&str> {
    if let NamePattern::Exact(name) = pattern { Some(name) } else { None }
}

fn wildcard(pattern: &NamePattern) -> Option<&str> {
    if let NamePattern::Wildcard(suffix) = pattern { Some(suffix) } else { None }
}

/// The labels of a wildcard's suffix, each of which has a dot in front.
fn labels(suffix: &str) -> usize {
    suffix.matches('.').count()
}

#[cfg(test)]
mod tests;
