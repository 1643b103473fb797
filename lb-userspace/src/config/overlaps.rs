// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes of one frontend that stand in each other's way: warnings, because the order of precedence settles each case.
//!
//! That an exact name lies inside a wildcard is what precedence is for, and no warning.

use std::collections::HashMap;

use regex_syntax::hir::{Hir, HirKind, Look};

use super::NamePattern;
use super::context::Context;
use super::problem::{Place, Problem};
use super::reader::{join, listed};
use super::route::RouteRead;

/// Warns of names that several routes claim and of patterns that can never win.
pub(super) fn warn(cx: &Context<'_>, routes: &[RouteRead]) {
    let index = Index::new(routes);
    for claims in index.claims_in_order() {
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

/// All patterns by their text.
struct Index<'r> {
    routes: &'r [RouteRead],
    claims: HashMap<String, Vec<Claim>>,
}

impl<'r> Index<'r> {
    fn new(routes: &'r [RouteRead]) -> Self {
        let mut claims: HashMap<String, Vec<Claim>> = HashMap::new();
        for (route, read) in routes.iter().enumerate() {
            if read.route.names.is_empty() {
                claims.entry(String::new()).or_default().push(Claim { route, name: 0 });
            }
            for (name, pattern) in read.route.names.iter().enumerate() {
                claims.entry(pattern.to_string()).or_default().push(Claim { route, name });
            }
        }
        Self { routes, claims }
    }

    fn claims_in_order(&self) -> Vec<&[Claim]> {
        let mut all: Vec<&[Claim]> = self.claims.values().map(Vec::as_slice).collect();
        all.sort_unstable();
        all
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
        let place = read.places.get(claim.name).unwrap_or(&read.place).clone();
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
        let exact = is_whole.then_some(suffix.clone());
        let wildcards = suffix.match_indices('.').map(|(dot, _)| format!("*{}", &suffix[dot..]));
        let higher = exact.into_iter().chain(wildcards).find_map(|name| {
            self.claims.get(&name)?.iter().find(|other| self.covers(**other, claim)).copied()
        })?;
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
