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
mod times;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use times::{TAIL_MIN, Tail, Times, has_tail};
pub use traffic::{Lasting, Traffic};

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

/// What a client saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// The longest of the times, where samples are pooled.
    pub tail: Option<Tail>,
}

impl Outcome {
    /// With percentiles of `nanoseconds`, one a unit.
    pub fn with_times(seconds: f64, nanoseconds: Vec<u64>) -> Self {
        let units = nanoseconds.len() as u64;
        Self { seconds, units, times: Times::of(nanoseconds), ..Self::default() }
    }

    /// The same, and with the longest of them, for percentiles that take more values than one sample has.
    pub fn with_tail(seconds: f64, nanoseconds: Vec<u64>) -> Self {
        let tail = Some(Tail::of(nanoseconds.clone()));
        Self { tail, ..Self::with_times(seconds, nanoseconds) }
    }
}
