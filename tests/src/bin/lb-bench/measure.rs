// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says about CPU and memory (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// USER_HZ is 100 on all architectures that Linux still supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process and its descendants.
///
/// # Errors
/// Never for a process that runs; those that end meanwhile are left out.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(pid) = pids.get(next) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let found: Vec<u32> = children
            .flat_map(|line| line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.extend(found);
        next += 1;
    }
    pids
}

/// User and system time of processes with all their threads, also those that have ended, in seconds, to the nanosecond
/// (clock_getcpuclockid(3)); and that of the children that they have waited for, to the hundredth, which is all that the kernel tells
/// (fields 16 and 17 of /proc/PID/stat).
///
/// # Errors
/// One of them has ended.
pub fn process_cpu_seconds(pids: &[u32]) -> Result<f64> {
    let seconds = pids.iter().map(|pid| {
        let ended = || format!("process {pid} has ended");
        let clock = clock_getcpuclockid(Pid::from_raw(pid.cast_signed())).with_context(ended)?;
        let own = Duration::from(clock_gettime(clock).with_context(ended)?);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(ended)?;
        let children =
            children_ticks(&stat).with_context(|| format!("/proc/{pid}/stat is not as proc(5) says"))?;
        Ok(own.as_secs_f64() + children as f64 / TICKS_PER_SECOND)
    });
    seconds.sum()
}

fn children_ticks(stat: &str) -> Option<u64> {
    // The name is in parentheses and may contain anything, also parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<u64> =
        after_name.split_whitespace().skip(13).map_while(|field| field.parse().ok()).collect();
    Some(fields.get(..2)?.iter().sum())
}

/// How often threads of processes were switched to something else, by their own wish or not (/proc/PID/task/TID/status).
///
/// # Errors
/// One of the processes has ended. Threads that end meanwhile are left out.
pub fn context_switches(pids: &[u32]) -> Result<u64> {
    let of = |pid: &u32| -> Result<u64> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the balancer has ended")?.flatten();
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        Ok(statuses.map(|status| switches(&status)).sum())
    };
    pids.iter().map(of).sum()
}

fn switches(status: &str) -> u64 {
    let counts = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

/// Memory of processes in RAM, in bytes (VmRSS of /proc/PID/status).
///
/// # Errors
/// One of them has ended.
pub fn resident_bytes(pids: &[u32]) -> Result<u64> {
    let sizes = pids.iter().map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the balancer has ended")?;
        kilobytes(&status, "VmRSS").with_context(|| format!("/proc/{pid}/status has no VmRSS"))
    });
    Ok(sizes.sum::<Result<u64>>()? * 1024)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Seconds of CPU time of the whole machine since it started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostCpu {
    /// Neither working nor stolen.
    pub idle: f64,
    /// Taken away by the host of this virtual machine.
    pub stolen: f64,
}

impl HostCpu {
    /// From /proc/stat.
    ///
    /// # Errors
    /// It is not as proc(5) says.
    pub fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).context("/proc/stat is not as proc(5) says")
    }

    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> =
            stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
        let [_, _, _, idle, waiting, _, _, stolen, ..] = fields[..] else { return None };
        Some(Self {
            idle: (idle + waiting) as f64 / TICKS_PER_SECOND,
            stolen: stolen as f64 / TICKS_PER_SECOND,
        })
    }
}

/// Memory of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelMemory {
    /// Objects of slab caches, in bytes: sockets, files, small buffers. Not their pages, which outlive the objects, and no sockets in
    /// TIME_WAIT, which earlier work left behind and which end meanwhile.
    pub slab: u64,
    /// The TCP sockets among them, in bytes.
    pub tcp: u64,
    /// What programs could still get, in bytes (MemAvailable of /proc/meminfo); it also falls by pages outside of slab caches.
    pub available: u64,
}

impl KernelMemory {
    /// As it is.
    ///
    /// # Errors
    /// /proc/meminfo or /proc/slabinfo cannot be read.
    pub fn now() -> Result<Self> {
        let memory = fs::read_to_string("/proc/meminfo")?;
        let available =
            kilobytes(&memory, "MemAvailable").context("/proc/meminfo has no MemAvailable")? * 1024;
        let slabs = fs::read_to_string("/proc/slabinfo").context("cannot read /proc/slabinfo")?;
        let slab = slab_bytes(&slabs, |cache| !cache.starts_with("tw_sock_"));
        Ok(Self { slab, tcp: slab_bytes(&slabs, |cache| matches!(cache, "TCP" | "TCPv6")), available })
    }
}

/// Columns of slabinfo(5): name, active objects, objects, bytes of an object.
fn slab_bytes(slabs: &str, is_wanted: fn(&str) -> bool) -> u64 {
    let sizes = slabs.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        columns.next().filter(|name| is_wanted(name))?;
        let active: u64 = columns.next()?.parse().ok()?;
        Some(active * columns.nth(1)?.parse::<u64>().ok()?)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_those_of_children_whatever_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 150 0 0 0 12 30 5 6 20 0 1 0 100 9 9";
        assert_eq!(children_ticks(stat), Some(11));
        assert_eq!(children_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn work_shows_on_the_clock_of_a_process_at_once() {
        let own = [std::process::id()];
        let before = process_cpu_seconds(&own).unwrap();
        let sum: u64 = (0..10_000_u64).map(std::hint::black_box).sum();
        let spent = process_cpu_seconds(&own).unwrap() - before;
        assert!(sum > 0 && spent > 0.0, "{spent}");
        assert!(process_cpu_seconds(&[u32::MAX >> 1]).is_err());
    }

    #[test]
    fn switches_of_both_kinds_count() {
        let status = "Name:\ta\nvoluntary_ctxt_switches:\t30\nnonvoluntary_ctxt_switches:\t12\n";
        assert_eq!(switches(status), 42);
        let own = [std::process::id()];
        let before = context_switches(&own).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert!(context_switches(&own).unwrap() > before);
    }

    #[test]
    fn idle_and_stolen_time_are_read() {
        let stat = "cpu  10 20 30 400 50 6 7 800 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        assert_eq!(HostCpu::parse(stat), Some(HostCpu { idle: 4.5, stolen: 8.0 }));
        assert_eq!(HostCpu::parse("intr 1 2 3"), None);
    }

    #[test]
    fn sizes_are_read_by_their_whole_key() {
        let memory = "SlabX:   1 kB\nSlab:    20304 kB\n";
        assert_eq!(kilobytes(memory, "Slab"), Some(20304));
        assert_eq!(kilobytes(memory, "Sla"), None);
    }

    #[test]
    fn slab_objects_in_use_are_counted_by_cache() {
        let slabs = "slabinfo - version: 2.1
# name <active_objs> <num_objs> <objsize>
TCPv6 1 2 100 13 8 : x
\
                     TCP 78 80 10 13 8 : x
request_sock_TCP 1 1 1 1 : x
";
        assert_eq!(slab_bytes(slabs, |_| true), 881);
        assert_eq!(slab_bytes(slabs, |cache| cache == "TCP"), 780);
    }

    #[test]
    fn a_tree_has_its_children() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let is_in = tree(std::process::id()).contains(&child.id());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(is_in);
    }
}
