// SPDX-License-Identifier: MIT OR Apache-2.0
//! What DNS says of a name, and what that means together with what it said before. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::reason::ResolutionResult;

/// Records, or why there are none.
pub(super) type Reply<T> = Result<Found<T>, NoAnswer>;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    /// At least one.
    pub(super) items: Vec<T>,
    /// How long it counts.
    pub(super) ttl: Duration,
    /// A part could not be had and is as it was before: worth asking again soon.
    pub(super) is_partial: bool,
}

/// Why there are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The name does not exist.
    NxDomain,
    /// It has no such record.
    Empty,
    /// Nobody said anything in time.
    Timeout,
    /// The servers fail or refuse.
    Failure,
    /// One server knows of nothing, but another did not say so.
    Doubt,
}

/// The two kinds of records with addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A
    V4,
    /// AAAA
    V6,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    /// The host, without a trailing dot.
    pub(super) target: Arc<str>,
    /// What the record says of it.
    pub(super) role: Role,
}

/// What an SRV record says of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Role {
    /// Where it listens; never 0.
    pub(super) port: u16,
    /// Lower ones go first.
    pub(super) priority: u16,
    /// The share among those of its priority.
    pub(super) weight: u16,
}

/// An address that may become a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The address.
    pub(super) ip: IpAddr,
    /// What an SRV record says of it; `None`: the entry of the configuration decides.
    pub(super) role: Option<Role>,
}

/// The last addresses of each host, for when one of two questions fails and the other does not.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<(Arc<str>, Kind), Vec<IpAddr>>);

impl NoAnswer {
    /// Whether DNS has spoken: all of it knows that there is nothing.
    pub(super) fn is_certain(self) -> bool {
        matches!(self, Self::NxDomain | Self::Empty)
    }

    /// Its name in metrics and logs.
    pub(super) fn result(self) -> ResolutionResult {
        match self {
            Self::NxDomain => ResolutionResult::NxDomain,
            Self::Empty => ResolutionResult::Empty,
            Self::Timeout => ResolutionResult::Timeout,
            Self::Failure | Self::Doubt => ResolutionResult::Failure,
        }
    }
}

impl Memory {
    /// The addresses of a host from the replies to the questions for it. A failed one counts as before, if another has an answer.
    pub(super) fn merge(&mut self, host: &Arc<str>, replies: &[(Kind, Reply<IpAddr>)]) -> Reply<IpAddr> {
        let mut found = Found { items: Vec::new(), ttl: Duration::MAX, is_partial: false };
        let mut is_answered = false;
        for (kind, reply) in replies {
            let key = (Arc::clone(host), *kind);
            match reply {
                Ok(answer) => {
                    is_answered = true;
                    found.ttl = found.ttl.min(answer.ttl);
                    found.items.extend(&answer.items);
                    self.0.insert(key, answer.items.clone());
                }
                Err(no_answer) if no_answer.is_certain() => _ = self.0.remove(&key),
                // A server that is gone makes no trouble of records that there never were: mostly AAAA beside A.
                Err(NoAnswer::Doubt) if !self.0.contains_key(&key) => {}
                Err(_) => {
                    found.is_partial = true;
                    found.items.extend(self.0.get(&key).into_iter().flatten());
                }
            }
        }
        if is_answered {
            return Ok(found);
        }
        let reasons: Vec<NoAnswer> =
            replies.iter().filter_map(|(_, reply)| reply.as_ref().err().copied()).collect();
        if reasons.contains(&NoAnswer::NxDomain) {
            // The name itself is gone, and with it whatever it had.
            self.0.retain(|(known, _), _| known != host);
        }
        Err(worst(&reasons))
    }

    /// Forgets hosts that no record names any more.
    fn keep_only(&mut self, records: &[ServiceRecord]) {
        self.0.retain(|(host, _), _| records.iter().any(|record| record.target == *host));
    }

    /// The addresses behind SRV records, from the replies to the questions for their hosts.
    pub(super) fn merge_service(
        &mut self,
        records: &Found<ServiceRecord>,
        replies: &BTreeMap<Arc<str>, Vec<(Kind, Reply<IpAddr>)>>,
    ) -> Reply<Candidate> {
        self.keep_only(&records.items);
        let hosts: BTreeMap<&Arc<str>, Reply<IpAddr>> =
            replies.iter().map(|(host, replies)| (host, self.merge(host, replies))).collect();
        let mut found = Found { items: Vec::new(), ttl: records.ttl, is_partial: false };
        let mut reasons = Vec::new();
        for record in &records.items {
            match hosts.get(&record.target) {
                Some(Ok(addresses)) => {
                    found.ttl = found.ttl.min(addresses.ttl);
                    found.is_partial |= addresses.is_partial;
                    let candidate = |ip: &IpAddr| Candidate { ip: *ip, role: Some(record.role) };
                    found.items.extend(addresses.items.iter().map(candidate));
                }
                Some(Err(reason)) => {
                    reasons.push(*reason);
                    found.is_partial |= !reason.is_certain();
                    found.items.extend(self.remembered(record, *reason));
                }
                None => {}
            }
        }
        if found.items.is_empty() {
            // The service exists, whatever its hosts do.
            return Err(match worst(&reasons) {
                NoAnswer::NxDomain => NoAnswer::Empty,
                reason => reason,
            });
        }
        Ok(found)
    }

    /// What is known of a host whose questions all failed.
    fn remembered(&self, record: &ServiceRecord, reason: NoAnswer) -> Vec<Candidate> {
        if reason.is_certain() {
            return Vec::new();
        }
        let known =
            [Kind::V4, Kind::V6].into_iter().filter_map(|kind| self.0.get(&(record.target.clone(), kind)));
        known.flatten().map(|ip| Candidate { ip: *ip, role: Some(record.role) }).collect()
    }
}

/// What several reasons amount to: a name that does not exist has no records of any kind; otherwise any doubt leaves all in doubt.
fn worst(reasons: &[NoAnswer]) -> NoAnswer {
    let order = [NoAnswer::NxDomain, NoAnswer::Failure, NoAnswer::Doubt, NoAnswer::Timeout];
    order.into_iter().find(|reason| reasons.contains(reason)).unwrap_or(NoAnswer::Empty)
}

/// An address that a server can have; an IPv4 one in IPv6 clothes as what it is.
pub(super) fn usable(ip: IpAddr) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    let is_special = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        // It is of use with an interface only, which no record says.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (!is_special && !ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

/// The addresses of a name in a file like /etc/hosts (hosts(5)).
pub(super) fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse().ok()).and_then(usable) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&ip) {
            found.push(ip);
        }
    }
    found
}

/// The addresses of candidates, for tests and messages.
pub(super) fn address(candidate: &Candidate, port: u16) -> SocketAddr {
    SocketAddr::new(candidate.ip, candidate.role.map_or(port, |role| role.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn found<T>(items: Vec<T>, seconds: u64) -> Reply<T> {
        Ok(Found { items, ttl: Duration::from_secs(seconds), is_partial: false })
    }

    fn partial<T>(items: Vec<T>, seconds: u64) -> Reply<T> {
        Ok(Found { items, ttl: Duration::from_secs(seconds), is_partial: true })
    }

    #[test]
    fn a_failed_family_stays_as_it_was() {
        use NoAnswer::*;
        let mut memory = Memory::default();
        let mut check = |v4: Reply<IpAddr>, v6: Reply<IpAddr>, expected: Reply<IpAddr>| {
            assert_eq!(memory.merge(&"h".into(), &[(Kind::V4, v4), (Kind::V6, v6)]), expected);
        };
        check(Err(Timeout), Err(Timeout), Err(Timeout));
        check(found(vec![ip(1)], 9), Err(Failure), partial(vec![ip(1)], 9));
        check(found(vec![ip(1)], 9), found(vec![ip(6)], 5), found(vec![ip(1), ip(6)], 5));
        check(found(vec![ip(2)], 9), Err(Timeout), partial(vec![ip(2), ip(6)], 9));
        check(Err(Failure), Err(Timeout), Err(Failure));
        check(Err(Empty), Err(Timeout), Err(Timeout));
        check(Err(Timeout), found(vec![ip(6)], 7), partial(vec![ip(6)], 7));
        check(found(vec![ip(1)], 9), Err(Empty), found(vec![ip(1)], 9));
        check(found(vec![ip(1)], 9), Err(Timeout), partial(vec![ip(1)], 9));
        check(Err(Empty), Err(Empty), Err(Empty));
        check(found(vec![ip(1)], 9), found(vec![ip(6)], 9), found(vec![ip(1), ip(6)], 9));
        check(Err(NxDomain), Err(Timeout), Err(NxDomain));
        check(found(vec![ip(1)], 9), Err(Timeout), partial(vec![ip(1)], 9));
        check(found(vec![ip(1)], 9), Err(Doubt), found(vec![ip(1)], 9));
        check(Err(Doubt), Err(Doubt), Err(Doubt));
        check(Err(Empty), Err(Doubt), Err(Doubt));
        check(found(vec![ip(1)], 9), found(vec![ip(6)], 9), found(vec![ip(1), ip(6)], 9));
        check(Err(Doubt), found(vec![ip(6)], 9), partial(vec![ip(1), ip(6)], 9));
    }

    fn record(target: &str, port: u16) -> ServiceRecord {
        ServiceRecord { target: target.into(), role: Role { port, priority: 1, weight: 2 } }
    }

    #[test]
    fn a_service_is_its_hosts() {
        use NoAnswer::*;
        let mut memory = Memory::default();
        let mut check = |records: &[&str], hosts: &[(&str, Reply<IpAddr>)], expected: Reply<u8>| {
            let items = records.iter().map(|target| record(target, 80)).collect();
            let records = Found { items, ttl: Duration::from_secs(8), is_partial: false };
            let replies =
                hosts.iter().map(|(host, reply)| (Arc::from(*host), vec![(Kind::V4, reply.clone())]));
            let last = |candidate: &Candidate| match candidate.ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            };
            let merged = memory.merge_service(&records, &replies.collect()).map(|found| Found {
                items: found.items.iter().map(last).collect(),
                ttl: found.ttl,
                is_partial: found.is_partial,
            });
            assert_eq!(merged, expected, "{hosts:?}");
        };
        let (a, b) = (found(vec![ip(1)], 9), found(vec![ip(2), ip(3)], 4));
        check(&["a", "b"], &[("a", a.clone()), ("b", b.clone())], found(vec![1, 2, 3], 4));
        check(&["a", "b"], &[("a", a.clone()), ("b", Err(Timeout))], partial(vec![1, 2, 3], 8));
        check(&["a", "b"], &[("a", Err(NxDomain)), ("b", Err(Timeout))], partial(vec![2, 3], 8));
        check(&["a", "b"], &[("a", a.clone()), ("b", Err(NxDomain))], found(vec![1], 8));
        check(&["a", "b"], &[("a", Err(Empty)), ("b", Err(NxDomain))], Err(Empty));
        check(&["a", "b"], &[("a", Err(Empty)), ("b", Err(Failure))], Err(Failure));
        check(&["a"], &[("a", a.clone())], found(vec![1], 8));
        check(&["b"], &[("b", b)], found(vec![2, 3], 4));
        // A host that was not named for a while begins anew.
        check(&["a", "b"], &[("a", Err(Timeout)), ("b", Err(Timeout))], partial(vec![2, 3], 8));
    }

    #[test]
    fn hosts_files() {
        let text = "# x\n127.0.0.1 localhost\n::1\tlocalhost ip6-localhost\n10.0.0.1 Web.internal web # web2\n\
                    fe80::1%eth0 web\nbroken web\n10.0.0.2 web\n10.0.0.1 web\n0.0.0.0 web\n";
        let check = |name: &str, expected: &[&str]| {
            let found: Vec<String> = in_hosts(text, name).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        };
        check("localhost", &["127.0.0.1", "::1"]);
        check("web", &["10.0.0.1", "10.0.0.2"]);
        check("web.internal", &["10.0.0.1"]);
        check("web2", &[]);
        check("10.0.0.1", &[]);
    }

    #[test]
    fn addresses_that_no_server_has_are_left_out() {
        let check = |ip: &str, expected: Option<&str>| {
            assert_eq!(usable(ip.parse().unwrap()), expected.map(|ip| ip.parse().unwrap()), "{ip}");
        };
        check("10.0.0.1", Some("10.0.0.1"));
        check("127.0.0.1", Some("127.0.0.1"));
        check("fd00::1", Some("fd00::1"));
        check("::ffff:10.0.0.1", Some("10.0.0.1"));
        ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "fe80::1"]
            .iter()
            .for_each(|ip| check(ip, None));
    }
}
