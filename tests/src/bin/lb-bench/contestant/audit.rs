// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether lb carried what the client asked for, and on the path that the contestant is named for, by lb's own counters.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;
use crate::load::{Lasting, Traffic};

/// How long counters may take: they are exact once a flow has ended, and lb hears of its end a little later than the client.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often they are looked at.
const POLL: Duration = Duration::from_millis(20);

/// Bytes that lb has carried, by path (`lb_path_bytes_total`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<String, u64>);

/// Which path must have carried the bytes; what flows do, and for how long, says how much of them (see [`Lasting`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The path is lb's choice: of streams, half of what comes after their beginning by this one.
    Choice(&'static str),
    /// All by this one.
    Path(&'static str),
    /// All by the first, but for one byte in a hundred; of streams and bursts, also by the second, to which it leaves
    /// what a receiver does not keep up with, and something by the first.
    Either(&'static str, &'static str),
    /// What comes after the beginning of a flow: of messages and bursts three quarters, and of streams, which are asked to pause and take
    /// their time, a quarter.
    Lasting(&'static str),
    /// The path is to be had, and to what is short it is not worth it: of streams a quarter of what comes after their beginning, by it or by
    /// the second.
    Late(&'static str, &'static str),
}

/// What a claim comes to.
struct Demand {
    /// Who must have carried the bytes, together.
    paths: [&'static str; 2],
    /// How many, at least.
    bytes: u64,
}

impl Claim {
    fn demand(self, traffic: &Traffic, total: u64) -> Demand {
        let nearly_all = total - total / 100;
        let (paths, bytes) = match (self, traffic.lasting) {
            (Self::Path(path), _) => ([path, path], total),
            (Self::Either(path, other), Lasting::Stream(_) | Lasting::Bursts(_)) => {
                ([path, other], nearly_all)
            }
            (Self::Either(path, _), _) => ([path, path], nearly_all),
            (Self::Choice(path), Lasting::Stream(bytes)) => ([path, path], bytes / 2),
            (Self::Lasting(path), Lasting::Messages(bytes) | Lasting::Bursts(bytes)) => {
                ([path, path], bytes / 4 * 3)
            }
            (Self::Lasting(path), Lasting::Stream(bytes)) => ([path, path], bytes / 4),
            (Self::Late(path, other), Lasting::Stream(bytes)) => ([path, other], bytes / 4),
            (Self::Choice(path) | Self::Lasting(path) | Self::Late(path, _), _) => ([path, path], 0),
        };
        Demand { paths, bytes }
    }
}

impl Ledger {
    /// As lb's admin surface shows it.
    ///
    /// # Errors
    /// lb does not answer.
    pub fn read(lab: &Lab, admin: SocketAddr) -> Result<Self> {
        let metrics = lab.balancer.run(move || metrics(admin))?;
        Ok(Self::parse(&metrics.context("lb does not show its counters")?))
    }

    fn parse(metrics: &str) -> Self {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix("lb_path_bytes_total{"));
        let counters = lines.filter_map(|line| {
            let (labels, value) = line.split_once("} ")?;
            let (_, path) = labels.split_once("path=\"")?;
            Some((path.trim_end_matches('"').to_owned(), value.trim().parse().ok()?))
        });
        Self(counters.collect())
    }

    fn since(&self, earlier: &Self) -> Self {
        let grown = |(path, bytes): (&String, &u64)| {
            (path.clone(), bytes - earlier.0.get(path).copied().unwrap_or_default().min(*bytes))
        };
        Self(self.0.iter().map(grown).collect())
    }

    /// Bytes by path.
    pub fn into_bytes(self) -> BTreeMap<String, u64> {
        self.0
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Waits until the counters have grown by what went over the wire, checks the path, and says by how much they have grown.
///
/// # Errors
/// They have not, or the bytes went another way.
pub fn audit(
    lab: &Lab,
    admin: SocketAddr,
    before: &Ledger,
    traffic: &Traffic,
    claim: Claim,
) -> Result<Ledger> {
    if let Claim::Late(path, _) | Claim::Lasting(path) = claim {
        ensure_available(lab, admin, path)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let carried = Ledger::read(lab, admin)?.since(before);
        match judge(&carried, traffic, claim) {
            Err(_) if Instant::now() < deadline => thread::sleep(POLL),
            Ok(()) => return Ok(carried),
            Err(error) => return Err(error.context(fallbacks(lab, admin)?)),
        }
    }
}

/// Whether flows could go by a path at all.
fn ensure_available(lab: &Lab, admin: SocketAddr, path: &str) -> Result<()> {
    let metrics = lab.balancer.run(move || metrics(admin))??;
    let prefix = format!("lb_path_available{{path=\"{path}\"");
    let lines: Vec<_> = metrics.lines().filter(|line| line.starts_with(&prefix)).collect();
    ensure!(lines.iter().any(|line| line.ends_with(" 1")), "path {path} is off: {}", lines.join(" "));
    Ok(())
}

/// How often a path did not take a flow since lb started, by why.
fn fallbacks(lab: &Lab, admin: SocketAddr) -> Result<String> {
    let metrics = lab.balancer.run(move || metrics(admin))??;
    let counters = metrics.lines().filter_map(|line| line.strip_prefix("lb_path_fallbacks_total"));
    let counters: Vec<_> = counters.filter(|line| !line.ends_with(" 0")).collect();
    Ok(format!("flows that a path did not take: {}", counters.join(" ")))
}

fn judge(carried: &Ledger, traffic: &Traffic, claim: Claim) -> Result<()> {
    let total = carried.total();
    let (is_right, relation) = match traffic.is_exact {
        true => (total == traffic.bytes, "exactly"),
        false => (total >= traffic.bytes, "at least"),
    };
    ensure!(is_right, "lb counts {total} bytes where {relation} {} went through it", traffic.bytes);
    let by = |path| carried.0.get(path).copied().unwrap_or_default();
    let Demand { paths: [path, other], bytes } = claim.demand(traffic, total);
    let carried_there = by(path) + if other == path { 0 } else { by(other) };
    let paths = if other == path { path.to_owned() } else { format!("{path} or {other}") };
    ensure!(
        carried_there >= bytes,
        "{carried_there} of {total} bytes went by path {paths}; {bytes} must: {:?}",
        carried.0
    );
    let is_first_demanded = matches!(claim, Claim::Path(_) | Claim::Either(..)) && total > 0;
    ensure!(!is_first_demanded || by(path) > 0, "nothing went by path {path}: {:?}", carried.0);
    Ok(())
}

fn metrics(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE lb_path_bytes_total counter
lb_path_bytes_total{frontend=\"bench\",path=\"splice\"} 900
lb_path_bytes_total{frontend=\"bench\",path=\"copy\"} 100
lb_path_flows_total{frontend=\"bench\",path=\"copy\"} 7
";

    fn carried() -> Ledger {
        Ledger::parse(METRICS)
    }

    #[test]
    fn bytes_are_read_by_path() {
        assert_eq!(carried().0, BTreeMap::from([("splice".to_owned(), 900), ("copy".to_owned(), 100)]));
        let grown = carried().since(&Ledger(BTreeMap::from([("splice".to_owned(), 850)])));
        assert_eq!((grown.0["splice"], grown.0["copy"], grown.total()), (50, 100, 150));
    }

    /// The bytes of [`METRICS`]: 900 by splice, 100 by copy.
    #[track_caller]
    fn check(claim: Claim, lasting: Lasting, expected: bool) {
        let traffic = Traffic { bytes: 1000, is_exact: true, lasting };
        let judged = judge(&carried(), &traffic, claim);
        assert_eq!(judged.is_ok(), expected, "{traffic:?} {claim:?}: {judged:?}");
    }

    #[test]
    fn bytes_must_be_all_there() {
        let check = |bytes, is_exact, expected: bool| {
            let traffic = Traffic { bytes, is_exact, lasting: Lasting::Nothing };
            assert_eq!(judge(&carried(), &traffic, Claim::Choice("splice")).is_ok(), expected, "{traffic:?}");
        };
        check(1000, true, true);
        check(999, true, false);
        check(999, false, true);
        check(1001, false, false);
    }

    #[test]
    fn a_path_that_takes_flows_at_once_has_all() {
        let all = |path: &str, other: u64| {
            let carried =
                Ledger(BTreeMap::from([(path.to_owned(), 1000 - other), ("none".to_owned(), other)]));
            move |claim, lasting| {
                judge(&carried, &Traffic { bytes: 1000, is_exact: true, lasting }, claim).is_ok()
            }
        };
        for lasting in
            [Lasting::Nothing, Lasting::Messages(1000), Lasting::Bursts(1000), Lasting::Stream(1000)]
        {
            assert!(all("splice", 0)(Claim::Path("splice"), lasting));
            assert!(!all("splice", 1)(Claim::Path("splice"), lasting));
            assert!(!all("copy", 0)(Claim::Path("splice"), lasting));
            assert!(all("sockmap", 10)(Claim::Either("sockmap", "splice"), lasting));
            assert!(!all("sockmap", 11)(Claim::Either("sockmap", "splice"), lasting));
            assert!(!all("splice", 0)(Claim::Either("sockmap", "splice"), lasting));
        }
    }

    #[test]
    fn only_streams_and_bursts_may_be_left_to_the_second_path() {
        check(Claim::Either("copy", "splice"), Lasting::Stream(1000), true);
        check(Claim::Either("copy", "splice"), Lasting::Bursts(1000), true);
        check(Claim::Either("copy", "splice"), Lasting::Messages(1000), false);
        check(Claim::Either("copy", "splice"), Lasting::Nothing, false);
    }

    #[test]
    fn a_path_that_takes_flows_late_has_a_part_of_what_comes_then() {
        let (messages, stream) = (Lasting::Messages, Lasting::Stream);
        check(Claim::Lasting("copy"), messages(132), true);
        check(Claim::Lasting("copy"), messages(136), false);
        check(Claim::Lasting("copy"), Lasting::Bursts(136), false);
        check(Claim::Lasting("copy"), stream(400), true);
        check(Claim::Lasting("copy"), stream(404), false);
        check(Claim::Lasting("packet"), messages(4), false);
        check(Claim::Lasting("packet"), Lasting::Nothing, true);
        check(Claim::Late("copy", "copy"), stream(404), false);
        check(Claim::Late("copy", "splice"), stream(1000), true);
        check(Claim::Late("packet", "packet"), messages(1000), true);
        check(Claim::Choice("copy"), stream(200), true);
        check(Claim::Choice("copy"), stream(202), false);
        check(Claim::Choice("packet"), messages(1000), true);
    }
}
