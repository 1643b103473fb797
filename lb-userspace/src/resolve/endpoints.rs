// SPDX-License-Identifier: MIT OR Apache-2.0
//! From addresses to servers of one entry: weights, backups, how many at most, and what changes. Pure.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::answer::{Candidate, address};
use crate::backend::Endpoint;
use crate::config;

/// The greatest weight of a server.
const WEIGHT_MAX: u16 = 256;

/// The servers of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// One an address, those that go first in front.
    pub(super) endpoints: Vec<Endpoint>,
    /// Addresses beyond `max-addresses`.
    pub(super) left_out: usize,
}

/// The addresses by which two sets of servers differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// In the second alone.
    pub(super) added: Vec<SocketAddr>,
    /// In the first alone.
    pub(super) removed: Vec<SocketAddr>,
}

/// Makes servers of candidates. Where there are too many, those of the lowest priority number stay, and of these, who is there
/// already: an answer in another order must not exchange servers.
pub(super) fn choose(candidates: &[Candidate], server: &config::Server, present: &[Endpoint]) -> Chosen {
    let port = match &server.address {
        config::Address::Host { port, .. } => *port,
        config::Address::Ip(_) | config::Address::Service { .. } => 0,
    };
    let priority = |candidate: &Candidate| candidate.role.map_or(0, |role| role.priority);
    let first = candidates.iter().map(priority).min().unwrap_or(0);
    let heaviest = candidates.iter().filter_map(|candidate| Some(candidate.role?.weight)).max().unwrap_or(0);
    let present: BTreeSet<_> = present.iter().map(|endpoint| endpoint.address).collect();
    let mut ranked: Vec<_> = candidates
        .iter()
        .map(|candidate| {
            let endpoint = Endpoint {
                address: address(candidate, port),
                weight: candidate.role.map_or(server.weight, |role| scaled(role.weight, heaviest)),
                is_backup: server.is_backup || priority(candidate) > first,
            };
            let is_present = present.contains(&endpoint.address);
            (priority(candidate), Reverse(is_present), Reverse(endpoint.weight), endpoint)
        })
        .collect();
    ranked.sort_by_key(|(priority, is_present, weight, endpoint)| {
        (*priority, *is_present, *weight, endpoint.address)
    });
    let mut seen = BTreeSet::new();
    let mut endpoints: Vec<Endpoint> = (ranked.into_iter().map(|(_, _, _, endpoint)| endpoint))
        .filter(|endpoint| seen.insert(endpoint.address))
        .collect();
    let most = server.address.servers_max() as usize;
    let left_out = endpoints.len().saturating_sub(most);
    endpoints.truncate(most);
    Chosen { endpoints, left_out }
}

/// What changes from one set of servers to another.
pub(super) fn difference(before: &[Endpoint], after: &[Endpoint]) -> Difference {
    let addresses = |endpoints: &[Endpoint]| endpoints.iter().map(|end| end.address).collect::<BTreeSet<_>>();
    let (before, after) = (addresses(before), addresses(after));
    Difference {
        added: after.difference(&before).copied().collect(),
        removed: before.difference(&after).copied().collect(),
    }
}

/// The weight of an SRV record, 0 to 65,535, as a server's. As it is, if none of its records is above the most that a server can
/// have; otherwise in proportion, the heaviest having the most. One of 0 stands for a very small chance (RFC 2782), which is 1.
fn scaled(weight: u16, heaviest: u16) -> u16 {
    let weight = u32::from(weight);
    let weight = match u32::from(heaviest) {
        heaviest if heaviest > u32::from(WEIGHT_MAX) => {
            (weight * u32::from(WEIGHT_MAX) + heaviest / 2) / heaviest
        }
        _ => weight,
    };
    u16::try_from(weight.max(1)).unwrap_or(WEIGHT_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::answer::Role;
    use super::*;
    use crate::backend::testing::server;
    use crate::config::{Address, Family, Lookup, Server};

    fn lookup(max_addresses: u32) -> Lookup {
        Lookup { family: Family::Any, max_addresses }
    }

    fn host(max: u32) -> Server {
        let address = Address::Host { name: "h".into(), port: 80, lookup: lookup(max) };
        Server { address, ..server("s", 7, 0) }
    }

    fn service(max: u32) -> Server {
        Server { address: Address::Service { name: "s".into(), lookup: lookup(max) }, ..server("s", 1, 0) }
    }

    fn plain(last: u8) -> Candidate {
        Candidate { ip: [10, 0, 0, last].into(), role: None }
    }

    fn record(last: u8, port: u16, priority: u16, weight: u16) -> Candidate {
        Candidate { role: Some(Role { port, priority, weight }), ..plain(last) }
    }

    /// `10.0.0.LAST:PORT*WEIGHT`, with `~` behind backups.
    fn shown(endpoints: &[Endpoint]) -> Vec<String> {
        let show = |end: &Endpoint| {
            format!("{}*{}{}", end.address, end.weight, if end.is_backup { "~" } else { "" })
        };
        endpoints.iter().map(show).collect()
    }

    #[test]
    fn addresses_become_servers() {
        let check = |candidates: &[Candidate], server: &Server, expected: &[&str], left_out: usize| {
            let chosen = choose(candidates, server, &[]);
            assert_eq!(
                (&shown(&chosen.endpoints)[..], chosen.left_out),
                (&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..], left_out)
            );
        };
        let two = [plain(2), plain(1), plain(2)];
        check(&two, &host(9), &["10.0.0.1:80*7", "10.0.0.2:80*7"], 0);
        check(&two, &host(1), &["10.0.0.1:80*7"], 1);
        let backup = Server { is_backup: true, ..host(9) };
        check(&[plain(1)], &backup, &["10.0.0.1:80*7~"], 0);
        check(&[], &host(9), &[], 0);
        let small = [record(1, 81, 5, 10), record(2, 82, 5, 0), record(3, 83, 9, 256), record(1, 84, 5, 20)];
        let expected = ["10.0.0.1:84*20", "10.0.0.1:81*10", "10.0.0.2:82*1", "10.0.0.3:83*256~"];
        check(&small, &service(9), &expected, 0);
        check(&small, &service(2), &expected[..2], 2);
        let large = [record(1, 81, 0, 65_535), record(2, 81, 0, 32_768), record(3, 81, 0, 100)];
        check(&large, &service(9), &["10.0.0.1:81*256", "10.0.0.2:81*128", "10.0.0.3:81*1"], 0);
        // The same address twice: the more important record counts.
        check(&[record(1, 81, 9, 7), record(1, 81, 5, 3)], &service(9), &["10.0.0.1:81*3"], 0);
    }

    #[test]
    fn who_is_there_stays_where_there_are_too_many() {
        let present = choose(&[plain(8), plain(9)], &host(2), &[]).endpoints;
        let chosen = choose(&[plain(1), plain(9), plain(8), plain(2)], &host(2), &present);
        assert_eq!((difference(&present, &chosen.endpoints), chosen.left_out), (Difference::default(), 2));
        let chosen = choose(&[plain(1), plain(9), plain(2)], &host(2), &present);
        let at = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
        let expected = Difference { added: vec![at(1)], removed: vec![at(8)] };
        assert_eq!(difference(&present, &chosen.endpoints), expected);
    }

    proptest! {
        #[test]
        fn order_makes_no_difference(
            records in prop::collection::vec((0u8..6, 1u16..4, 0u16..3, any::<u16>()), 1..20),
            seed in any::<usize>(),
            max in 1u32..20,
        ) {
            let candidates: Vec<_> = records.iter().map(|(last, port, priority, weight)| record(*last, *port, *priority, *weight)).collect();
            let mut turned = candidates.clone();
            turned.rotate_left(seed % candidates.len());
            turned.reverse();
            let (one, other) = (choose(&candidates, &service(max), &[]), choose(&turned, &service(max), &[]));
            prop_assert_eq!(&one, &other);
            prop_assert!(one.endpoints.len() <= max as usize && !one.endpoints.is_empty());
            prop_assert!(one.endpoints.iter().all(|end| (1..=256).contains(&end.weight)));
            prop_assert!(one.endpoints.iter().any(|end| !end.is_backup));
            let difference = difference(&one.endpoints, &choose(&turned, &service(max), &one.endpoints).endpoints);
            prop_assert_eq!(difference, Difference::default());
        }
    }
}
