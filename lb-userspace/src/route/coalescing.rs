// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names that a server's certificate covers and that the routes send to another backend. Pure.
//!
//! A client that speaks HTTP/2 may send requests for another name over a connection that it has, if the server's certificate covers
//! that name and it resolves to the same address (RFC 9113 section 9.1.1). To a client, all names of a frontend can be at one address,
//! and nobody looks at names again once a connection is routed: such requests reach the wrong backend.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::reason::HelloReason;

use super::Router;
use crate::config::{BackendId, NamePattern, Policy, TlsPassthrough, parse_name};
use crate::prelude::hello::AlpnList;

/// What clients offer that speak HTTP/2: mostly HTTP/1.1 as well, those of gRPC nothing else.
const OFFERS: [&[&str]; 2] = [&["h2", "http/1.1"], &["h2"]];

/// First labels in the place of all that no route names: under a wildcard they show what other wildcards, regular expressions (not
/// each of them) and the policy for unknown names take.
const SAMPLE_LABELS: [&str; 3] = ["www", "name", "name-1"];

/// A certificate that a server of a backend has shown.
#[derive(Clone, Copy, Debug)]
pub struct ShownCertificate<'a> {
    /// The backend.
    pub backend: BackendId,
    /// The hosts that it is for (RFC 5280 section 4.2.1.6, dNSName), lower case, wildcards included.
    pub names: &'a [String],
    /// Whether those are all.
    pub is_whole: bool,
}

/// A name in a certificate of one backend that covers a name of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap<'a> {
    /// The backend whose server has shown the certificate: it may get requests that are not for it.
    pub backend: BackendId,
    /// The name as it stands in the certificate.
    pub certificate_name: &'a str,
    /// The backend that those requests are for.
    pub other: BackendId,
    /// A name of the other backend that the certificate covers.
    pub example: &'a str,
    /// The position of the route that takes the example in [`TlsPassthrough::routes`]; `None`: the policy for unknown names does.
    pub route: Option<usize>,
}

/// All overlaps of a frontend. There can be as many as pairs of backends for each name in a certificate, so they are made when asked for.
#[derive(Debug, Default)]
pub struct Overlaps<'a> {
    /// In order, each name of a backend once.
    claims: BTreeMap<(BackendId, &'a str), [bool; OFFERS.len()]>,
    covered: Covered<'a>,
}

/// Where the names lead that a name in a certificate covers, by that name; wildcards are without their asterisk.
type Covered<'a> = HashMap<&'a str, Destinations>;

/// The backends, each with an example, by what the client offers.
#[derive(Debug, Default)]
struct Destinations([BTreeMap<BackendId, Example>; OFFERS.len()]);

#[derive(Debug)]
struct Example {
    name: Box<str>,
    route: Option<usize>,
}

/// Finds the overlaps of the certificates that servers have shown. Certificates of backends that the frontend does not use count for
/// nothing.
///
/// A certificate counts if it covers a name that leads to its own backend: no client has a valid connection otherwise. The cost is one
/// hash look-up for each name in a route, if any certificate has a wildcard, and the routing of those names that are right below it.
pub fn find<'a>(router: &Router, settings: &TlsPassthrough, shown: &[ShownCertificate<'a>]) -> Overlaps<'a> {
    let survey = Survey::new(router, settings);
    let shown: Vec<_> = shown.iter().filter(|one| survey.used.contains(&one.backend)).collect();
    let mut covered = Covered::new();
    for name in shown.iter().flat_map(|one| one.names).filter_map(|name| pattern(name)) {
        covered.entry(name).or_default();
    }
    survey.follow(&mut covered);
    let mut claims = BTreeMap::new();
    for one in shown {
        let names = || one.names.iter().filter_map(|name| Some((name.as_str(), pattern(name)?)));
        let is_own = |offer: usize| {
            !one.is_whole
                || survey.matching.contains(&one.backend)
                || names().any(|(_, pattern)| covered[pattern].0[offer].contains_key(&one.backend))
        };
        let own: [bool; OFFERS.len()] = std::array::from_fn(is_own);
        for (name, _) in names() {
            let claim: &mut [bool; OFFERS.len()] = claims.entry((one.backend, name)).or_default();
            claim.iter_mut().zip(own).for_each(|(claim, own)| *claim |= own);
        }
    }
    Overlaps { claims, covered }
}

/// The backends that a name can lead to.
pub fn backends_by_name(settings: &TlsPassthrough) -> BTreeSet<BackendId> {
    let unknown = match settings.policy(HelloReason::UnknownName) {
        Policy::Backend(backend) => Some(backend),
        Policy::Reject => None,
    };
    settings.routes.iter().map(|route| route.backend).chain(unknown).collect()
}

impl<'a> Overlaps<'a> {
    /// All of them, each backend, name in a certificate and other backend once, in an order that depends on nothing but these.
    pub fn iter(&self) -> impl Iterator<Item = Overlap<'_>> {
        self.claims.iter().flat_map(|(&(backend, name), own)| {
            let destinations = pattern(name).and_then(|pattern| self.covered.get(pattern));
            destinations.into_iter().flat_map(move |destinations| {
                destinations.others(backend, *own).map(move |(other, example)| Overlap {
                    backend,
                    certificate_name: name,
                    other,
                    example: &example.name,
                    route: example.route,
                })
            })
        })
    }
}

impl Destinations {
    /// Those that are not `backend`, for clients of which `own` says that they may have a connection with it.
    fn others(
        &self,
        backend: BackendId,
        own: [bool; OFFERS.len()],
    ) -> impl Iterator<Item = (BackendId, &Example)> {
        let by_offer = move || self.0.iter().zip(own).filter(|(_, own)| *own).map(|(others, _)| others);
        by_offer().enumerate().flat_map(move |(position, others)| {
            let is_new = move |other: &BackendId| {
                *other != backend && !by_offer().take(position).any(|earlier| earlier.contains_key(other))
            };
            others.iter().filter(move |(other, _)| is_new(other)).map(|(other, example)| (*other, example))
        })
    }
}

/// The routes of a frontend, as clients see them that speak HTTP/2.
struct Survey<'r> {
    router: &'r Router,
    settings: &'r TlsPassthrough,
    /// The first of [`OFFERS`] alone, if all give the same.
    offers: Vec<AlpnList>,
    used: BTreeSet<BackendId>,
    /// Those that a regular expression can lead to: which names those are is not known.
    matching: BTreeSet<BackendId>,
}

impl<'r> Survey<'r> {
    fn new(router: &'r Router, settings: &'r TlsPassthrough) -> Self {
        let routes = &settings.routes;
        let has_conditions = routes.iter().any(|route| !route.alpn.is_empty());
        let different = if has_conditions { OFFERS.len() } else { 1 };
        let is_regex = |name: &NamePattern| matches!(name, NamePattern::Regex(_));
        Self {
            router,
            settings,
            offers: OFFERS[..different].iter().map(|offer| AlpnList::from_names(offer)).collect(),
            used: backends_by_name(settings),
            matching: routes
                .iter()
                .filter(|route| route.names.iter().any(is_regex))
                .map(|route| route.backend)
                .collect(),
        }
    }

    /// Finds out where everything leads that is covered.
    fn follow(&self, covered: &mut Covered<'_>) {
        if self.used.len() < 2 {
            return;
        }
        if covered.keys().any(|pattern| pattern.starts_with('.')) {
            for name in self.settings.routes.iter().flat_map(|route| &route.names) {
                let NamePattern::Exact(name) = name else { continue };
                // A wildcard stands for exactly one label (RFC 9525 section 6.3).
                let parent = name.find('.').map(|dot| &name[dot..]);
                if let Some(destinations) = parent.and_then(|parent| covered.get_mut(parent)) {
                    self.note(destinations, name);
                }
            }
        }
        for (pattern, destinations) in covered {
            if pattern.starts_with('.') {
                SAMPLE_LABELS.iter().for_each(|label| self.note(destinations, &format!("{label}{pattern}")));
            } else {
                self.note(destinations, pattern);
            }
        }
    }

    /// Adds where a name leads; the first name that leads to a backend is its example.
    fn note(&self, destinations: &mut Destinations, name: &str) {
        for (offer, found) in self.offers.iter().zip(&mut destinations.0) {
            let Some((backend, route)) = self.destination(name, offer) else { continue };
            if let Entry::Vacant(free) = found.entry(backend) {
                free.insert(Example { name: name.into(), route });
            }
        }
    }

    /// Where a name leads, and by which route; `None` if it is rejected.
    fn destination(&self, name: &str, offer: &AlpnList) -> Option<(BackendId, Option<usize>)> {
        if let Some(matched) = self.router.route(Some(name), offer) {
            return Some((matched.backend, Some(matched.route)));
        }
        match self.settings.policy(HelloReason::UnknownName) {
            Policy::Backend(backend) => Some((backend, None)),
            Policy::Reject => None,
        }
    }
}

/// A name in a certificate, of a wildcard what follows the asterisk; `None` if it covers no name that clients ask for. An asterisk
/// counts as the whole first label only (RFC 9525 section 6.3).
fn pattern(name: &str) -> Option<&str> {
    let suffix = name.strip_prefix('*');
    let host = suffix.map_or(Some(name), |suffix| suffix.strip_prefix('.'))?;
    parse_name(host).is_ok_and(|parsed| parsed == host).then_some(suffix.unwrap_or(name))
}

#[cfg(test)]
mod tests;
