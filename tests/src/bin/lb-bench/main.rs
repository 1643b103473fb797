// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures lb beside its peers in one run: `cargo xtask bench` builds and starts it.
//!
//! Client, balancer and servers live in network namespaces; the contestants take turns. Every sample is kept at once ([`journal`]);
//! what they say is [`results`], from which all reports are made: a page ([`html`]), a Markdown document ([`markdown`]) and what README
//! shows ([`summary`]).
#![forbid(unsafe_code)]

mod configs;
mod contestant;
mod environment;
mod html;
mod interrupt;
mod journal;
mod kernel_workers;
mod lab;
mod load;
mod markdown;
mod measure;
mod micro;
mod options;
mod preflight;
mod programs;
mod progress;
mod results;
mod run;
mod statistics;
mod suite;
mod summary;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use contestant::{Contestant, LB_AGENT};
use environment::{Environment, Missing, how_to_install};
use interrupt::Interrupt;
use journal::Journal;
use lab::Lab;
use micro::Micro;
use options::Options;
use progress::Progress;
use results::{FORMAT, Failure, Plan, Planned, Results};
use run::Recorder;
use suite::{Suite, Workload};

fn main() -> ExitCode {
    role().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The ends of the load are this same program (see [`load`]).
fn role() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--as-client"] => load::client::run().map(|()| ExitCode::SUCCESS),
        ["--as-server", first_port, routes] => {
            load::server::run(first_port.parse()?, routes.parse()?).map(|()| ExitCode::SUCCESS)
        }
        _ => bench(&Options::parse()),
    }
}

fn bench(options: &Options) -> Result<ExitCode> {
    if let Some(file) = &options.report_only {
        let results = Results::load(file)?;
        let directory = file.parent().context("the file is in no directory")?;
        write_reports(directory, &results)?;
        return finish(options, directory, &results);
    }
    allow_descriptors()?;
    options.ensure_all_take_part()?;
    if options.plan {
        progress::announce(&plan(options));
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run this as root");
    preflight::check(options)?;
    let interrupt = Interrupt::listen()?;
    let directory = directory(options)?;
    let measured = measure(options, &directory, &interrupt);
    interrupt::sweep()?;
    if directory.join(journal::FILE).exists() && (interrupt.signal().is_some() || measured.is_err()) {
        let shown = directory.display();
        eprintln!(
            "what was measured is kept; to go on, say `--resume {shown}` with the same suites, peers and repeats"
        );
    }
    if let Some(signal) = interrupt.signal() {
        // As shells report a signal's end; a signal has a number below 65 (signal(7)).
        return Ok(ExitCode::from(128 + u8::try_from(signal).unwrap_or_default()));
    }
    finish(options, &directory, &measured?)
}

/// Lets everything that is started from here have as many file descriptors as this process may (getrlimit(2)): how many flows a
/// suite has depends on them.
fn allow_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

/// How long each suite would take with everybody who could take part if installed.
fn plan(options: &Options) -> Vec<(String, Duration)> {
    let (contestants, repeats) = (options.candidates(), options.repeats() as usize);
    let samples = |workload: &Workload, contestant: Contestant| {
        let is_here = workload.absence(contestant, options.asked_for()).is_none();
        if is_here { repeats + workload.program_samples(contestant) } else { 0 }
    };
    let mut estimates = estimates(&options.workloads(), &contestants, samples);
    estimates.extend(micro_to_come(options, None));
    estimates
}

/// About how long suite micro takes, unless it is not asked for or has run in this directory.
fn micro_to_come(options: &Options, directory: Option<&Path>) -> Option<(String, Duration)> {
    let has_run = directory.is_some_and(|directory| directory.join(micro::FILE).exists());
    (options.has_micro() && !has_run).then(|| micro::estimate(options.size()))
}

/// About how long each suite takes, by how many samples are to be taken.
fn estimates(
    workloads: &[Workload],
    contestants: &[Contestant],
    samples: impl Fn(&Workload, Contestant) -> usize,
) -> Vec<(String, Duration)> {
    let of = |workload: &Workload| -> Duration {
        let each = contestants.iter().map(|one| workload.estimate(*one, samples(workload, *one)));
        each.sum()
    };
    let suites = workloads.chunk_by(|one, next| one.suite == next.suite);
    suites.map(|own| (own[0].suite.name(), own.iter().map(of).sum())).collect()
}

/// Where this run is kept.
fn directory(options: &Options) -> Result<PathBuf> {
    if let Some(directory) = &options.resume {
        return Ok(directory.clone());
    }
    let directory = options.output.clone().unwrap_or_else(|| {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H%M%SZ").to_string();
        Path::new("target/bench").join(now)
    });
    journal::ensure_free(&directory)?;
    Ok(directory)
}

fn measure(options: &Options, directory: &Path, interrupt: &Interrupt) -> Result<Results> {
    let lab = Lab::new(directory, &options.congestion_control)?;
    interrupt.allow_killing();
    let agent = std::env::var_os(LB_AGENT).map(PathBuf::from);
    let mut environment = Environment::new(&lab, agent.as_deref())?;
    let contestants = present(options, &mut environment)?;
    let workloads = options.workloads();
    let plan = Plan {
        format: FORMAT,
        environment,
        contestants: contestants.iter().map(|contestant| contestant.name()).collect(),
        repeats: options.repeats(),
        seed: options.seed(),
        workloads: workloads
            .iter()
            .map(|workload| Planned::new(workload, options.asked_for()))
            .collect::<Result<_>>()?,
    };
    let titles: BTreeSet<_> = workloads.iter().map(|workload| &workload.title).collect();
    ensure!(titles.len() == workloads.len(), "two workloads have the same title");
    // A program that was killed meanwhile may not have told its version.
    interrupt.check()?;
    let journal = match options.resume {
        Some(_) => Journal::resume(&lab.directory, &plan)?,
        None => Journal::create(&lab.directory, plan)?,
    };
    let micro = micro_to_come(options, Some(&lab.directory));
    let results = take_samples(&lab, (&workloads, &contestants), journal, micro, interrupt)?;
    if !options.has_micro() {
        return Ok(results);
    }
    let measured = micro::run(&lab.directory, options.size());
    interrupt.check()?;
    let mut results = Results { micro: Micro::load(&lab.directory.join(micro::FILE))?, ..results };
    results.failures.extend(measured.err().map(|error| Failure {
        workload: Suite::Micro.name(),
        contestant: "lb".to_owned(),
        repeat: 0,
        reason: format!("{error:#}"),
    }));
    write_reports(&lab.directory, &results)?;
    Ok(results)
}

/// Takes what the journal lacks; `micro` is what comes then, with its time.
fn take_samples(
    lab: &Lab,
    (workloads, contestants): (&[Workload], &[Contestant]),
    journal: Journal,
    micro: Option<(String, Duration)>,
    interrupt: &Interrupt,
) -> Result<Results> {
    let left = |journal: &Journal, workload: &Workload| {
        run::left(workload, contestants, journal).len() + programs::left(workload, contestants, journal).len()
    };
    let total = workloads.iter().map(|workload| left(&journal, workload)).sum();
    if !journal.samples.is_empty() {
        eprintln!("goes on: {} samples are there, {total} are left", journal.samples.len());
    }
    let samples = |workload: &Workload, contestant| {
        let left = run::left(workload, contestants, &journal);
        let turns = left.iter().filter(|(_, index)| contestants[*index] == contestant).count();
        let timed = programs::left(workload, contestants, &journal);
        let is_timed = timed.iter().any(|index| contestants[*index] == contestant);
        turns + if is_timed { workload.program_samples(contestant) } else { 0 }
    };
    let after = micro.as_ref().map_or(Duration::ZERO, |(_, time)| *time);
    let mut estimates = estimates(workloads, contestants, samples);
    estimates.extend(micro);
    progress::announce(&estimates);
    let mut recorder = Recorder { journal, progress: Progress::new(total, after), interrupt };
    for (index, workload) in workloads.iter().enumerate() {
        let samples = left(&recorder.journal, workload);
        recorder.progress.begin(&workload.title, samples, workloads.len() - index - 1);
        let outcome = run::run(lab, workload, contestants, &mut recorder);
        // After each, whatever became of it, so that a long run that is cut short leaves reports behind.
        write_reports(&lab.directory, &results(&recorder.journal, lab)?)?;
        outcome?;
    }
    results(&recorder.journal, lab)
}

fn results(journal: &Journal, lab: &Lab) -> Result<Results> {
    Ok(Results {
        plan: journal.plan.clone(),
        resumed: journal.resumed.clone(),
        configs: configs::read(&lab.directory.join("configs"))?,
        samples: journal.samples.clone(),
        failures: journal.failures.clone(),
        program_times: journal.program_times.clone(),
        micro: Micro::load(&lab.directory.join(micro::FILE))?,
    })
}

/// Those who can take part; the others are named in the environment.
///
/// # Errors
/// lb cannot, or somebody who was asked for by name, or anybody in continuous integration.
fn present(options: &Options, environment: &mut Environment) -> Result<Vec<Contestant>> {
    let (mut present, mut is_needed) = (Vec::new(), false);
    for contestant in options.candidates() {
        let name = contestant.name();
        match contestant.version() {
            Ok(version) => {
                environment.versions.insert(name, version);
                present.push(contestant);
            }
            Err(error) => {
                is_needed |= matches!(contestant, Contestant::Lb(_));
                let install = how_to_install(&name).to_owned();
                environment.missing.insert(name, Missing { reason: format!("{error:#}"), install });
            }
        }
    }
    for (name, Missing { reason, install }) in &environment.missing {
        eprintln!("missing: {name} ({reason}); to install it: {install}");
    }
    is_needed |= options.ci || !options.peers.is_empty();
    if !environment.missing.is_empty() && is_needed {
        let names: Vec<_> = environment.missing.keys().map(String::as_str).collect();
        bail!("cannot take part: {}", names.join(", "));
    }
    Ok(present)
}

/// results.json and all that is made from it.
fn write_reports(directory: &Path, results: &Results) -> Result<()> {
    save(&directory.join("results.json"), &serde_json::to_string_pretty(results)?)?;
    save(&directory.join("results.md"), &markdown::report(results)?)?;
    save(&directory.join("report.html"), &html::page(results))
}

/// What a person sees at the end; a failure if somebody failed.
fn finish(options: &Options, directory: &Path, results: &Results) -> Result<ExitCode> {
    print!("{}", markdown::report(results)?);
    if let Some(readme) = &options.update_readme {
        let shown = readme.display();
        let text = fs::read_to_string(readme).with_context(|| format!("cannot read {shown}"))?;
        let control = &results.plan.environment.congestion_control;
        let text = markdown::embed(&text, control, &summary::summary(results)?)
            .with_context(|| shown.to_string())?;
        save(readme, &text)?;
        eprintln!("the table in {shown} is up to date");
    }
    eprintln!("the page: {}", directory.join("report.html").display());
    let failed = results.failed();
    for (contestant, workload, count, reason) in &failed {
        eprintln!("FAILED: {contestant} in {workload}, samples: {count}: {reason}");
    }
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_take_as_long_as_is_said() {
        let check = |arguments: &str, seconds: std::ops::Range<u64>| {
            let words = std::iter::once("lb-bench").chain(arguments.split_whitespace());
            let planned: Duration = plan(&Options::parse_from(words)).iter().map(|(_, time)| *time).sum();
            assert!(seconds.contains(&planned.as_secs()), "{arguments}: {planned:?}");
        };
        check("--ci", 60..120);
        check("connections bulk latency pingpong idle https scale --repeats 6", 30 * 60..42 * 60);
    }
}
