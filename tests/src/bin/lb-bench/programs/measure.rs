// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes the samples during which the kernel counts how long programs run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use super::{Done, ProgramTime, ProgramTimes, left};
use crate::contestant::{Contestant, Running};
use crate::lab::{Lab, Program};
use crate::load::Work;
use crate::measure::tree;
use crate::results::Record;
use crate::run::{Recorder, sample, start};
use crate::suite::Workload;

/// Runs and nanoseconds of programs by their numbers and names.
type Counts = BTreeMap<(u32, String), (u64, u64)>;

/// Times the programs of all whose journal lacks that, after all samples that are compared. Those that stand already are not started anew.
///
/// # Errors
/// What was measured cannot be kept, the servers have ended, or the run was interrupted.
pub fn run(
    lab: &Lab,
    workload: &Workload,
    contestants: &[Contestant],
    mut standing: BTreeMap<usize, Running>,
    recorder: &mut Recorder<'_>,
) -> Result<()> {
    for index in left(workload, contestants, &recorder.journal) {
        let name = contestants[index].name();
        let is_own = |one: &Record| one.workload == workload.title && one.contestant == name;
        if !recorder.journal.samples.iter().any(is_own) {
            // It has failed each time, and that is told.
            recorder.progress.skip();
            continue;
        }
        recorder.interrupt.check()?;
        let taken = take(lab, workload, contestants[index], standing.remove(&index));
        recorder.interrupt.check()?;
        match taken {
            Ok(times) => {
                recorder.progress.show(&format!("{}: time in BPF programs", times.place()));
                recorder.journal.add_program_times(times)?;
            }
            Err(error) => {
                lab.ensure_servers_run().with_context(|| format!("{error:#}"))?;
                // As one more repeat, which nobody else has.
                let repeat = recorder.journal.plan.repeats;
                recorder.fail(
                    workload,
                    contestants[index],
                    repeat,
                    &error.context("time in BPF programs"),
                )?;
            }
        }
    }
    Ok(())
}

fn take(
    lab: &Lab,
    workload: &Workload,
    contestant: Contestant,
    standing: Option<Running>,
) -> Result<ProgramTimes> {
    let running = match standing {
        Some(running) => running,
        None => start(lab, workload, contestant)?,
    };
    let pids = tree(running.program.as_ref().map(Program::pid).context("it has no process")?);
    // The kernel counts as long as somebody has this open: however we end, it goes back to what it was.
    let counting = enable_stats(Stats::RunTime).context("the kernel does not count")?;
    let before = counts(&pids)?;
    let (mut units, mut stolen_share) = (0, 0.0_f64);
    for _ in 0..workload.program_samples(contestant) {
        let sample = sample(lab, &running, workload.work, workload.pause())?;
        units += sample.outcome.units;
        stolen_share = stolen_share.max(sample.stolen_share);
    }
    let programs = since(counts(&pids)?, &before);
    drop(counting);
    ensure!(!programs.is_empty(), "no program of it has run");
    let done = match workload.work {
        Work::Download { .. } | Work::Upload { .. } => Done::Bytes(units),
        _ => Done::Exchanges(units),
    };
    Ok(ProgramTimes {
        workload: workload.title.clone(),
        contestant: contestant.name(),
        done,
        stolen_share,
        programs,
    })
}

/// What the kernel has counted of the programs of which these processes have descriptors, of the program itself or of where it is attached
/// (kernel/bpf/syscall.c, bpf_prog_show_fdinfo and bpf_link_show_fdinfo).
fn counts(pids: &[u32]) -> Result<Counts> {
    let own: BTreeSet<u32> = pids.iter().flat_map(|pid| program_ids(*pid)).collect();
    let mut counts = Counts::new();
    for program in loaded_programs() {
        let program = program.context("cannot look at the kernel's programs")?;
        if own.contains(&program.id()) {
            let name = program.name_as_str().context("a program whose name is no text")?.to_owned();
            let nanoseconds = u64::try_from(program.run_time().as_nanos())?;
            counts.insert((program.id(), name), (program.run_count(), nanoseconds));
        }
    }
    Ok(counts)
}

fn program_ids(pid: u32) -> Vec<u32> {
    let listing = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
    // A descriptor may be closed between listing and reading.
    let infos = listing.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    infos
        .filter_map(|info| info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()))
        .collect()
}

/// The programs that ran meanwhile, those of the same name together.
fn since(after: Counts, before: &Counts) -> Vec<ProgramTime> {
    let mut grown = BTreeMap::<String, (u64, u64)>::new();
    for (program, (runs, nanoseconds)) in after {
        let (runs_before, nanoseconds_before) = before.get(&program).copied().unwrap_or_default();
        let sum = grown.entry(program.1).or_default();
        *sum = (sum.0 + runs - runs_before, sum.1 + nanoseconds - nanoseconds_before);
    }
    let ran = grown.into_iter().filter(|(_, (runs, _))| *runs > 0);
    ran.map(|(name, (runs, nanoseconds))| ProgramTime { name, runs, nanoseconds }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_meanwhile_counts() {
        let of = |id, name: &str, runs, nanoseconds| ((id, name.to_owned()), (runs, nanoseconds));
        let before = Counts::from([of(1, "in", 5, 500), of(2, "in", 1, 100), of(3, "out", 7, 70)]);
        let after = [of(1, "in", 7, 800), of(2, "in", 1, 100), of(3, "out", 7, 70), of(4, "in", 1, 10)];
        let expected = ProgramTime { name: "in".to_owned(), runs: 3, nanoseconds: 310 };
        assert_eq!(since(Counts::from(after), &before), [expected]);
    }
}
