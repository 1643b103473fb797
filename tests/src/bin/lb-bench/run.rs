// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the contestants in turn and takes the samples.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Serialize;

use crate::contestant::{Contestant, Running};
use crate::lab::{Lab, Launch, Program, own_program};
use crate::load::{Outcome, READY, Task, Work};
use crate::measure::{HostCpu, KernelMemory, process_cpu_seconds, resident_bytes, tree};
use crate::suite::Workload;

/// How long memory may take to settle before it is read.
const SETTLING: Duration = Duration::from_millis(500);

/// One workload on one contestant, once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// What the client saw.
    pub outcome: Outcome,
    /// User and system time of the balancer's processes; `None` without a balancer.
    pub balancer_cpu_seconds: Option<f64>,
    /// The same of client and server.
    pub ends_cpu_seconds: f64,
    /// Busy time of all cores, whatever ran there.
    pub host_cpu_seconds: f64,
    /// Share of the cores' time that the host of this virtual machine took away.
    pub stolen_share: f64,
    /// Of memory.
    pub growth: Growth,
}

/// How memory grew from before the work until its end, while the flows of [`Work::Idle`] are open; in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Growth {
    /// The balancer's processes in RAM; `None` without a balancer.
    pub resident: Option<f64>,
    /// Slab caches of the kernel.
    pub slab: f64,
    /// TCP sockets among them.
    pub tcp: f64,
    /// What programs can no longer get.
    pub unavailable: f64,
}

impl Sample {
    /// Units of work in a second.
    pub fn rate(&self) -> f64 {
        self.outcome.units as f64 / self.outcome.seconds
    }

    /// User and system time of balancer, client and server together.
    pub fn all_cpu_seconds(&self) -> f64 {
        self.ends_cpu_seconds + self.balancer_cpu_seconds.unwrap_or_default()
    }

    /// A share of `total`.
    pub fn per_unit(&self, total: f64) -> f64 {
        total / self.outcome.units as f64
    }
}

/// All samples of a workload: by contestant, in the order of the repeats.
pub struct Measured {
    /// What was done.
    pub workload: Workload,
    /// By contestant.
    pub rows: Vec<(Contestant, Vec<Sample>)>,
}

/// Runs a workload on all contestants in turn, so often; each repeat begins with another one. `progress` hears of each sample.
///
/// # Errors
/// A contestant fails, which it is named for.
pub fn run(
    lab: &Lab,
    workload: &Workload,
    contestants: &[Contestant],
    repeats: u32,
    mut progress: impl FnMut(Contestant, u32, &Sample),
) -> Result<Measured> {
    let mut standing = Vec::new();
    if !workload.needs_fresh_balancer() {
        for contestant in contestants {
            standing.push(start(lab, workload, *contestant)?);
        }
    }
    let mut rows: Vec<_> = contestants.iter().map(|contestant| (*contestant, Vec::new())).collect();
    for repeat in 0..repeats {
        for turn in 0..contestants.len() {
            let index = (turn + repeat as usize) % contestants.len();
            let contestant = contestants[index];
            let sample = match standing.get(index) {
                Some(running) => sample(lab, running, workload.work),
                None => sample(lab, &start(lab, workload, contestant)?, workload.work),
            };
            let sample = sample.with_context(|| format!("{}, {}", workload.title, contestant.name()))?;
            progress(contestant, repeat, &sample);
            rows[index].1.push(sample);
        }
    }
    Ok(Measured { workload: workload.clone(), rows })
}

fn start(lab: &Lab, workload: &Workload, contestant: Contestant) -> Result<Running> {
    let running = contestant.start(lab)?;
    sample(lab, &running, workload.warm_up()).with_context(|| format!("warming up {}", contestant.name()))?;
    Ok(running)
}

fn sample(lab: &Lab, running: &Running, work: Work) -> Result<Sample> {
    let task = Task { targets: running.targets.clone(), header: running.contestant.header(), work };
    let mut client = start_client(lab, &task)?;
    let balancer = running.program.as_ref().map(|program| tree(program.pid()));
    let ends = [client.pid(), lab.load_server.pid()];
    let before = Snapshot::take(balancer.as_deref(), ends)?;
    client.tell("go")?;
    let outcome = serde_json::from_str(&client.hear()?)?;
    if let Work::Idle { .. } = work {
        std::thread::sleep(SETTLING);
    }
    let after = Snapshot::take(balancer.as_deref(), ends)?;
    client.dismiss()?;
    Ok(after.since(&before, outcome))
}

fn start_client(lab: &Lab, task: &Task) -> Result<Program> {
    let mut client = lab.client.spawn(Launch {
        command: vec![own_program()?, "--as-client".into()],
        log: lab.directory.join("logs/load-client.log"),
        is_talking: true,
        farewell: Signal::KILL,
    })?;
    client.tell(&serde_json::to_string(task)?)?;
    client.expect(READY)?;
    Ok(client)
}

struct Snapshot {
    time: Instant,
    host: HostCpu,
    memory: KernelMemory,
    balancer: Option<(f64, u64)>,
    ends_cpu_seconds: f64,
}

impl Snapshot {
    fn take(balancer: Option<&[u32]>, ends: [u32; 2]) -> Result<Self> {
        let balancer = match balancer {
            Some(pids) => Some((process_cpu_seconds(pids)?, resident_bytes(pids)?)),
            None => None,
        };
        let ends_cpu_seconds = process_cpu_seconds(&ends)?;
        let memory = KernelMemory::now()?;
        Ok(Self { balancer, ends_cpu_seconds, memory, host: HostCpu::now()?, time: Instant::now() })
    }

    fn since(&self, earlier: &Self, outcome: Outcome) -> Sample {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let cpu_seconds = cores * self.time.duration_since(earlier.time).as_secs_f64();
        let stolen = self.host.stolen - earlier.host.stolen;
        let balancer = self.balancer.zip(earlier.balancer);
        let grown = |later: u64, earlier: u64| later as f64 - earlier as f64;
        Sample {
            outcome,
            balancer_cpu_seconds: balancer.map(|(later, earlier)| later.0 - earlier.0),
            ends_cpu_seconds: self.ends_cpu_seconds - earlier.ends_cpu_seconds,
            host_cpu_seconds: cpu_seconds - (self.host.idle - earlier.host.idle) - stolen,
            stolen_share: stolen / cpu_seconds,
            growth: Growth {
                resident: balancer.map(|(later, earlier)| grown(later.1, earlier.1)),
                slab: grown(self.memory.slab, earlier.memory.slab),
                tcp: grown(self.memory.tcp, earlier.memory.tcp),
                unavailable: grown(earlier.memory.available, self.memory.available),
            },
        }
    }
}
