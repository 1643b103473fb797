// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is read off a sample, by suite.

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
}

const fn column(title: &'static str, digits: usize, value: fn(&Sample) -> Option<f64>) -> Column {
    Column { title, digits, value, is_less_direct: false }
}

const fn less_direct(title: &'static str, digits: usize, value: fn(&Sample) -> Option<f64>) -> Column {
    Column { title, digits, value, is_less_direct: true }
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

pub const CONNECTIONS: &[Column] = &[
    column("connections/s", 0, |sample| Some(sample.rate())),
    column("balancer CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    column("CPU of all three, µs/connection", 1, |sample| Some(cpu(sample, sample.all_cpu_seconds()))),
    column("host CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
    column("p50, ms", 2, |sample| Some(times(sample)?.p50_us / 1e3)),
    column("p99, ms", 2, |sample| Some(times(sample)?.p99_us / 1e3)),
    column("first byte p50, ms", 2, |sample| Some(first_byte(sample)?.p50_us / 1e3)),
    column("first byte p99, ms", 2, |sample| Some(first_byte(sample)?.p99_us / 1e3)),
];

pub const BULK: &[Column] = &[
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

pub const LATENCY: &[Column] = &[
    column("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    column("p99, µs", 1, |sample| Some(times(sample)?.p99_us)),
    column("p99.9, µs", 1, |sample| Some(times(sample)?.p999_us)),
    column("exchanges/s", 0, |sample| Some(sample.rate())),
    column("client CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.client_cpu_seconds))),
    column("balancer CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    column("server CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.server_cpu_seconds))),
    column("host CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
];

pub const PINGPONG: &[Column] = &[
    column("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    column("p99, µs", 1, |sample| Some(times(sample)?.p99_us)),
    column("exchanges/s", 0, |sample| Some(sample.rate())),
    column("balancer CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    column("CPU of all three, µs/exchange", 1, |sample| Some(cpu(sample, sample.all_cpu_seconds()))),
    column("host CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.host_cpu_seconds))),
];

pub const IDLE: &[Column] = &[
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

pub const HTTPS: &[Column] = &[
    column("files/s", 1, |sample| Some(sample.rate())),
    column("balancer CPU, µs/file", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    column("Gb/s", 2, |sample| Some(8e-9 * sample.outcome.bytes? as f64 / sample.outcome.seconds)),
    column("p50, ms", 2, |sample| Some(times(sample)?.p50_us / 1e3)),
    column("p99, ms", 2, |sample| Some(times(sample)?.p99_us / 1e3)),
    column("balancer CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.balancer_cpu_seconds?)),
    column("CPU of all three, s/GB", 3, |sample| cpu_of_files(sample, sample.all_cpu_seconds())),
    column("host CPU, s/GB", 3, |sample| cpu_of_files(sample, sample.host_cpu_seconds)),
];

/// Of [`crate::suite::Suite::Scale`], whose units are connections.
pub const SCALE_CONNECTIONS: &[Column] = &[
    column("start, ms", 0, |sample| Some(1e3 * sample.start_seconds?)),
    column("resident, MiB", 1, |sample| Some(sample.resident_bytes? / (1 << 20) as f64)),
    column("connections/s", 0, |sample| Some(sample.rate())),
    column("balancer CPU, µs/connection", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
    column("p99, ms", 2, |sample| Some(times(sample)?.p99_us / 1e3)),
];

/// Of [`crate::suite::Suite::Scale`], whose units are exchanges.
pub const SCALE_FLOWS: &[Column] = &[
    column("resident, MiB", 1, |sample| Some(sample.resident_bytes? / (1 << 20) as f64)),
    column("p50, µs", 1, |sample| Some(times(sample)?.p50_us)),
    column("p99, µs", 1, |sample| Some(times(sample)?.p99_us)),
    column("p99.9, µs", 1, |sample| Some(times(sample)?.p999_us)),
    column("balancer CPU, µs/exchange", 1, |sample| Some(cpu(sample, sample.balancer_cpu_seconds?))),
];
