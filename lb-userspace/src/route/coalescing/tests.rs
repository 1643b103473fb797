// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of routes, certificates and what is to be said of them.

use std::time::Duration;

use regex::Regex;

use super::*;
use crate::config::Route;

/// `names` (a list with spaces), protocols, backend.
type Row<'a> = (&'a str, &'a [&'a str], usize);

fn settings(routes: &[Row<'_>], unknown: Policy) -> TlsPassthrough {
    let pattern = |text: &str| match (text.strip_prefix('*'), text.strip_prefix('~')) {
        (Some(suffix), _) => NamePattern::Wildcard(suffix.to_owned()),
        (_, Some(regex)) => NamePattern::Regex(Regex::new(regex).unwrap()),
        _ => NamePattern::Exact(text.to_owned()),
    };
    let route = |(names, alpn, backend): &Row<'_>| Route {
        names: names.split_whitespace().map(pattern).collect(),
        alpn: alpn.iter().map(|&name| name.to_owned()).collect(),
        backend: BackendId(*backend),
        line: 0,
    };
    let mut policies = [Policy::Reject; HelloReason::ALL.len()];
    policies[HelloReason::UnknownName.index()] = unknown;
    TlsPassthrough {
        client_hello_timeout: Duration::from_secs(5),
        client_hello_max: 16 * 1024,
        client_hello_wire_max: 64 * 1024,
        policies,
        routes: routes.iter().map(route).collect(),
    }
}

/// Certificates as backend and names (a list with spaces); overlaps as `backend name: other example`, with `by ROUTE` or `by policy`.
#[track_caller]
fn check_with(unknown: Policy, routes: &[Row<'_>], shown: &[(usize, &str)], expected: &[&str]) {
    let settings = settings(routes, unknown);
    let names: Vec<Vec<String>> =
        shown.iter().map(|(_, names)| names.split_whitespace().map(String::from).collect()).collect();
    let shown: Vec<_> = shown
        .iter()
        .zip(&names)
        .map(|((backend, _), names)| ShownCertificate { backend: BackendId(*backend), names, is_whole: true })
        .collect();
    let overlaps = find(&Router::new(&settings), &settings, &shown);
    let said: Vec<String> = overlaps.iter().map(said).collect();
    assert_eq!(said, expected, "{routes:?} {shown:?}");
}

fn said(overlap: Overlap<'_>) -> String {
    let Overlap { backend, certificate_name, other, example, route } = overlap;
    let by = route.map_or("policy".to_owned(), |route| route.to_string());
    format!("{} {certificate_name}: {} {example} by {by}", backend.0, other.0)
}

#[track_caller]
fn check(routes: &[Row<'_>], shown: &[(usize, &str)], expected: &[&str]) {
    check_with(Policy::Reject, routes, shown, expected);
}

/// Two names, two backends.
const TWO: &[Row<'_>] = &[("a.example", &[], 0), ("b.example", &[], 1)];

#[test]
fn names_in_a_certificate_that_lead_elsewhere() {
    check(TWO, &[(0, "a.example"), (1, "b.example")], &[]);
    check(TWO, &[(0, "a.example b.example"), (1, "b.example")], &["0 b.example: 1 b.example by 1"]);
    check(
        TWO,
        &[(0, "a.example b.example"), (1, "a.example b.example")],
        &["0 b.example: 1 b.example by 1", "1 a.example: 0 a.example by 0"],
    );
    // Nobody asks for the others, or nobody gets there.
    check(TWO, &[(0, "a.example c.example"), (1, "b.example")], &[]);
    // Several servers, the same certificate.
    check(TWO, &[(0, "a.example b.example"), (0, "b.example a.example")], &["0 b.example: 1 b.example by 1"]);
    // A backend that the frontend does not use.
    check(TWO, &[(7, "a.example b.example")], &[]);
}

#[test]
fn a_certificate_without_an_own_name_is_of_no_use_to_clients() {
    check(TWO, &[(0, "b.example")], &[]);
    check(TWO, &[(0, "*.other b.example")], &[]);
    let names = ["b.example".to_owned()];
    let settings = settings(TWO, Policy::Reject);
    // Unless names are missing, or which names are the backend's own is not known.
    let cut = ShownCertificate { backend: BackendId(0), names: &names, is_whole: false };
    assert_eq!(find(&Router::new(&settings), &settings, &[cut]).iter().count(), 1);
    let routes: &[Row<'_>] = &[("~^x[0-9]+[.]example$", &[], 0), ("b.example", &[], 1)];
    check(routes, &[(0, "*.example")], &["0 *.example: 1 b.example by 1"]);
}

#[test]
fn wildcards_in_certificates_stand_for_one_label() {
    let both: &[(usize, &str)] = &[(0, "*.example"), (1, "*.example")];
    let expected = ["0 *.example: 1 b.example by 1", "1 *.example: 0 a.example by 0"];
    check(TWO, both, &expected);
    let deep: &[Row<'_>] = &[("a.example", &[], 0), ("x.b.example example", &[], 1)];
    check(deep, &[(0, "*.example")], &[]);
    check(deep, &[(0, "*.example *.b.example")], &["0 *.b.example: 1 x.b.example by 1"]);
    for broken in
        ["*", "*.", "a*.example", "*a.example", "*.*.example", "b.*", ".example", "b\u{1b}.example", ""]
    {
        check(TWO, &[(0, &format!("a.example {broken}"))], &[]);
    }
}

#[test]
fn wildcards_expressions_and_policies_take_what_a_wildcard_covers() {
    let own: Row<'_> = ("a.example", &[], 0);
    check(&[own, ("*.example", &[], 1)], &[(0, "*.example")], &["0 *.example: 1 www.example by 1"]);
    check(&[own, ("*.example", &[], 1)], &[(1, "*.example")], &["1 *.example: 0 a.example by 0"]);
    let above = [own, ("*.example", &[], 1), ("b.x.example", &[], 0)];
    check(&above, &[(0, "*.x.example")], &["0 *.x.example: 1 www.x.example by 1"]);
    check(&[own, ("*.b.example", &[], 1)], &[(0, "*.example")], &[]);
    check(&[own, ("~^[a-z]+[.]example$", &[], 1)], &[(0, "*.example")], &["0 *.example: 1 www.example by 1"]);
    check(
        &[own, ("~^[a-z]+-[0-9][.]", &[], 1)],
        &[(0, "*.example")],
        &["0 *.example: 1 name-1.example by 1"],
    );
    let unknown = Policy::Backend(BackendId(1));
    check_with(unknown, &[own], &[(0, "*.example")], &["0 *.example: 1 www.example by policy"]);
    check_with(unknown, &[own], &[(0, "a.example b.example")], &["0 b.example: 1 b.example by policy"]);
    check_with(unknown, &[own], &[(1, "*.example")], &["1 *.example: 0 a.example by 0"]);
    check_with(Policy::Backend(BackendId(0)), &[own], &[(0, "*.example")], &[]);
}

#[test]
fn only_clients_that_offer_h2_count() {
    let to = |alpn: &'static [&'static str]| [TWO[0], TWO[1], ("b.example", alpn, 0)];
    let shown: &[(usize, &str)] = &[(0, "*.example")];
    // Those that speak HTTP/2 get to the first backend in both cases.
    check(&to(&["h2"]), shown, &[]);
    check(&to(&["acme-tls/1"]), shown, &["0 *.example: 1 b.example by 1"]);
    // Those that speak nothing but HTTP/2 do not.
    check(&to(&["http/1.1"]), shown, &["0 *.example: 1 b.example by 1"]);
    // A name whose clients go here or there by what they offer: no client does both.
    let split = [("a.example", &["http/1.1"][..], 0), ("a.example", &[], 1)];
    check(&split, &[(0, "a.example"), (1, "a.example")], &[]);
    // Nobody who speaks HTTP/2 gets to the second.
    let plain = [("a.example", &[][..], 0), ("a.example b.example", &["acme-tls/1"], 1)];
    check(&plain, &[(0, "*.example"), (1, "*.example")], &[]);
}

#[test]
fn each_other_backend_is_named_once() {
    let routes: &[Row<'_>] = &[
        ("a.example", &[], 0),
        ("d.example c.example", &[], 2),
        ("b.example", &[], 1),
        ("e.example", &["h2"], 2),
    ];
    check(
        routes,
        &[(0, "*.example c.example")],
        &["0 *.example: 1 b.example by 2", "0 *.example: 2 d.example by 1", "0 c.example: 2 c.example by 1"],
    );
}

#[test]
fn many_names_under_one_wildcard_are_one_overlap_for_each_backend() {
    let names: Vec<String> = (0..50_000).map(|number| format!("host-{number}.example")).collect();
    let rows: Vec<Row<'_>> =
        names.iter().enumerate().map(|(at, name)| (&name[..], &[][..], at % 50)).collect();
    let settings = settings(&rows, Policy::Reject);
    let certificate = ["*.example".to_owned()];
    let shown: Vec<_> = (0..50)
        .map(|backend| ShownCertificate { backend: BackendId(backend), names: &certificate, is_whole: true })
        .collect();
    let overlaps = find(&Router::new(&settings), &settings, &shown);
    assert_eq!(overlaps.iter().count(), 50 * 49);
    let first: Vec<String> = overlaps.iter().take(2).map(said).collect();
    assert_eq!(first, ["0 *.example: 1 host-1.example by 1", "0 *.example: 2 host-2.example by 2"]);
}
