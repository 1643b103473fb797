// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who keeps a connection to the surface when there are too many. Nobody waits for a place: a new connection takes that of
//! another, so that no number of silent clients keeps out one that speaks.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, Id};

/// Leading bits of an IPv6 address that one client can have many of (RFC 6177 section 2: a site gets a /64 at the least).
const IPV6_PREFIX: u32 = 64;

/// Whom connections are counted for: an IPv4 address, or a network of IPv6. Loopback is no exception: who may use this host need not
/// be who may see the surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source(IpAddr);

/// Set while the answer to a request that was let in is on its way. Until then a client has shown nothing that earns a place:
/// neither part of a request nor wrong credentials.
pub(super) type IsAnswered = Arc<AtomicBool>;

/// The connections, the oldest first.
#[derive(Debug)]
pub(super) struct Places {
    places: Vec<Place>,
    all_max: usize,
    source_max: usize,
}

#[derive(Debug)]
struct Place {
    source: Source,
    is_answered: IsAnswered,
    task: AbortHandle,
}

impl Source {
    /// The source of a connection from this address.
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (u128::BITS - IPV6_PREFIX))).into()
            }
        })
    }
}

impl Places {
    /// Places for `all_max` connections, of which one source has at most `source_max`.
    pub(super) fn new(all_max: usize, source_max: usize) -> Self {
        Self { places: Vec::with_capacity(all_max), all_max, source_max }
    }

    /// Ends a connection, if so many are there that a new one from this source has no place: one of the source itself, if it has
    /// all that it may have.
    pub(super) fn make_room(&mut self, source: Source) {
        let of_source = |place: &Place| place.source == source;
        let victim = if self.places.iter().filter(|place| of_source(place)).count() >= self.source_max {
            self.victim(of_source)
        } else if self.places.len() >= self.all_max {
            self.victim(|_| true)
        } else {
            None
        };
        if let Some(victim) = victim {
            self.places.remove(victim).task.abort();
        }
    }

    /// The oldest that is not being answered, or else the oldest.
    fn victim(&self, is_meant: impl Fn(&Place) -> bool) -> Option<usize> {
        let meant = || self.places.iter().enumerate().filter(|(_, place)| is_meant(place));
        let mut unanswered = meant().filter(|(_, place)| !place.is_answered.load(Ordering::Relaxed));
        unanswered.next().or_else(|| meant().next()).map(|(position, _)| position)
    }

    /// Adds the newest connection.
    pub(super) fn add(&mut self, source: Source, is_answered: IsAnswered, task: AbortHandle) {
        self.places.push(Place { source, is_answered, task });
    }

    /// Gives back the place of a connection that has ended. One that had to make room has none any more.
    pub(super) fn give_back(&mut self, task: Id) {
        self.places.retain(|place| place.task.id() != task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn a_source_is_what_one_client_has() {
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("127.0.0.1"), source("::1"));
    }

    /// Adds a connection from each source in turn, of which those in capitals are being answered, and says who is left.
    async fn check(arrivals: &str, expected: &str) {
        let mut places = Places::new(4, 2);
        for name in arrivals.chars() {
            let source = Source::of([10, 0, 0, name.to_ascii_lowercase() as u8].into());
            let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
            places.make_room(source);
            places.add(source, Arc::new(name.is_uppercase().into()), task);
        }
        let left = places.places.iter().map(|place| {
            let IpAddr::V4(address) = place.source.0 else { panic!("{place:?}") };
            let name = char::from(address.octets()[3]);
            if place.is_answered.load(Ordering::Relaxed) { name.to_ascii_uppercase() } else { name }
        });
        assert_eq!(left.collect::<String>(), expected, "{arrivals}");
    }

    #[tokio::test]
    async fn the_oldest_that_has_not_asked_makes_room() {
        check("abcd", "abcd").await;
        check("abcde", "bcde").await;
        check("ABcde", "ABde").await;
        check("ABCDe", "BCDe").await;
        check("aa", "aa").await;
        check("abaA", "baA").await;
        check("bAaAaA", "bAA").await;
        check("bcaaaaaaaa", "bcaa").await;
        check("bcaaaaaaaad", "caad").await;
    }
}
