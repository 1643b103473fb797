// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the contestants in turn and takes the samples.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use lb_tests::kernel::map_bytes;
use rustix::process::Signal;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::contestant::{Contestant, Running};
use crate::interrupt::Interrupt;
use crate::journal::Journal;
use crate::kernel_workers::KernelWorkers;
use crate::lab::{Lab, Launch, Program, own_program};
use crate::load::{Outcome, READY, Task, Work};
use crate::measure::{HostCpu, KernelMemory, context_switches, process_cpu_seconds, resident_bytes, tree};
use crate::programs;
use crate::progress::Progress;
use crate::results::{Failure, Plan, Record};
use crate::suite::Workload;

/// How long memory may take to settle before it is read.
pub const SETTLING: Duration = Duration::from_millis(500);

/// From the end of the work to the next sample, at least: whoever comes next finds what the one before left behind settled, however
/// long the questions take that only lb is asked.
pub const PAUSE: Duration = Duration::from_millis(100);

/// So often may a contestant fail in a workload before it is left out of the rest of it.
const FAILURES_MAX: usize = 2;

/// One workload on one contestant, once.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// What the client saw.
    pub outcome: Outcome,
    /// User and system time of the balancer's processes, and of the kernel's workers, whoever they worked for; `None` without a
    /// balancer.
    pub balancer_cpu_seconds: Option<f64>,
    /// The kernel's workers' part of it.
    pub kernel_worker_cpu_seconds: f64,
    /// How often the balancer's threads were switched to something else; `None` without a balancer.
    pub balancer_switches: Option<u64>,
    /// The same of the client, with the programs that it started.
    pub client_cpu_seconds: f64,
    /// The same of the servers.
    pub server_cpu_seconds: f64,
    /// Busy time of all cores, whatever ran there.
    pub host_cpu_seconds: f64,
    /// Share of the cores' time that the host of this virtual machine took away.
    pub stolen_share: f64,
    /// Of memory.
    pub growth: Growth,
    /// The balancer's processes in RAM at the end, in bytes; `None` without a balancer.
    pub resident_bytes: Option<f64>,
    /// From the balancer's start until it took a connection; `None` without a balancer.
    pub start_seconds: Option<f64>,
    /// Bytes that lb carried by each of its paths.
    #[serde(skip)]
    pub paths: BTreeMap<String, u64>,
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
    /// BPF maps of the balancer; `None` without a balancer.
    pub maps: Option<f64>,
}

impl Sample {
    /// Units of work in a second.
    pub fn rate(&self) -> f64 {
        self.outcome.units as f64 / self.outcome.seconds
    }

    /// User and system time of balancer, client and server together.
    pub fn all_cpu_seconds(&self) -> f64 {
        self.client_cpu_seconds + self.server_cpu_seconds + self.balancer_cpu_seconds.unwrap_or_default()
    }

    /// A share of `total`.
    pub fn per_unit(&self, total: f64) -> f64 {
        total / self.outcome.units as f64
    }
}

/// What becomes of the samples.
pub struct Recorder<'run> {
    /// Where they are kept, with those of earlier.
    pub journal: Journal,
    /// Who hears of them.
    pub progress: Progress,
    /// Who may end it all.
    pub interrupt: &'run Interrupt,
}

impl Recorder<'_> {
    fn keep(
        &mut self,
        workload: &Workload,
        contestant: Contestant,
        repeat: u32,
        sample: Sample,
    ) -> Result<()> {
        let contestant = contestant.name();
        let line =
            format!("{} #{}, {contestant}: {:.3} s", workload.title, repeat + 1, sample.outcome.seconds);
        self.journal.add(Record {
            workload: workload.title.clone(),
            contestant,
            repeat,
            values: workload.columns.iter().map(|column| (column.value)(&sample)).collect(),
            stolen_share: sample.stolen_share,
            sample: serde_json::to_value(&sample)?,
            paths: sample.paths,
        })?;
        self.progress.show(&line);
        Ok(())
    }

    /// Notes that a sample could not be taken.
    ///
    /// # Errors
    /// That cannot be kept.
    pub fn fail(
        &mut self,
        workload: &Workload,
        contestant: Contestant,
        repeat: u32,
        error: &anyhow::Error,
    ) -> Result<()> {
        let (contestant, reason) = (contestant.name(), format!("{error:#}"));
        let line = format!("{} #{}, {contestant}: FAILED: {reason}", workload.title, repeat + 1);
        self.journal.fail(Failure { workload: workload.title.clone(), contestant, repeat, reason })?;
        self.progress.show(&line);
        Ok(())
    }
}

/// Runs a workload on all contestants in turn, as often as planned, in an order drawn anew for each repeat. Samples that the journal
/// has are not taken again. Who fails is noted and started anew at its next turn, until it has failed too often.
///
/// # Errors
/// A sample cannot be kept, the servers have ended, or the run was interrupted.
pub fn run(
    lab: &Lab,
    workload: &Workload,
    contestants: &[Contestant],
    recorder: &mut Recorder<'_>,
) -> Result<()> {
    let turns = left(workload, contestants, &recorder.journal);
    let (mut standing, mut failures) = (BTreeMap::new(), BTreeMap::<usize, usize>::new());
    // All before the first sample, so that everybody is measured beside the same idle neighbours.
    let early = if workload.needs_fresh_balancer() { &[][..] } else { &turns };
    for index in early.iter().map(|(_, index)| *index).collect::<BTreeSet<_>>() {
        match start(lab, workload, contestants[index]) {
            Ok(running) => drop(standing.insert(index, running)),
            // It may try once more at its turn.
            Err(error) => {
                eprintln!("{} does not start: {error:#}", contestants[index].name());
                *failures.entry(index).or_default() += 1;
            }
        }
        recorder.interrupt.check()?;
    }
    for (repeat, index) in turns {
        if failures.get(&index).is_some_and(|count| *count >= FAILURES_MAX) {
            recorder.progress.skip();
            continue;
        }
        recorder.interrupt.check()?;
        let contestant = contestants[index];
        let taken = turn(lab, workload, contestant, standing.remove(&index));
        // Whoever was killed meanwhile may have cost the others time.
        recorder.interrupt.check()?;
        match taken {
            Ok((running, sample)) => {
                recorder.keep(workload, contestant, repeat, sample)?;
                if !workload.needs_fresh_balancer() {
                    standing.insert(index, running);
                }
            }
            Err(error) => {
                lab.ensure_servers_run().with_context(|| format!("{error:#}"))?;
                recorder.fail(workload, contestant, repeat, &error)?;
                *failures.entry(index).or_default() += 1;
            }
        }
    }
    programs::run(lab, workload, contestants, standing, recorder)
}

/// A sample of a contestant that stands already, or is started for it, and the contestant.
fn turn(
    lab: &Lab,
    workload: &Workload,
    contestant: Contestant,
    standing: Option<Running>,
) -> Result<(Running, Sample)> {
    let running = match standing {
        Some(running) => running,
        None => start(lab, workload, contestant)?,
    };
    let sample = sample(lab, &running, workload.work, workload.pause())?;
    Ok((running, sample))
}

/// What is still to be done of a workload: repeats and who takes part in them, in order.
pub fn left(workload: &Workload, contestants: &[Contestant], journal: &Journal) -> Vec<(u32, usize)> {
    let planned = journal.plan.workloads.iter().find(|planned| planned.title == workload.title);
    let is_left = |(repeat, index): &(u32, usize)| {
        let name = contestants[*index].name();
        planned.is_none_or(|planned| !planned.absent.contains_key(&name))
            && !journal.has(&workload.title, &name, *repeat)
    };
    turns(contestants.len(), &journal.plan, &workload.title).filter(is_left).collect()
}

/// Repeats and who takes part in them, in order. The order of each repeat is drawn by itself, so that it is the same whatever has
/// been done already.
fn turns(contestants: usize, plan: &Plan, title: &str) -> impl Iterator<Item = (u32, usize)> {
    let order = move |repeat: u32| {
        let digest = Sha256::digest(format!("{}/{repeat}/{title}", plan.seed));
        let seed = digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte));
        let mut order: Vec<usize> = (0..contestants).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        order
    };
    (0..plan.repeats).flat_map(move |repeat| order(repeat).into_iter().map(move |index| (repeat, index)))
}

/// Starts a contestant and warms it up.
///
/// # Errors
/// It does not start, or not as much as that works.
pub fn start(lab: &Lab, workload: &Workload, contestant: Contestant) -> Result<Running> {
    let running = contestant.start(lab, workload.duty)?;
    if let Some(work) = workload.warm_up() {
        let warmed_up = sample(lab, &running, work, workload.pause());
        warmed_up.with_context(|| format!("warming up {}", contestant.name()))?;
    }
    Ok(running)
}

/// A sample.
///
/// # Errors
/// There is none; with what the balancer had to say.
pub fn sample(lab: &Lab, running: &Running, work: Work, pause: Duration) -> Result<Sample> {
    take_sample(lab, running, work, pause).map_err(|error| {
        let words = running.program.as_ref().map(Program::last_words).unwrap_or_default();
        if words.is_empty() { error } else { anyhow!("{error:#}; its log ends: {words}") }
    })
}

fn take_sample(lab: &Lab, running: &Running, work: Work, pause: Duration) -> Result<Sample> {
    let task = Task {
        targets: running.targets.clone(),
        header: running.contestant.header(),
        scratch: lab.scratch().to_owned(),
        work,
    };
    let ledger = running.ledger(lab)?;
    let mut client = start_client(lab, &task)?;
    let balancer = running.program.as_ref().map(|program| tree(program.pid()));
    let ends = (client.pid(), lab.server_pids());
    let before = Snapshot::take(balancer.as_deref(), &ends)?;
    client.tell("go")?;
    let outcome: Outcome = serde_json::from_str(&client.hear()?)?;
    if let Work::Idle { .. } = work {
        std::thread::sleep(SETTLING);
    }
    let after = Snapshot::take(balancer.as_deref(), &ends)?;
    let end = Instant::now();
    client.dismiss()?;
    let paths = running.audit(lab, ledger.as_ref(), &work.traffic(&outcome))?;
    let start_seconds = running.program.as_ref().map(|_| running.start_time.as_secs_f64());
    std::thread::sleep(pause.saturating_sub(end.elapsed()));
    Ok(Sample { start_seconds, paths, ..after.since(&before, outcome) })
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
    balancer: Option<Usage>,
    kernel_workers: KernelWorkers,
    client_cpu_seconds: f64,
    server_cpu_seconds: f64,
}

/// What the processes of a balancer have used.
#[derive(Clone, Copy, Debug)]
struct Usage {
    cpu_seconds: f64,
    resident: u64,
    maps: u64,
    switches: u64,
}

impl Usage {
    fn of(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            cpu_seconds: process_cpu_seconds(pids)?,
            resident: resident_bytes(pids)?,
            maps: pids.iter().map(|pid| map_bytes(*pid)).sum(),
            switches: context_switches(pids)?,
        })
    }
}

impl Snapshot {
    fn take(balancer: Option<&[u32]>, (client, servers): &(u32, Vec<u32>)) -> Result<Self> {
        let balancer = balancer.map(Usage::of).transpose()?;
        let kernel_workers = KernelWorkers::now();
        let client_cpu_seconds = process_cpu_seconds(&[*client])?;
        let server_cpu_seconds = process_cpu_seconds(servers)?;
        let memory = KernelMemory::now()?;
        let (host, time) = (HostCpu::now()?, Instant::now());
        Ok(Self { balancer, kernel_workers, client_cpu_seconds, server_cpu_seconds, memory, host, time })
    }

    fn since(&self, earlier: &Self, outcome: Outcome) -> Sample {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let cpu_seconds = cores * self.time.duration_since(earlier.time).as_secs_f64();
        let stolen = self.host.stolen - earlier.host.stolen;
        let balancer = self.balancer.zip(earlier.balancer);
        let kernel_worker_cpu_seconds = self.kernel_workers.since(&earlier.kernel_workers);
        let grown = |later: u64, earlier: u64| later as f64 - earlier as f64;
        Sample {
            outcome,
            balancer_cpu_seconds: balancer
                .map(|(later, earlier)| later.cpu_seconds - earlier.cpu_seconds + kernel_worker_cpu_seconds),
            kernel_worker_cpu_seconds,
            balancer_switches: balancer.map(|(later, earlier)| later.switches - earlier.switches),
            client_cpu_seconds: self.client_cpu_seconds - earlier.client_cpu_seconds,
            server_cpu_seconds: self.server_cpu_seconds - earlier.server_cpu_seconds,
            resident_bytes: self.balancer.map(|usage| usage.resident as f64),
            start_seconds: None,
            paths: BTreeMap::new(),
            host_cpu_seconds: cpu_seconds - (self.host.idle - earlier.host.idle) - stolen,
            stolen_share: stolen / cpu_seconds,
            growth: Growth {
                resident: balancer.map(|(later, earlier)| grown(later.resident, earlier.resident)),
                slab: grown(self.memory.slab, earlier.memory.slab),
                tcp: grown(self.memory.tcp, earlier.memory.tcp),
                unavailable: grown(earlier.memory.available, self.memory.available),
                maps: balancer.map(|(later, earlier)| grown(later.maps, earlier.maps)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repeat_has_everybody_in_an_order_of_its_own_that_can_be_drawn_again() {
        let plan = crate::results::tests::results(&[("lb-auto", &[0.0; 20])]).plan;
        let all: Vec<_> = turns(5, &plan, "a").collect();
        assert_eq!(all, turns(5, &plan, "a").collect::<Vec<_>>());
        let of = |repeat: u32| -> Vec<usize> {
            all.iter().filter(|turn| turn.0 == repeat).map(|turn| turn.1).collect()
        };
        for repeat in 0..20 {
            let mut order = of(repeat);
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4]);
        }
        assert!((1..20).any(|repeat| of(repeat) != of(0)), "{all:?}");
        assert_ne!(all, turns(5, &plan, "b").collect::<Vec<_>>());
        assert_ne!(all, turns(5, &Plan { seed: plan.seed + 1, ..plan.clone() }, "a").collect::<Vec<_>>());
        assert_eq!(turns(0, &plan, "a").count(), 0);
    }
}
