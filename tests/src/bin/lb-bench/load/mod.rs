// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load: what a client is told to do, what it saw, and the two ends of every flow.
//!
//! Client and server are processes of their own, started from this same program, so that their cost can be told apart from the
//! balancer's. They talk over standard input and output: the client reads a [`Task`], prepares, prints `ready`, waits for a line,
//! works, prints an [`Outcome`], and holds its flows open until its standard input ends.

pub mod client;
pub mod hello;
pub mod poll;
pub mod preface;
pub mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names that the balancers route, each to a backend of its own.
pub const ROUTES: usize = 10;

/// What a client says when it could start at once.
pub const READY: &str = "ready";

/// Bytes of a request and of its answer in [`Work::Idle`].
pub const MESSAGE_SIZE: u32 = 100;

/// Bytes of the answer in [`Work::Connections`].
pub const ANSWER_SIZE: usize = 100;

/// Addresses of the client beside its usual one, for more flows than that has ports; the first is not used.
pub const SOURCES: (Ipv4Addr, &str) = (Ipv4Addr::new(10, 4, 0, 0), "10.4.0.0/16");

/// Flows of an address; there are some more ports ([`crate::lab`]).
pub const FLOWS_A_SOURCE: u32 = 50_000;

/// No ClientHello of a real client is longer, in bytes.
const HELLO_MAX: u64 = 2048;

/// Bytes that the ends of a bulk flow read or write at once.
pub const CHUNK_SIZE: usize = 256 << 10;

/// A name that the balancers route; the same length for each below a million.
pub fn route_name(number: usize) -> String {
    format!("{NAME_PREFIX}{number:0NAME_DIGITS$}.bench.example")
}

/// What names begin with.
const NAME_PREFIX: &str = "route-";

/// Digits behind it.
const NAME_DIGITS: usize = 6;

/// What one client process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Where to connect, by route: the balancer's address each time, or the servers' own ones.
    pub targets: Vec<SocketAddr>,
    /// The PROXY header that the servers must have seen.
    pub header: preface::Header,
    /// Where the client may leave what nobody needs afterwards, also if it is killed.
    pub scratch: PathBuf,
    /// The work itself.
    pub work: Work,
}

/// Work of a client. Every flow begins with a ClientHello of [`hello::SIZE`] bytes, but for [`Work::Https`], where TLS is real.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Connections one after the other, so many at a time; the server answers [`ANSWER_SIZE`] bytes and closes first.
    Connections {
        /// In all.
        total: u32,
        /// At any time.
        concurrent: u32,
        /// Names that are asked for, each as often.
        names: u32,
    },
    /// Bytes from the server, split evenly over flows; the client closes.
    Download {
        /// At the same time.
        flows: u32,
        /// In all.
        bytes: u64,
    },
    /// Bytes to the server, split evenly over flows; the server says how many came, and closes.
    Upload {
        /// At the same time.
        flows: u32,
        /// In all.
        bytes: u64,
    },
    /// Requests and answers on established flows, one at a time on each.
    PingPong {
        /// At the same time.
        flows: u32,
        /// Bytes of a request, and of its answer.
        size: u32,
        /// In all.
        exchanges: u32,
    },
    /// Requests and answers on established flows, begun at a fixed rate whatever became of the earlier ones.
    Paced {
        /// At the same time; they take turns.
        flows: u32,
        /// Bytes of a request, and of its answer.
        size: u32,
        /// Requests in a second.
        rate: u32,
        /// In all.
        exchanges: u32,
    },
    /// Flows that exchange two messages, the second when all of them are there, and then nothing.
    Idle {
        /// At the same time.
        flows: u32,
    },
    /// Connections one after the other, so many at a time, each of which has an errand; the client closes.
    Turns {
        /// In all.
        total: u32,
        /// At any time.
        concurrent: u32,
        /// What each does.
        errand: Errand,
    },
    /// Downloads from nginx over TLS.
    Https {
        /// Who downloads.
        tool: Tool,
        /// Of a file.
        bytes: u64,
        /// At the same time.
        connections: u32,
    },
}

/// What a connection does between its ClientHello and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Errand {
    /// Requests and answers, one at a time.
    Exchanges {
        /// How many.
        count: u32,
        /// Bytes of a request, and of its answer.
        size: u32,
    },
    /// Bytes from the server.
    Download {
        /// How many.
        bytes: u64,
    },
}

impl Errand {
    /// Both ways together.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Exchanges { count, size } => 2 * u64::from(count) * u64::from(size),
            Self::Download { bytes } => bytes,
        }
    }
}

/// A program that downloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// wrk, HTTP/1.1: as many files as it gets in the time.
    Wrk {
        /// How long.
        seconds: u32,
        /// How many files come over a connection.
        reuse: Reuse,
    },
    /// h2load, HTTP/2: a fixed number of files.
    H2load {
        /// Files.
        requests: u32,
    },
}

/// How many requests a connection serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// All.
    Kept,
    /// One: each has a TLS handshake of its own.
    Once,
}

/// What went through a balancer, both ways together, PROXY headers not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// All of it.
    pub bytes: u64,
    /// The ClientHellos in it.
    pub hello_bytes: u64,
    /// Whether it was no more.
    pub is_exact: bool,
}

impl Work {
    /// What a balancer must have carried for this outcome.
    pub fn traffic(&self, outcome: &Outcome) -> Traffic {
        const HELLO: u64 = hello::SIZE as u64;
        let exact = |flows: u32, bytes: u64| {
            let hello_bytes = u64::from(flows) * HELLO;
            Traffic { bytes: hello_bytes + bytes, hello_bytes, is_exact: true }
        };
        // Each flow of these has exchanged one message before it counts.
        let exchanged = |flows: u32, exchanges: u64, size: u32| {
            exact(flows, 2 * (exchanges + u64::from(flows)) * u64::from(size))
        };
        let units = outcome.units;
        match *self {
            Self::Connections { total, .. } => exact(total, u64::from(total) * ANSWER_SIZE as u64),
            Self::Download { flows, .. } => exact(flows, units),
            Self::Upload { flows, .. } => exact(flows, units + u64::from(flows) * size_of::<u64>() as u64),
            Self::PingPong { flows, size, .. } | Self::Paced { flows, size, .. } => {
                exchanged(flows, units, size)
            }
            Self::Idle { flows } => exchanged(flows, flows.into(), MESSAGE_SIZE),
            Self::Turns { total, errand, .. } => exact(total, u64::from(total) * errand.bytes()),
            Self::Https { tool, connections, .. } => {
                let again = if matches!(tool, Tool::Wrk { reuse: Reuse::Once, .. }) { units } else { 0 };
                let hello_bytes = (u64::from(connections) + again) * HELLO_MAX;
                // What TLS adds counts for the balancer, too, and the tools do not say how much it is.
                Traffic { bytes: outcome.bytes.unwrap_or_default(), hello_bytes, is_exact: false }
            }
        }
    }
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// From the start of the work to its end.
    pub seconds: f64,
    /// Connections, exchanges, bytes, flows or files, as the work counts.
    pub units: u64,
    /// Bytes of files that were downloaded, or of errands, where those are units.
    pub bytes: Option<u64>,
    /// Times of a connection, an exchange or a file, where the work has those.
    pub times: Option<Times>,
    /// Times from the start of a connection to the first byte of the answer, where the work has those.
    pub first_byte: Option<Times>,
}

/// Percentiles of times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile, where [`TAIL_MIN`] values lie beyond it.
    pub p99_us: Option<f64>,
    /// 99.9th percentile, where [`TAIL_MIN`] values lie beyond it.
    pub p999_us: Option<f64>,
}

/// Fewest values beyond a percentile that say something about it.
pub const TAIL_MIN: u64 = 20;

/// Whether enough of so many values lie beyond a percentile.
pub fn has_tail(count: u64, per_mille: u64) -> bool {
    count - (count * per_mille).div_ceil(1000) >= TAIL_MIN
}

impl Times {
    /// Of nanoseconds in any order, by nearest rank; `None` if there are none.
    pub fn of(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let at = |per_mille: usize| {
            let index = nanoseconds.len().saturating_mul(per_mille).div_ceil(1000).saturating_sub(1);
            nanoseconds.get(index).map(|nanoseconds| *nanoseconds as f64 / 1e3)
        };
        let count = nanoseconds.len() as u64;
        let in_tail = |per_mille| at(per_mille).filter(|_| has_tail(count, per_mille as u64));
        Some(Self { p50_us: at(500)?, p99_us: in_tail(990), p999_us: in_tail(999) })
    }
}

impl Outcome {
    /// With percentiles of `nanoseconds`, one a unit.
    pub fn with_times(seconds: f64, nanoseconds: Vec<u64>) -> Self {
        let units = nanoseconds.len() as u64;
        Self { seconds, units, times: Times::of(nanoseconds), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times = |count: u64| Times::of((1..=count).rev().map(|us| us * 1000).collect());
        let expected = |p50_us, p99_us, p999_us| Some(Times { p50_us, p99_us, p999_us });
        assert_eq!(times(20_000), expected(10_000.0, Some(19_800.0), Some(19_980.0)));
        assert_eq!(times(0), None);
        assert_eq!(times(1), expected(1.0, None, None));
    }

    #[test]
    fn a_percentile_rests_on_some_values() {
        let check = |count, per_mille, expected| assert_eq!(has_tail(count, per_mille), expected, "{count}");
        check(20_000, 999, true);
        check(19_999, 999, false);
        check(2_000, 990, true);
        check(1_999, 990, false);
        check(0, 990, false);
    }

    #[test]
    fn traffic_is_hellos_requests_and_answers() {
        let check = |work: Work, units, bytes| {
            let traffic = work.traffic(&Outcome { units, ..Outcome::default() });
            assert_eq!((traffic.bytes, traffic.is_exact), (bytes, true), "{work:?}");
        };
        check(Work::Connections { total: 3, concurrent: 1, names: 10 }, 3, 3 * (517 + 100));
        check(Work::Upload { flows: 2, bytes: 1001 }, 1000, 2 * 517 + 1000 + 2 * 8);
        check(Work::PingPong { flows: 2, size: 100, exchanges: 5 }, 4, 2 * 517 + (4 + 2) * 200);
        check(Work::Paced { flows: 2, size: 64, rate: 9, exchanges: 4 }, 4, 2 * 517 + (4 + 2) * 128);
        check(Work::Idle { flows: 3 }, 3, 3 * (517 + 400));
        let turns = |errand| Work::Turns { total: 3, concurrent: 2, errand };
        check(turns(Errand::Exchanges { count: 5, size: 64 }), 3, 3 * (517 + 5 * 2 * 64));
        check(turns(Errand::Download { bytes: 1000 }), 3, 3 * (517 + 1000));
        let tool = Tool::Wrk { seconds: 1, reuse: Reuse::Once };
        let outcome = Outcome { units: 7, bytes: Some(9000), ..Outcome::default() };
        let traffic = Work::Https { tool, bytes: 1000, connections: 3 }.traffic(&outcome);
        assert_eq!((traffic.bytes, traffic.hello_bytes, traffic.is_exact), (9000, 10 * HELLO_MAX, false));
    }
}
