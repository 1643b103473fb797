// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel knows about this process, read at each scrape, under the names that Prometheus' client libraries share
//! (Prometheus, "Writing client libraries", section "Process metrics").

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::register::{Description, Kind, openmetrics_name};

const CPU: Description = Description {
    name: "process_cpu_seconds_total",
    kind: Kind::Counter,
    labels: &[],
    help: "User and system time spent",
};

const OPEN_FDS: Description =
    Description { name: "process_open_fds", kind: Kind::Gauge, labels: &[], help: "Open file descriptors" };

const MAX_FDS: Description = Description {
    name: "process_max_fds",
    kind: Kind::Gauge,
    labels: &[],
    help: "Most file descriptors that may be open (soft limit)",
};

const RESIDENT_MEMORY: Description = Description {
    name: "process_resident_memory_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Resident memory, without sockets and pipes, which the kernel holds",
};

/// Every metric that [`ProcessCollector`] adds to a scrape.
pub(super) const DESCRIPTIONS: [Description; 4] = [CPU, OPEN_FDS, MAX_FDS, RESIDENT_MEMORY];

/// Reads the process's own figures when it is asked to. A figure that cannot be read is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        put(&mut encoder, CPU, &ConstCounter::new(cpu_seconds()))?;
        if let Some(count) = open_fds() {
            put(&mut encoder, OPEN_FDS, &ConstGauge::new(count))?;
        }
        if let Some(count) = getrlimit(Resource::Nofile).current {
            put(&mut encoder, MAX_FDS, &ConstGauge::new(count))?;
        }
        if let Some(bytes) = resident_bytes() {
            put(&mut encoder, RESIDENT_MEMORY, &ConstGauge::new(bytes))?;
        }
        Ok(())
    }
}

fn put<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder,
    description: Description,
    metric: &M,
) -> Result<(), std::fmt::Error> {
    let (name, unit) = openmetrics_name(description.name);
    // The registry ends help texts with a full stop; so that all look alike, so does this.
    let help = format!("{}.", description.help);
    let metric_encoder = encoder.encode_descriptor(name, &help, unit.as_ref(), metric.metric_type())?;
    metric.encode(metric_encoder)
}

/// CPU time of all threads, dead ones included (clock_gettime(2), CLOCK_PROCESS_CPUTIME_ID): finer than the ticks in
/// /proc/self/stat.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Open file descriptors. Since Linux 6.2 the size of /proc/self/fd is their count (kernel commit f1f1f2569901), which
/// saves listing 100,000 names at every scrape; before, the size is 0 and they must be listed.
fn open_fds() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 { Some(size) } else { listed_fds() }
}

/// Open file descriptors by listing, without the one that lists.
fn listed_fds() -> Option<u64> {
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

/// The second field of /proc/self/statm, in pages (proc_pid_statm(5)).
fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_move_with_the_process() {
        let held: Vec<_> = (0..64).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let possible = held.len() as u64..=getrlimit(Resource::Nofile).current.unwrap();
        // Other tests open and close files meanwhile, so the two counts need not be equal.
        assert!(possible.contains(&listed_fds().unwrap()));
        assert!(possible.contains(&open_fds().unwrap()));

        let block = vec![1_u8; 64 << 20];
        assert!(resident_bytes().unwrap() > block.iter().map(|&byte| u64::from(byte)).sum());
        let spent = cpu_seconds();
        assert!(spent > 0.0 && cpu_seconds() >= spent);
    }
}
