// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names to routes. The tables' hashes are seeded at random, in each process anew; so each count is an average
//! over many names, of which no two end alike where wildcards are looked for.

use std::hint::black_box;
use std::time::Duration;

use lb::config::{BackendId, NamePattern, Policy, Route, TlsPassthrough};
use lb::prelude::hello::AlpnList;
use lb::route::{MatchKind, Router};
use lb_common::reason::HelloReason;

use super::Case;

/// Rounds that callgrind sees.
const ROUNDS: u64 = 4096;
/// Names asked for in one case, at most: among a million, so many that no cache of a core holds their places.
const QUERIES_MAX: usize = 1 << 17;
/// Routes that the names are shared out to.
const ROUTES: usize = 16;
/// Names, wildcards and expressions of the table where not only exact names are asked for.
const MIXED: [usize; 3] = [10_000, 1_000, 10];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    // Ten names in one table would be lucky or unlucky together.
    for (count, tables) in [(10, 31), (10_000, 1), (1_000_000, 1)] {
        let routers = (0..tables).map(|_| Router::new(&settings((0..count).map(exact_name)))).collect();
        let queries = queries(count, exact_name);
        cases.push(case(&format!("route/exact-among-{count}"), routers, queries, Some(MatchKind::Exact)));
    }
    let [exact, wildcards, regexes] = MIXED;
    let mixed = || {
        let wildcards = (0..wildcards).map(|number| format!("*.{}", wildcard_suffix(number)));
        let regexes = (0..regexes).map(|number| format!("~^node-[0-9]+\\.rack-[0-9]+\\.cluster-{number}$"));
        vec![Router::new(&settings((0..exact).map(exact_name).chain(wildcards).chain(regexes)))]
    };
    let below = |number| format!("www.{}", wildcard_suffix(number));
    let node = |number: usize| format!("node-{number:04}.rack-{number:04}.cluster-{}", number % regexes);
    let unknown = |number| format!("unknown-{number:06}.customers-{number:06}.zone-{number:06}");
    cases.push(case("route/wildcard", mixed(), queries(wildcards, below), Some(MatchKind::Wildcard)));
    cases.push(case("route/regex", mixed(), queries(ROUNDS as usize, node), Some(MatchKind::Regex)));
    cases.push(case("route/miss", mixed(), queries(ROUNDS as usize, unknown), None));
    cases
}

/// Asks the routers in turn for one name after the other, each of which is of this kind.
fn case(name: &str, routers: Vec<Router>, queries: Vec<String>, kind: Option<MatchKind>) -> Case {
    let alpn = AlpnList::from_names(&["h2", "http/1.1"]);
    for query in &queries {
        let found = routers[0].route(Some(query), &alpn).map(|matched| matched.kind);
        assert_eq!(found, kind, "{name}: {query}");
    }
    let mut round = 0;
    Case::new(name, ROUNDS, move || {
        let (router, query) = (&routers[round % routers.len()], &queries[round % queries.len()]);
        round += 1;
        black_box(router.route(Some(black_box(query)), &alpn));
    })
}

/// A frontend with these patterns, shared out to [`ROUTES`] routes.
fn settings(patterns: impl Iterator<Item = String>) -> TlsPassthrough {
    let route = |number| Route { names: vec![], alpn: vec![], backend: BackendId(number), line: 0 };
    let mut routes: Vec<Route> = (0..ROUTES).map(route).collect();
    for (number, pattern) in patterns.enumerate() {
        routes[number % ROUTES].names.push(NamePattern::parse(&pattern).expect("a pattern"));
    }
    routes.retain(|route| !route.names.is_empty());
    TlsPassthrough {
        client_hello_timeout: Duration::from_secs(5),
        client_hello_max: 16 << 10,
        client_hello_wire_max: 64 << 10,
        policies: [Policy::Reject; HelloReason::ALL.len()],
        routes,
    }
}

/// Names among `count`, in an order that no prefetcher foresees: steps of a prime that divides no count here.
fn queries(count: usize, name: impl Fn(usize) -> String) -> Vec<String> {
    const STEP: usize = 611_953;
    (0..count.min(QUERIES_MAX)).map(|position| name(position * STEP % count)).collect()
}

fn exact_name(number: usize) -> String {
    format!("shop-{number:06}.customers.example")
}

fn wildcard_suffix(number: usize) -> String {
    format!("tenant-{number:04}.zone-{number:04}")
}
