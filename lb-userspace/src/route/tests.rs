// SPDX-License-Identifier: MIT OR Apache-2.0
//! The router against rows and against the definition, written down naively.

use std::time::Duration;

use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::config::Policy;

fn router(routes: &[Route]) -> Router {
    Router::new(&TlsPassthrough {
        client_hello_timeout: Duration::from_secs(5),
        client_hello_max: 16 * 1024,
        client_hello_wire_max: 64 * 1024,
        policies: [Policy::Reject; lb_common::reason::HelloReason::ALL.len()],
        routes: routes.to_vec(),
    })
}

/// A route as in a file: names, protocols. The backend is not the route's position, so that the two cannot be mistaken.
fn route(names: &[&str], alpn: &[&str]) -> Route {
    let pattern = |text: &&str| match (text.strip_prefix('*'), text.strip_prefix('~')) {
        (Some(suffix), _) => NamePattern::Wildcard(suffix.to_owned()),
        (_, Some(regex)) => NamePattern::Regex(Regex::new(regex).unwrap()),
        _ => NamePattern::Exact((*text).to_owned()),
    };
    Route {
        names: names.iter().map(pattern).collect(),
        alpn: alpn.iter().map(|&name| name.to_owned()).collect(),
        backend: BackendId(0),
        line: 0,
    }
}

fn numbered(mut routes: Vec<Route>) -> Vec<Route> {
    for (position, route) in routes.iter_mut().enumerate() {
        route.backend = BackendId(100 + position);
    }
    routes
}

#[track_caller]
fn check(routes: &[Route], name: &str, alpn: &[&str], expected: Option<(usize, MatchKind)>) {
    let name = Some(name).filter(|name| !name.is_empty());
    let found = router(routes).route(name, &AlpnList::from_names(alpn));
    let expected = expected.map(|(route, kind)| Matched { backend: routes[route].backend, route, kind });
    assert_eq!(found, expected, "{name:?} {alpn:?}");
}

#[test]
fn exact_over_longest_wildcard_over_regex_over_default() {
    let routes = numbered(vec![
        route(&[], &["h2"]),
        route(&["~^[a-z]+\\.example$", "~example"], &[]),
        route(&["*.example"], &[]),
        route(&["*.a.example", "b.example"], &[]),
        route(&["www.a.example", "a.example"], &[]),
    ]);
    check(&routes, "www.a.example", &[], Some((4, MatchKind::Exact)));
    check(&routes, "a.example", &["h2"], Some((4, MatchKind::Exact)));
    check(&routes, "b.example", &[], Some((3, MatchKind::Exact)));
    check(&routes, "x.a.example", &[], Some((3, MatchKind::Wildcard)));
    check(&routes, "x.y.a.example", &[], Some((3, MatchKind::Wildcard)));
    check(&routes, "x.y.www.a.example", &[], Some((3, MatchKind::Wildcard)));
    check(&routes, "c.example", &[], Some((2, MatchKind::Wildcard)));
    check(&routes, "xa.example", &[], Some((2, MatchKind::Wildcard)));
    check(&routes, "example", &[], Some((1, MatchKind::Regex)));
    check(&routes, "an-example-of.org", &["h2"], Some((1, MatchKind::Regex)));
    check(&routes, "other.org", &["h2"], Some((0, MatchKind::Default)));
    check(&routes, "", &["http/1.1", "h2"], Some((0, MatchKind::Default)));
    check(&routes, "other.org", &["http/1.1"], None);
    check(&routes, "", &[], None);
}

#[test]
fn a_wildcard_stands_for_at_least_one_label() {
    let routes = numbered(vec![route(&["*.a.example"], &[])]);
    check(&routes, "a.example", &[], None);
    check(&routes, "xa.example", &[], None);
    check(&routes, "x.a.example.org", &[], None);
    check(&routes, ".a.example", &[], None);
    check(&routes, &format!("{}a.example", "x.".repeat(121)), &[], Some((0, MatchKind::Wildcard)));
}

#[test]
fn a_kept_alpn_condition_beats_none_and_a_failed_one_is_passed_over() {
    let routes = numbered(vec![
        route(&["a.example"], &[]),
        route(&["a.example"], &["h2", "h3"]),
        route(&["a.example", "b.example"], &["h3", "acme-tls/1"]),
        route(&["*.example"], &["acme-tls/1"]),
        route(&["~^b"], &["http/1.1"]),
        route(&["~^b"], &["h2"]),
        route(&["~example"], &[]),
        route(&["*.x.example"], &["h2"]),
        route(&["*.example"], &["h2"]),
    ]);
    check(&routes, "a.example", &[], Some((0, MatchKind::Exact)));
    check(&routes, "a.example", &["http/1.1"], Some((0, MatchKind::Exact)));
    check(&routes, "a.example", &["http/1.1", "h2"], Some((1, MatchKind::Exact)));
    check(&routes, "a.example", &["acme-tls/1"], Some((2, MatchKind::Exact)));
    check(&routes, "a.example", &["h3"], Some((1, MatchKind::Exact)));
    check(&routes, "b.example", &["acme-tls/1"], Some((2, MatchKind::Exact)));
    check(&routes, "b.example", &["h2"], Some((8, MatchKind::Wildcard)));
    check(&routes, "b.example", &["http/1.1", "spdy"], Some((4, MatchKind::Regex)));
    check(&routes, "b.example", &[], Some((6, MatchKind::Regex)));
    check(&routes, "b.org", &["h2"], Some((5, MatchKind::Regex)));
    check(&routes, "y.x.example", &["h2"], Some((7, MatchKind::Wildcard)));
    check(&routes, "y.x.example", &["acme-tls/1"], Some((3, MatchKind::Wildcard)));
}

#[test]
fn a_name_twice_in_one_route_is_there_once() {
    let routes = numbered(vec![route(&["a.example", "a.example"], &[]), route(&["a.example"], &["h2"])]);
    check(&routes, "a.example", &[], Some((0, MatchKind::Exact)));
    check(&routes, "a.example", &["h2"], Some((1, MatchKind::Exact)));
}

#[test]
fn expressions_too_large_for_one_automaton_are_tried_one_by_one() {
    let mut patterns = Patterns::default();
    let mut sets = RouteSets::new(&[]);
    let first = sets.extend(None, 0);
    let second = sets.extend(None, 1);
    patterns.update(&Regex::new("a").unwrap(), |_| first);
    patterns.update(&Regex::new("b").unwrap(), |_| second);
    for _ in 0..2 {
        assert_eq!(patterns.find("b", Some), Some(second));
        assert_eq!(patterns.find("ab", Some), Some(first));
        assert_eq!(patterns.find("ab", |set| Some(set).filter(|set| *set == second)), Some(second));
        assert_eq!(patterns.find("c", Some), None);
        patterns.compile();
    }
}

#[test]
fn many_names_are_all_found() {
    let names: Vec<_> = (0..20_000).map(|number| format!("host-{number}.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let routes = numbered(vec![route(&names[..15_000], &[]), route(&names[10_000..], &["h2"])]);
    let (router, h2) = (router(&routes), AlpnList::from_names(&["h2"]));
    for (number, name) in names.iter().enumerate() {
        let plain = router.route(Some(name), &AlpnList::default()).map(|matched| matched.route);
        assert_eq!(plain, (number < 15_000).then_some(0), "{name}");
        let with_h2 = router.route(Some(name), &h2).map(|matched| matched.route);
        assert_eq!(with_h2, Some(usize::from(number >= 10_000)), "{name}");
    }
    assert_eq!(router.route(Some("host-20000.example"), &h2), None);
}

/// The definition: of all routes that take the client, the most specific, the one with a condition, the first.
fn naive(routes: &[Route], name: Option<&str>, alpn: &[&str]) -> Option<Matched> {
    let mut takers = Vec::new();
    let first_with = |regex: &Regex| {
        let mut patterns = routes.iter().flat_map(|route| &route.names);
        patterns.position(|other| *other == NamePattern::Regex(regex.clone())).unwrap() as isize
    };
    for (position, route) in routes.iter().enumerate() {
        let has_condition = !route.alpn.is_empty();
        if has_condition && !route.alpn.iter().any(|wanted| alpn.contains(&wanted.as_str())) {
            continue;
        }
        let mut take = |kind, specific: isize| {
            let matched = Matched { backend: route.backend, route: position, kind };
            takers.push(((kind, -specific, !has_condition, position), matched));
        };
        for pattern in &route.names {
            match (pattern, name) {
                (NamePattern::Exact(exact), Some(name)) if exact == name => take(MatchKind::Exact, 0),
                (NamePattern::Wildcard(suffix), Some(name))
                    if name.len() > suffix.len() && name.ends_with(suffix) =>
                {
                    take(MatchKind::Wildcard, suffix.len() as isize);
                }
                (NamePattern::Regex(regex), Some(name)) if regex.is_match(name) => {
                    take(MatchKind::Regex, -first_with(regex));
                }
                _ => {}
            }
        }
        if route.names.is_empty() {
            take(MatchKind::Default, 0);
        }
    }
    takers.into_iter().min_by_key(|(rank, _)| *rank).map(|(_, matched)| matched)
}

fn any_name() -> impl Strategy<Value = String> {
    "[ab](\\.[ab]){0,3}"
}

fn any_alpn() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(vec!["h2", "h3", "x"], 0..=3)
}

fn any_route() -> impl Strategy<Value = Route> {
    let pattern = prop_oneof![
        any_name(),
        any_name().prop_map(|name| format!("*.{name}")),
        prop_oneof![Just("~^a"), Just("~b$"), Just("~a\\.b"), Just("~.")].prop_map(str::to_owned),
    ];
    (proptest::collection::vec(pattern, 0..4), any_alpn()).prop_map(|(names, alpn)| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        route(&names, &alpn)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_index_agrees_with_the_definition(
        routes in proptest::collection::vec(any_route(), 0..8).prop_map(numbered),
        clients in proptest::collection::vec((proptest::option::weighted(0.9, any_name()), any_alpn()), 1..10),
    ) {
        let router = router(&routes);
        for (name, alpn) in clients {
            let found = router.route(name.as_deref(), &AlpnList::from_names(&alpn));
            prop_assert_eq!(found, naive(&routes, name.as_deref(), &alpn), "{:?} {:?}", name, alpn);
        }
    }
}
