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

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Names that the balancers route, each to a backend of its own.
pub const ROUTES: usize = 10;

/// What a client says when it could start at once.
pub const READY: &str = "ready";

/// Bytes of a request and of its answer in [`Work::PingPong`] and [`Work::Idle`].
pub const MESSAGE_SIZE: usize = 100;

/// Bytes of the answer in [`Work::Connections`].
pub const ANSWER_SIZE: usize = 100;

/// Bytes that the ends of a bulk flow read or write at once.
pub const CHUNK_SIZE: usize = 256 << 10;

/// The name of a route, the same length for each.
pub fn route_name(route: usize) -> String {
    format!("route-{route}.bench.example")
}

/// What one client process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Where to connect, by route: the balancer's address each time, or the servers' own ones.
    pub targets: Vec<SocketAddr>,
    /// The PROXY header that the servers must have seen.
    pub header: preface::Header,
    /// The work itself.
    pub work: Work,
}

/// Work of a client. Every flow begins with a ClientHello of [`hello::SIZE`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Connections one after the other, so many at a time; the server answers [`ANSWER_SIZE`] bytes and closes first.
    Connections {
        /// In all.
        total: u32,
        /// At any time.
        concurrent: u32,
    },
    /// Bytes from the server, split evenly over flows; the server closes.
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
    /// Requests and answers of [`MESSAGE_SIZE`] bytes on established flows, one at a time on each.
    PingPong {
        /// At the same time.
        flows: u32,
        /// In all.
        exchanges: u32,
    },
    /// Flows that exchange one message and then nothing.
    Idle {
        /// At the same time.
        flows: u32,
    },
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// From the start of the work to its end.
    pub seconds: f64,
    /// Connections, exchanges, bytes or flows, as the work counts.
    pub units: u64,
    /// Median time of a connection or an exchange, where the work has those.
    pub p50_us: Option<f64>,
    /// 99th percentile of the same.
    pub p99_us: Option<f64>,
}

impl Outcome {
    /// With percentiles of the nanoseconds in `times`.
    pub fn with_times(seconds: f64, mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = times.len().saturating_mul(percent).div_ceil(100).saturating_sub(1);
            times.get(index).map(|nanoseconds| *nanoseconds as f64 / 1e3)
        };
        Self { seconds, units: times.len() as u64, p50_us: at(50), p99_us: at(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let outcome = Outcome::with_times(1.0, (1..=200).rev().map(|us| us * 1000).collect());
        assert_eq!((outcome.units, outcome.p50_us, outcome.p99_us), (200, Some(100.0), Some(198.0)));
        assert_eq!(Outcome::with_times(1.0, Vec::new()).p50_us, None);
        assert_eq!(Outcome::with_times(1.0, vec![7000]).p99_us, Some(7.0));
    }
}
