// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: suites of workloads, and how their columns come from the samples.

use clap::ValueEnum;
use serde::Serialize;

use crate::load::Work;
use crate::run::Sample;

/// A group of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// New connections with a ClientHello.
    Connections,
    /// Large transfers.
    Bulk,
    /// Small messages on established flows.
    Pingpong,
    /// Memory of flows on which nothing happens.
    Idle,
}

impl Suite {
    /// How it is measured, for the reader of the report.
    pub fn method(self) -> &'static str {
        match self {
            Self::Connections => {
                "Closed loop, 64 at a time: connect, ClientHello of 517 bytes with one of 10 names, 100 bytes of answer; the \
                 server closes first, then the client. Times are of a whole connection. CPU of the balancer is user and system \
                 time of its processes; CPU of all three adds client and server; CPU of the host is all busy time of all cores, also \
                 of whatever else ran."
            }
            Self::Bulk => {
                "A fixed number of bytes, read and written 256 KiB at once, over flows that begin with a ClientHello. The kernel \
                 does part of a balancer's work outside of its processes, so the host's busy time counts, too (of an otherwise idle \
                 machine): in all, and less what direct routing took in the same repeat. GB/CPU-second is of the host. GB = 10^9 bytes, Gb = 10^9 bits."
            }
            Self::Pingpong => {
                "100 bytes there and 100 back on established flows, one exchange outstanding on each (closed loop: a slow \
                 answer delays the next question, which hides some of the wait)."
            }
            Self::Idle => {
                "Flows that have exchanged one message, on a balancer started for the purpose. User memory is growth of VmRSS. \
                 Kernel objects are those in slab caches; all memory is what MemAvailable fell by. Both are of the whole host, with \
                 client and server inside: less direct, they are the balancer's (on an otherwise idle machine)."
            }
        }
    }

    /// Its workloads.
    pub fn workloads(self, size: Size) -> Vec<Workload> {
        let workload =
            |title: &str, work, columns| Workload { suite: self, title: title.to_owned(), work, columns };
        match self {
            Self::Connections => {
                let work = Work::Connections { total: size.pick(20_000, 2_000), concurrent: 64 };
                vec![workload("new connections", work, CONNECTIONS)]
            }
            Self::Bulk => {
                let bytes = size.pick(4_000_000_000, 400_000_000);
                vec![
                    workload("download, 1 flow", Work::Download { flows: 1, bytes }, BULK),
                    workload("download, 8 flows", Work::Download { flows: 8, bytes }, BULK),
                    workload("upload, 1 flow", Work::Upload { flows: 1, bytes }, BULK),
                    workload("upload, 8 flows", Work::Upload { flows: 8, bytes }, BULK),
                ]
            }
            Self::Pingpong => {
                let one = Work::PingPong { flows: 1, exchanges: size.pick(20_000, 2_000) };
                let many = Work::PingPong { flows: 100, exchanges: size.pick(200_000, 10_000) };
                vec![
                    workload("ping-pong, 1 flow", one, PINGPONG),
                    workload("ping-pong, 100 flows", many, PINGPONG),
                ]
            }
            Self::Idle => {
                let flows = size.pick(2_000, 500);
                vec![workload("idle flows", Work::Idle { flows }, IDLE)]
            }
        }
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Enough for numbers that mean something.
    Full,
    /// Enough to see that everything works.
    Quick,
}

impl Size {
    /// How often each workload is repeated unless the command line says so.
    pub fn repeats(self) -> u32 {
        self.pick(10, 2)
    }

    fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// Something that a client does, and what is read off it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where it belongs.
    pub suite: Suite,
    /// What it is.
    pub title: String,
    /// What the client does.
    pub work: Work,
    /// What is read off.
    pub columns: &'static [Column],
}

impl Workload {
    /// Whether each sample needs a balancer of its own: memory that earlier flows left behind would hide the growth.
    pub fn needs_fresh_balancer(&self) -> bool {
        self.suite == Suite::Idle
    }

    /// Enough work of the same kind that nothing happens for the first time while it is measured.
    pub fn warm_up(&self) -> Work {
        match self.work {
            Work::Connections { concurrent, .. } => Work::Connections { total: 1_000, concurrent },
            Work::Download { flows, .. } => Work::Download { flows, bytes: 80_000_000 },
            Work::Upload { flows, .. } => Work::Upload { flows, bytes: 80_000_000 },
            Work::PingPong { flows, .. } => Work::PingPong { flows, exchanges: 1_000 },
            Work::Idle { .. } => Work::Connections { total: 10, concurrent: 1 },
        }
    }
}

/// A number that is read off a sample.
#[derive(Debug)]
pub struct Column {
    /// With its unit.
    pub title: &'static str,
    /// Digits behind the point.
    pub digits: usize,
    /// From a sample; `None` where it does not apply.
    pub value: fn(&Sample) -> Option<f64>,
    /// Whether the value of [`crate::contestant::Contestant::Direct`] in the same repeat is taken off.
    pub is_less_direct: bool,
}

const fn column(title: &'static str, digits: usize, value: fn(&Sample) -> Option<f64>) -> Column {
    Column { title, digits, value, is_less_direct: false }
}

const fn less_direct(title: &'static str, digits: usize, value: fn(&Sample) -> Option<f64>) -> Column {
    Column { title, digits, value, is_less_direct: true }
}

const CONNECTIONS: &[Column] = &[
    column("connections/s", 0, |sample| Some(sample.rate())),
    column("balancer CPU, µs/connection", 1, |sample| {
        Some(1e6 * sample.per_unit(sample.balancer_cpu_seconds?))
    }),
    column("CPU of all three, µs/connection", 1, |sample| {
        Some(1e6 * sample.per_unit(sample.all_cpu_seconds()))
    }),
    column("host CPU, µs/connection", 1, |sample| Some(1e6 * sample.per_unit(sample.host_cpu_seconds))),
    column("p50, ms", 2, |sample| Some(sample.outcome.p50_us? / 1e3)),
    column("p99, ms", 2, |sample| Some(sample.outcome.p99_us? / 1e3)),
];

const BULK: &[Column] = &[
    column("Gb/s", 2, |sample| Some(8e-9 * sample.rate())),
    column("balancer CPU, s/GB", 3, |sample| Some(1e9 * sample.per_unit(sample.balancer_cpu_seconds?))),
    column("CPU of all three, s/GB", 3, |sample| Some(1e9 * sample.per_unit(sample.all_cpu_seconds()))),
    column("host CPU, s/GB", 3, |sample| Some(1e9 * sample.per_unit(sample.host_cpu_seconds))),
    less_direct("host CPU less direct, s/GB", 3, |sample| {
        Some(1e9 * sample.per_unit(sample.host_cpu_seconds))
    }),
    column("GB/CPU-second", 2, |sample| Some(1e-9 / sample.per_unit(sample.host_cpu_seconds))),
    column("GB/CPU-second of the balancer", 2, |sample| {
        Some(1e-9 / sample.per_unit(sample.balancer_cpu_seconds?))
    }),
];

const PINGPONG: &[Column] = &[
    column("p50, µs", 1, |sample| sample.outcome.p50_us),
    column("p99, µs", 1, |sample| sample.outcome.p99_us),
    column("exchanges/s", 0, |sample| Some(sample.rate())),
    column("balancer CPU, µs/exchange", 1, |sample| {
        Some(1e6 * sample.per_unit(sample.balancer_cpu_seconds?))
    }),
    column("CPU of all three, µs/exchange", 1, |sample| {
        Some(1e6 * sample.per_unit(sample.all_cpu_seconds()))
    }),
    column("host CPU, µs/exchange", 1, |sample| Some(1e6 * sample.per_unit(sample.host_cpu_seconds))),
];

const IDLE: &[Column] = &[
    column("balancer's user memory, KiB/flow", 2, |sample| {
        Some(sample.per_unit(sample.growth.resident?) / 1024.0)
    }),
    column("kernel objects, KiB/flow", 2, |sample| Some(sample.per_unit(sample.growth.slab) / 1024.0)),
    less_direct("kernel objects less direct, KiB/flow", 2, |sample| {
        Some(sample.per_unit(sample.growth.slab) / 1024.0)
    }),
    less_direct("of these TCP sockets, KiB/flow", 2, |sample| {
        Some(sample.per_unit(sample.growth.tcp) / 1024.0)
    }),
    column("all memory, KiB/flow", 2, |sample| Some(sample.per_unit(sample.growth.unavailable) / 1024.0)),
    less_direct("all memory less direct, KiB/flow", 2, |sample| {
        Some(sample.per_unit(sample.growth.unavailable) / 1024.0)
    }),
];
