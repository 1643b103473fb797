// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is listed, from one look to the next.

use lb_common::reason::HelloReason;

use super::*;
use crate::config::{NamePattern, Policy, Route, TlsPassthrough};
use crate::route::Router;

/// A frontend with a name for each backend, and a certificate of the first for the names of these others.
fn overlaps_with(others: &[usize], before: &Finding) -> Finding {
    let name = |backend: usize| format!("{backend:02}.example");
    let route = |backend| Route {
        names: vec![NamePattern::Exact(name(backend))],
        alpn: Vec::new(),
        backend: BackendId(backend),
        line: 0,
    };
    let settings = TlsPassthrough {
        client_hello_timeout: Duration::from_secs(5),
        client_hello_max: 16 * 1024,
        client_hello_wire_max: 64 * 1024,
        policies: [Policy::Reject; HelloReason::ALL.len()],
        routes: (0..60).map(route).collect(),
    };
    let names: Vec<String> = std::iter::once(0).chain(others.iter().copied()).map(name).collect();
    let certificates = Certificates(vec![(BackendId(0), Arc::new(LastCertificate { names, not_after: 0 }))]);
    before.follow(&route::find(&Router::new(&settings), &settings, &certificates.shown()))
}

fn others(finding: &Finding) -> Vec<usize> {
    finding.listed.iter().map(|listed| listed.other.0).collect()
}

#[test]
fn what_is_listed_stays_while_it_lasts() {
    let all: Vec<usize> = (1..60).collect();
    let late = overlaps_with(&all[35..55], &Finding::default());
    assert_eq!((others(&late), late.more), (all[35..55].to_vec(), 0));
    // Others, however early in the order, get the places that are free.
    let more = overlaps_with(&all, &late);
    assert_eq!((others(&more), more.more), (all[35..55].to_vec(), 39));
    let fewer = overlaps_with(&all[..54], &more);
    assert_eq!((others(&fewer), fewer.more), ([&all[..1], &all[35..54]].concat(), 34));
    assert_eq!(overlaps_with(&[], &fewer), Finding::default());
}
