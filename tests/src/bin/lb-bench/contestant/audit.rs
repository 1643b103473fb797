// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether lb carried what the client asked for, and on the path that the contestant is named for, by lb's own counters.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;
use crate::load::Traffic;

/// How long counters may take: they are exact once a flow has ended, and lb hears of its end a little later than the client.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often they are looked at.
const POLL: Duration = Duration::from_millis(20);

/// Bytes that lb has carried, by path (`lb_path_bytes_total`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<String, u64>);

/// Which path must have carried the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Whichever: the path is lb's choice.
    Any,
    /// This one; the ClientHello may have gone another way.
    Path(&'static str),
    /// The first, or the second, to which it leaves what a receiver does not keep up with. Something must have gone by the first, and one
    /// byte in a hundred may go another way.
    Either(&'static str, &'static str),
    /// Whichever, where this one is to be had: to what is short or a stream, it is not worth it.
    Late(&'static str),
    /// Flows that carry [`LONG`] times their ClientHello, on the average, have left a quarter to this one at least: a stream that never pauses is
    /// asked to, and takes its time.
    Long(&'static str),
}

/// See [`Claim::Long`]: some 100 MB.
const LONG: u64 = 200_000;

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
    if let Claim::Late(path) = claim {
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
    let (path, other, elsewhere_max) = match claim {
        Claim::Any | Claim::Late(_) => return Ok(()),
        Claim::Path(path) => (path, None, traffic.hello_bytes),
        Claim::Either(path, other) => (path, Some(other), traffic.hello_bytes.max(total / 100)),
        Claim::Long(_) if total / LONG < traffic.hello_bytes.max(1) => return Ok(()),
        Claim::Long(path) => (path, None, total / 4 * 3),
    };
    let elsewhere = total - by(path) - other.map_or(0, by);
    ensure!(
        elsewhere <= elsewhere_max && (total == 0 || by(path) > 0),
        "{elsewhere} of {total} bytes did not go by path {path}; {elsewhere_max} may: {:?}",
        carried.0
    );
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

    #[test]
    fn bytes_must_be_all_there_and_on_their_path() {
        let traffic = |bytes, hello_bytes, is_exact| Traffic { bytes, hello_bytes, is_exact };
        let check = |traffic, claim, expected: bool| {
            assert_eq!(judge(&carried(), &traffic, claim).is_ok(), expected, "{traffic:?} {claim:?}");
        };
        check(traffic(1000, 100, true), Claim::Path("splice"), true);
        check(traffic(1000, 99, true), Claim::Path("splice"), false);
        check(traffic(1000, 99, true), Claim::Any, true);
        check(traffic(1000, 100, true), Claim::Path("copy"), false);
        check(traffic(1000, 99, true), Claim::Either("splice", "sockmap"), false);
        check(traffic(1000, 100, true), Claim::Either("splice", "sockmap"), true);
        check(traffic(1000, 0, true), Claim::Either("splice", "copy"), true);
        check(traffic(1000, 1000, true), Claim::Either("sockmap", "copy"), false);
        check(traffic(1000, 0, true), Claim::Long("copy"), true);
        let long = Ledger(BTreeMap::from([("packet".to_owned(), 8 * LONG), ("splice".to_owned(), 2 * LONG)]));
        let judged = |path| judge(&long, &traffic(10 * LONG, 10, true), Claim::Long(path)).is_ok();
        assert!(judged("packet") && !judged("splice"));
        check(traffic(999, 100, true), Claim::Any, false);
        check(traffic(999, 100, false), Claim::Any, true);
        check(traffic(1001, 100, false), Claim::Any, false);
    }
}
