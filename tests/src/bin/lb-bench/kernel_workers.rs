// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPU time of the kernel's workers, which do work that programs leave to the kernel: on path `sockmap` of lb they send every byte
//! (net/core/skmsg.c, sk_psock_backlog), where other balancers do so in their own system calls.

use std::collections::BTreeMap;
use std::fs;

use crate::measure::{process_cpu_seconds, tree};

/// Process id of kthreadd, whose children all kernel threads are (init/main.c, rest_init).
const KTHREADD: u32 = 2;

/// What the names of workers begin with (kernel/workqueue.c, format_worker_id).
const PREFIX: &str = "kworker/";

/// Seconds of CPU time by worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelWorkers(BTreeMap<u32, f64>);

impl KernelWorkers {
    /// As it is. Those that end meanwhile are left out; so is everything where kernel threads cannot be seen, as in a container.
    pub fn now() -> Self {
        let is_worker = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(PREFIX))
        };
        let workers = tree(KTHREADD).into_iter().filter(is_worker);
        Self(workers.filter_map(|pid| Some((pid, process_cpu_seconds(&[pid]).ok()?))).collect())
    }

    /// Seconds since then, of workers that live; those that came meanwhile began at nothing.
    pub fn since(&self, earlier: &Self) -> f64 {
        let grown = |(pid, seconds): (&u32, &f64)| seconds - earlier.0.get(pid).copied().unwrap_or_default();
        // A number that another worker had is not negative time.
        self.0.iter().map(grown).map(|seconds| seconds.max(0.0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_came_meanwhile_count_from_nothing() {
        let of = |workers: &[(u32, f64)]| KernelWorkers(workers.iter().copied().collect());
        let (before, after) = (of(&[(7, 1.0), (8, 5.0)]), of(&[(7, 1.5), (9, 0.25)]));
        assert_eq!(after.since(&before), 0.75);
        assert_eq!(before.since(&before), 0.0);
    }

    #[test]
    fn kernel_workers_are_seen_where_kernel_threads_are() {
        let sees_kernel = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n");
        assert_eq!(!KernelWorkers::now().0.is_empty(), sees_kernel);
    }
}
