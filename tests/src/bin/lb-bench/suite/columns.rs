// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read off a sample, by suite.

use serde::{Deserialize, Serialize};

use crate::load::Times;
use crate::run::Sample;

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
    /// What reports do with it.
    pub role: Role,
    /// Where it is a percentile of times in microseconds that may take more values than a sample has: which one, per mille.
    pub pooled_per_mille: Option<u64>,
}

/// What reports do with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It counts for wins and losses, and README's tables show it.
    Shown,
    /// It counts for wins and losses.
    Counted,
    /// It says what another one says in other words, or nothing that depends on the balancer alone.
    Aside,
}

type Value = fn(&Sample) -> Option<f64>;

const fn column(role: Role, title: &'static str, digits: usize, value: Value) -> Column {
    Column { title, digits, value, is_less_direct: false, role, pooled_per_mille: None }
}

const fn shown(title: &'static str, digits: usize, value: Value) -> Column {
    column(Role::Shown, title, digits, value)
}

const fn counted(title: &'static str, digits: usize, value: Value) -> Column {
    column(Role::Counted, title, digits, value)
}

const fn aside(title: &'static str, digits: usize, value: Value) -> Column {
    column(Role::Aside, title, digits, value)
}

const fn less_direct(column: Column) -> Column {
    Column { is_less_direct: true, ..column }
}

/// The 99.9th percentile: of each sample, or of all together.
const fn pooled(column: Column) -> Column {
    Column { pooled_per_mille: Some(999), ..column }
}

fn times(sample: &Sample) -> Option<Times> {
    sample.outcome.times
}

fn first_byte(sample: &Sample) -> Option<Times> {
    sample.outcome.first_byte
}

/// Microseconds of CPU for a unit of work.
fn cpu(sample: &Sample, seconds: f64) -> f64 {
    1e6 * sample.per_unit(seconds)
}

/// Seconds of CPU for 10^9 bytes, where units are files.
fn cpu_of_files(sample: &Sample, seconds: f64) -> Option<f64> {
    Some(1e9 * seconds / sample.outcome.bytes? as f64)
}

/// Of the balancer's threads, for so many units of work.
fn switches(sample: &Sample, units: f64) -> Option<f64> {
    Some(units * sample.per_unit(sample.balancer_switches? as f64))
}

/// KiB of memory for a flow.
fn memory(sample: &Sample, bytes: f64) -> f64 {
    sample.per_unit(bytes) / 1024.0
}

pub const CONNECTIONS: &[Column] = &[
    shown("connections/s", 0, |sample| Some(sample.rate())),
    shown("balancer CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    counted("CPU of all three, µs/connection", 1, |sample| Some(cpu(sample, sample.all_cpu_seconds()))),
    counted("host CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    counted("p50, ms", 2, |sample| Some(times(sample)?.p50_us / 1e3)),
    counted("p99, ms", 2, |sample| Some(times(sample)?.p99_us? / 1e3)),
    counted("first byte p50, ms", 2, |sample| Some(first_byte(sample)?.p50_us / 1e3)),
    shown("first byte p99, ms", 2, |sample| Some(first_byte(sample)?.p99_us? / 1e3)),
];

/// Of connections one after the other, which wait for nobody.
pub const CONNECTIONS_ALONE: &[Column] = &[
    shown("first byte p50, µs", 1, |sample| Some(first_byte(sample)?.p50_us)),
    shown("first byte p99, µs", 1, |sample| first_byte(sample)?.p99_us),
    shown("balancer CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    counted("host CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    aside("connections/s", 0, |sample| Some(sample.rate())),
    counted("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    counted("p99, µs", 1, |sample| times(sample)?.p99_us),
];

pub const BULK: &[Column] = &[
    shown("Gb/s", 2, |sample| Some(8e-9 * sample.rate())),
    shown("GB/CPU-second", 2, |sample| Some(1e-9 / sample.per_unit(sample.host_cpu_seconds))),
    shown("balancer CPU, s/GB", 3, |sample| Some(1e9 * sample.per_unit(sample.balancer_cpu_seconds?))),
    less_direct(counted("host CPU less direct, s/GB", 3, |sample| {
        Some(1e9 * sample.per_unit(sample.host_cpu_seconds))
    })),
    counted("CPU of all three, s/GB", 3, |sample| Some(1e9 * sample.per_unit(sample.all_cpu_seconds()))),
    aside("host CPU, s/GB", 3, |sample| Some(1e9 * sample.per_unit(sample.host_cpu_seconds))),
    aside("of it kernel workers, s/GB", 3, |sample| {
        Some(1e9 * sample.per_unit(sample.kernel_worker_cpu_seconds))
    }),
    aside("balancer's context switches/GB", 0, |sample| switches(sample, 1e9)),
    aside("GB/CPU-second of the balancer", 2, |sample| {
        Some(1e-9 / sample.per_unit(sample.balancer_cpu_seconds?))
    }),
];

pub const LATENCY: &[Column] = &[
    shown("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    shown("p99, µs", 1, |sample| times(sample)?.p99_us),
    pooled(shown("p99.9, µs", 1, |sample| times(sample)?.p999_us)),
    aside("exchanges/s", 0, |sample| Some(sample.rate())),
    counted("client CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.client_cpu_seconds))),
    counted("balancer CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    counted("server CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.server_cpu_seconds))),
    counted("host CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    aside("kernel workers' CPU, µs/exchange", 1, |sample| {
        Some(cpu(sample, sample.kernel_worker_cpu_seconds))
    }),
    aside("balancer's context switches/1,000 exchanges", 0, |sample| switches(sample, 1e3)),
];

pub const PINGPONG: &[Column] = &[
    shown("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    shown("p99, µs", 1, |sample| times(sample)?.p99_us),
    pooled(counted("p99.9, µs", 1, |sample| times(sample)?.p999_us)),
    counted("exchanges/s", 0, |sample| Some(sample.rate())),
    shown("balancer CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    counted("CPU of all three, µs/exchange", 1, |sample| Some(cpu(sample, sample.all_cpu_seconds()))),
    counted("host CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    aside("kernel workers' CPU, µs/exchange", 1, |sample| {
        Some(cpu(sample, sample.kernel_worker_cpu_seconds))
    }),
    aside("balancer's context switches/1,000 exchanges", 0, |sample| switches(sample, 1e3)),
];

pub const IDLE: &[Column] = &[
    shown("balancer's user memory, KiB/flow", 2, |sample| Some(memory(sample, sample.growth.resident?))),
    less_direct(shown("kernel objects less direct, KiB/flow", 2, |sample| {
        Some(memory(sample, sample.growth.slab))
    })),
    less_direct(counted("of these TCP sockets, KiB/flow", 2, |sample| {
        Some(memory(sample, sample.growth.tcp))
    })),
    less_direct(counted("all memory less direct, KiB/flow", 2, |sample| {
        Some(memory(sample, sample.growth.unavailable))
    })),
    // Without what is there for all flows from the start.
    aside("of these entries of BPF maps, KiB/flow", 2, |sample| {
        Some(memory(sample, sample.growth.maps.filter(|bytes| *bytes > 0.0)?))
    }),
    aside("kernel objects with both ends, KiB/flow", 2, |sample| Some(memory(sample, sample.growth.slab))),
    aside("all memory with both ends, KiB/flow", 2, |sample| Some(memory(sample, sample.growth.unavailable))),
];

pub const HTTPS: &[Column] = &[
    shown("files/s", 1, |sample| Some(sample.rate())),
    shown("balancer CPU, µs/file", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    counted("p50, ms", 2, |sample| Some(times(sample)?.p50_us / 1e3)),
    shown("p99, ms", 2, |sample| Some(times(sample)?.p99_us? / 1e3)),
    counted("CPU of all three, µs/file", 1, |sample| Some(cpu(sample, sample.all_cpu_seconds()))),
    counted("host CPU, µs/file", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    aside("Gb/s", 2, |sample| Some(8e-9 * sample.outcome.bytes? as f64 / sample.outcome.seconds)),
    aside("balancer CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.balancer_cpu_seconds?)),
];

/// Of files so large that few are complete when the time is over.
pub const HTTPS_LARGE: &[Column] = &[
    shown("Gb/s", 2, |sample| Some(8e-9 * sample.outcome.bytes? as f64 / sample.outcome.seconds)),
    shown("balancer CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.balancer_cpu_seconds?)),
    less_direct(counted("host CPU less direct, s/GB", 3, |sample| {
        cpu_of_files(sample, sample.host_cpu_seconds)
    })),
    counted("CPU of all three, s/GB", 3, |sample| cpu_of_files(sample, sample.all_cpu_seconds())),
    aside("host CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.host_cpu_seconds)),
    aside("p50, ms", 1, |sample| Some(times(sample)?.p50_us / 1e3)),
];

/// Of connections with exchanges.
pub const TURNS: &[Column] = &[
    shown("balancer CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    shown("connections/s", 0, |sample| Some(sample.rate())),
    counted("host CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    aside("kernel workers' CPU, µs/connection", 1, |sample| {
        Some(cpu(sample, sample.kernel_worker_cpu_seconds))
    }),
];

/// Of connections with a download.
pub const STREAMS: &[Column] = &[
    shown("balancer CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.balancer_cpu_seconds?)),
    shown("Gb/s", 2, |sample| Some(8e-9 * sample.outcome.bytes? as f64 / sample.outcome.seconds)),
    counted("host CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.host_cpu_seconds)),
    aside("kernel workers' CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.kernel_worker_cpu_seconds)),
];

/// Of [`crate::suite::Suite::Scale`], whose units are connections.
pub const SCALE_CONNECTIONS: &[Column] = &[
    shown("start to first connection, ms", 0, |sample| Some(1e3 * sample.start_seconds?)),
    shown("resident, MiB", 1, |sample| Some(sample.resident_bytes? / (1 << 20) as f64)),
    counted("connections/s", 0, |sample| Some(sample.rate())),
    counted("balancer CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    shown("p99, ms", 2, |sample| Some(times(sample)?.p99_us? / 1e3)),
];

/// Of [`crate::suite::Suite::Scale`], whose units are exchanges.
pub const SCALE_FLOWS: &[Column] = &[
    shown("resident, MiB", 1, |sample| Some(sample.resident_bytes? / (1 << 20) as f64)),
    counted("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    shown("p99, µs", 1, |sample| times(sample)?.p99_us),
    shown("balancer CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: [&[Column]; 12] = [
        CONNECTIONS,
        CONNECTIONS_ALONE,
        BULK,
        LATENCY,
        PINGPONG,
        IDLE,
        HTTPS,
        HTTPS_LARGE,
        SCALE_CONNECTIONS,
        SCALE_FLOWS,
        TURNS,
        STREAMS,
    ];

    #[test]
    fn tables_stay_narrow_and_titles_are_unique() {
        for columns in ALL {
            let shown = columns.iter().filter(|column| column.role == Role::Shown).count();
            assert!((2..=3).contains(&shown), "{}", columns[0].title);
            let titles: BTreeSet<_> = columns.iter().map(|column| column.title).collect();
            assert_eq!(titles.len(), columns.len());
        }
    }

    #[test]
    fn what_is_pooled_is_in_microseconds() {
        let pooled = ALL.into_iter().flatten().filter(|column| column.pooled_per_mille.is_some());
        let titles: Vec<_> = pooled.map(|column| column.title).collect();
        assert_eq!(titles, ["p99.9, µs"; 2]);
    }

    #[test]
    fn no_rate_counts_beside_its_inverse() {
        let counts =
            |title: &str| BULK.iter().any(|column| column.title == title && column.role != Role::Aside);
        assert!(counts("GB/CPU-second") && !counts("host CPU, s/GB"));
        assert!(counts("balancer CPU, s/GB") && !counts("GB/CPU-second of the balancer"));
        let rate = LATENCY.iter().find(|column| column.title == "exchanges/s");
        assert_eq!(rate.map(|column| column.role), Some(Role::Aside), "it is fixed there");
    }
}
