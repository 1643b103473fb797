// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes of one frontend that stand in each other's way: warnings, because the order of precedence settles each case.
//!
//! That an exact name lies inside a wildcard is what precedence is for, and no warning.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::DefaultHashBuilder;
use regex_syntax::hir::{Hir, HirKind, Look};

use super::NamePattern;
use super::context::Context;
use super::problem::{Place, Problem};
use super::reader::{join, listed};
use super::route::RouteRead;

/// Warns of names that several routes claim and of patterns that can never win.
pub(super) fn warn(cx: &Context<'_>, routes: &[RouteRead]) {
    let index = Index::new(routes);
    for claims in index.shared.values() {
        for (position, claim) in claims.iter().enumerate() {
            if let Some(text) =
                claims[..position].iter().find_map(|earlier| index.same_name(*earlier, *claim))
            {
                index.warn(cx, *claim, text);
            }
        }
    }
    index.warn_of_regexes(cx);
}

/// A pattern of a route: the positions of both; a route without names claims once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    route: usize,
    name: usize,
}

/// All patterns, found by what they are. Nothing is copied, and of a pattern that stands once nothing is kept but its place: there
/// may be millions of them. That is also why they are sorted by their hashes, which goes through memory in order; a table would not.
struct Index<'r> {
    routes: &'r [RouteRead],
    hasher: DefaultHashBuilder,
    /// All claims with the hash of what they are to, in the order of both.
    sorted: Vec<(u64, Claim)>,
    /// All claims to the patterns that have several, in order, by the first.
    shared: BTreeMap<Claim, Vec<Claim>>,
}

impl<'r> Index<'r> {
    fn new(routes: &'r [RouteRead]) -> Self {
        let hasher = DefaultHashBuilder::default();
        let claims = routes.iter().enumerate().flat_map(|(route, read)| {
            (0..read.route.names.len().max(1)).map(move |name| Claim { route, name })
        });
        let mut sorted: Vec<_> = claims.map(|claim| (hash(&hasher, pattern(routes, claim)), claim)).collect();
        sorted.sort_unstable();
        let shared = shared(routes, &sorted);
        Self { routes, hasher, sorted, shared }
    }

    /// All claims to a pattern, in order.
    fn claims(&self, wanted: &NamePattern) -> &[Claim] {
        let wanted_hash = hash(&self.hasher, Some(wanted));
        let from = self.sorted.partition_point(|(hash, _)| *hash < wanted_hash);
        let alike = self.sorted[from..].iter().take_while(|(hash, _)| *hash == wanted_hash);
        match alike.map(|(_, claim)| claim).find(|known| pattern(self.routes, **known) == Some(wanted)) {
            Some(first) => self.shared.get(first).map_or(std::slice::from_ref(first), Vec::as_slice),
            None => &[],
        }
    }

    fn alpn(&self, claim: Claim) -> &'r [String] {
        &self.routes[claim.route].route.alpn
    }

    fn line(&self, claim: Claim) -> usize {
        self.routes[claim.route].route.line
    }

    /// What is to be said of two claims to the same pattern, the earlier first. A route with an ALPN condition goes before one
    /// without, so those two are no overlap.
    fn same_name(&self, earlier: Claim, later: Claim) -> Option<String> {
        if earlier.route == later.route {
            return Some("stands twice in this route".into());
        }
        let (first, second) = (self.alpn(earlier), self.alpn(later));
        let shared: Vec<&str> =
            first.iter().filter(|name| second.contains(name)).map(String::as_str).collect();
        let (line, other) = (self.line(later), self.line(earlier));
        if first.is_empty() && second.is_empty() {
            return Some(format!(
                "the route of line {other} takes this name before the route of line {line} can"
            ));
        }
        let what =
            if self.routes[later.route].route.names.is_empty() { "every other name" } else { "this name" };
        (!shared.is_empty()).then(|| {
            let shared = listed(shared);
            format!("from clients that offer {shared}, the route of line {other} takes {what} before the route of line {line} can")
        })
    }

    fn warn(&self, cx: &Context<'_>, claim: Claim, text: String) {
        let read = &self.routes[claim.route];
        let place = read.places.get(claim.name).unwrap_or_else(|| read.place.clone());
        let name = read.route.names.get(claim.name);
        cx.warn(warning(place, &read.path, name, text));
    }

    fn warn_of_regexes(&self, cx: &Context<'_>) {
        let mut catch_alls: Vec<Claim> = Vec::new();
        for (route, read) in self.routes.iter().enumerate() {
            for (name, pattern) in read.route.names.iter().enumerate() {
                let NamePattern::Regex(regex) = pattern else { continue };
                let claim = Claim { route, name };
                if let Some(text) = self.never_wins(claim, regex.as_str(), &catch_alls) {
                    self.warn(cx, claim, text);
                }
                if is_catch_all(regex.as_str()) {
                    catch_alls.push(claim);
                }
            }
        }
    }

    /// Why a regular expression can never win, if that can be seen from the outside.
    fn never_wins(&self, claim: Claim, pattern: &str, catch_alls: &[Claim]) -> Option<String> {
        let hir = regex_syntax::parse(pattern).ok()?;
        if demands_upper_case(&hir) {
            return Some("can never match: names are compared in lower case".into());
        }
        let covers = |other: &&Claim| other.route != claim.route && self.covers(**other, claim);
        if let Some(other) = catch_alls.iter().find(covers) {
            return Some(format!(
                "can never win: \"{}\" of line {} comes first and matches every name",
                self.text(*other),
                self.line(*other)
            ));
        }
        let (suffix, is_whole) = literal_end(&hir)?;
        let exact = is_whole.then(|| NamePattern::Exact(suffix.clone()));
        let wildcards =
            suffix.match_indices('.').map(|(dot, _)| NamePattern::Wildcard(suffix[dot..].to_owned()));
        let higher = exact
            .into_iter()
            .chain(wildcards)
            .find_map(|name| self.claims(&name).iter().find(|other| self.covers(**other, claim)).copied())?;
        Some(format!(
            "can never win: every name it matches belongs to \"{}\" of line {}, and names and wildcards go first",
            self.text(higher),
            self.line(higher)
        ))
    }

    fn text(&self, claim: Claim) -> &NamePattern {
        &self.routes[claim.route].route.names[claim.name]
    }

    /// Whether every client that one claim's ALPN condition admits is admitted by the other's.
    fn covers(&self, other: Claim, claim: Claim) -> bool {
        let (outer, inner) = (self.alpn(other), self.alpn(claim));
        outer.is_empty() || (!inner.is_empty() && inner.iter().all(|name| outer.contains(name)))
    }
}

/// See [`Index::shared`].
fn shared(routes: &[RouteRead], sorted: &[(u64, Claim)]) -> BTreeMap<Claim, Vec<Claim>> {
    let mut shared = BTreeMap::<_, Vec<_>>::new();
    for alike in sorted.chunk_by(|(first, _), (second, _)| first == second) {
        for &(_, claim) in &alike[1..] {
            let is_same = |known: &&(u64, Claim)| pattern(routes, known.1) == pattern(routes, claim);
            // It finds itself, if nothing before it is the same.
            if let Some(&(_, first)) = alike.iter().find(is_same).filter(|(_, first)| *first != claim) {
                shared.entry(first).or_insert_with(|| vec![first]).push(claim);
            }
        }
    }
    shared
}

/// What a claim is to; `None` for a route without names.
fn pattern(routes: &[RouteRead], claim: Claim) -> Option<&NamePattern> {
    routes[claim.route].route.names.get(claim.name)
}

/// Equal patterns have equal ones.
fn hash(hasher: &DefaultHashBuilder, pattern: Option<&NamePattern>) -> u64 {
    let (kind, text) = match pattern {
        None => (0_u8, ""),
        Some(NamePattern::Exact(name)) => (1, &**name),
        Some(NamePattern::Wildcard(suffix)) => (2, &**suffix),
        Some(NamePattern::Regex(regex)) => (3, regex.as_str()),
    };
    let mut state = hasher.build_hasher();
    kind.hash(&mut state);
    state.write(text.as_bytes());
    state.finish()
}

fn warning(place: Place, route: &str, name: Option<&NamePattern>, text: String) -> Problem {
    let found = name.map(|name| format!("\"{}\"", super::source::one_line(&name.to_string())));
    let key = if found.is_some() { "sni" } else { "alpn" };
    Problem { place, key: join(route, key), found, text }
}

fn is_catch_all(pattern: &str) -> bool {
    let inner = pattern.trim_start_matches('^').trim_end_matches('$');
    matches!(inner, "" | ".*" | ".+" | ".*?" | ".+?")
}

/// Whether every match has a capital letter in it.
fn demands_upper_case(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => literal.0.iter().any(u8::is_ascii_uppercase),
        HirKind::Capture(capture) => demands_upper_case(&capture.sub),
        HirKind::Repetition(repetition) => repetition.min > 0 && demands_upper_case(&repetition.sub),
        HirKind::Concat(parts) => parts.iter().any(demands_upper_case),
        HirKind::Alternation(parts) => parts.iter().all(demands_upper_case),
        _ => false,
    }
}

/// The text that every match ends with, if the expression is anchored there, and whether it is the whole match.
fn literal_end(hir: &Hir) -> Option<(String, bool)> {
    let HirKind::Concat(parts) = hir.kind() else { return None };
    let [rest @ .., last, end] = &parts[..] else { return None };
    if *end.kind() != HirKind::Look(Look::End) {
        return None;
    }
    let is_whole = matches!(rest, [start] if *start.kind() == HirKind::Look(Look::Start));
    match last.kind() {
        HirKind::Literal(literal) => Some((String::from_utf8(literal.0.to_vec()).ok()?, is_whole)),
        _ => None,
    }
}
