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
mod lab;
mod load;
mod markdown;
mod measure;
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
use clap::{Parser, ValueEnum as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use contestant::{AskedFor, Contestant, LB_AGENT, LbPath, PeerParser};
use environment::{Environment, Missing, how_to_install};
use interrupt::Interrupt;
use journal::Journal;
use lab::Lab;
use progress::Progress;
use results::{FORMAT, Plan, Planned, Results};
use run::Recorder;
use suite::{Size, Suite, Workload};

/// Measures lb beside its peers.
#[derive(Parser)]
#[command(
    name = "lb-bench",
    after_help = "LB_AGENT names the binary of lb. Needs root, for network namespaces. Ctrl-C ends it in good order and keeps the \
                  samples so far."
)]
struct Options {
    /// What to measure; everything if none is named
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Whom to compare lb with, commas between, in every suite; if none is named, all that are installed, those with splice in bulk
    #[arg(long, value_parser = PeerParser, value_delimiter = ',', value_name = "PEERS")]
    peers: Vec<Contestant>,
    /// Paths of lb, commas between, in every suite; if none is named, auto, and the others in the suites that tell them apart
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PATHS")]
    paths: Vec<LbPath>,
    /// Samples of each; 10, or 2 if quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Little work: shows that everything works, the numbers mean nothing
    #[arg(long)]
    quick: bool,
    /// Less still, two minutes at most; fails if somebody who could take part is not installed
    #[arg(long, conflicts_with = "quick")]
    ci: bool,
    /// What every namespace uses; cubic and bbr are usual
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    congestion_control: String,
    /// Where results, configurations and logs go: a directory without a run; target/bench/DATE if none is named
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Goes on with the run in this directory, given the same command, programs and machine
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    resume: Option<PathBuf>,
    /// Measures nothing: says how long each suite will take
    #[arg(long, conflicts_with_all = ["resume", "output"])]
    plan: bool,
    /// Measures nothing: makes the reports again from this results.json, beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suites", "peers", "paths", "repeats", "quick", "output", "resume", "plan"])]
    report_only: Option<PathBuf>,
    /// Puts the table between the markers of this file, README.md if none is named
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "README.md")]
    update_readme: Option<PathBuf>,
}

impl Options {
    fn size(&self) -> Size {
        match (self.ci, self.quick) {
            (true, _) => Size::Ci,
            (false, true) => Size::Quick,
            (false, false) => Size::Full,
        }
    }

    /// In continuous integration everybody has to show that it works in every suite.
    fn asked_for(&self) -> AskedFor {
        AskedFor { paths: self.ci || !self.paths.is_empty(), peers: self.ci || !self.peers.is_empty() }
    }

    fn suites(&self) -> Vec<Suite> {
        if self.suites.is_empty() { Suite::value_variants().to_vec() } else { self.suites.clone() }
    }

    fn workloads(&self) -> Vec<Workload> {
        self.suites().iter().flat_map(|suite| suite.workloads(self.size())).collect()
    }

    fn repeats(&self) -> u32 {
        self.repeats.unwrap_or(self.size().repeats())
    }

    /// Those who are to take part, in the order of reports.
    fn candidates(&self) -> Vec<Contestant> {
        let is_usual = |contestant: &Contestant| {
            self.ci || self.suites().iter().any(|suite| contestant.is_usual_in(*suite))
        };
        let is_wanted = |contestant: &Contestant| match contestant {
            Contestant::Lb(path) if !self.paths.is_empty() => self.paths.contains(path),
            Contestant::Lb(_) => is_usual(contestant),
            peer if !self.peers.is_empty() => self.peers.contains(peer),
            peer => is_usual(peer),
        };
        Contestant::all().into_iter().filter(is_wanted).collect()
    }
}

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
        finish(options, directory, &results)?;
        return Ok(ExitCode::SUCCESS);
    }
    allow_descriptors()?;
    if options.plan {
        announce(options);
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run this as root");
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
    finish(options, &directory, &measured?)?;
    Ok(ExitCode::SUCCESS)
}

/// Lets everything that is started from here have as many file descriptors as this process may (getrlimit(2)): how many flows a
/// suite has depends on them.
fn allow_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

/// How long everybody would take who could take part if installed.
fn announce(options: &Options) {
    let (contestants, repeats) = (options.candidates(), options.repeats() as usize);
    let samples = |workload: &Workload, contestant: Contestant| {
        if workload.absence(contestant, options.asked_for()).is_none() { repeats } else { 0 }
    };
    progress::announce(&estimates(&options.workloads(), &contestants, samples));
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
    take_samples(&lab, &workloads, &contestants, journal, interrupt)
}

/// Takes what the journal lacks.
fn take_samples(
    lab: &Lab,
    workloads: &[Workload],
    contestants: &[Contestant],
    journal: Journal,
    interrupt: &Interrupt,
) -> Result<Results> {
    let left = |journal: &Journal, workload| run::left(workload, contestants, journal).len();
    let total = workloads.iter().map(|workload| left(&journal, workload)).sum();
    if !journal.samples.is_empty() {
        eprintln!("goes on: {} samples are there, {total} are left", journal.samples.len());
    }
    let samples = |workload: &Workload, contestant| {
        let left = run::left(workload, contestants, &journal);
        left.iter().filter(|(_, index)| contestants[*index] == contestant).count()
    };
    progress::announce(&estimates(workloads, contestants, samples));
    let mut recorder = Recorder { journal, progress: Progress::new(total), interrupt };
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

/// What a person sees at the end.
fn finish(options: &Options, directory: &Path, results: &Results) -> Result<()> {
    print!("{}", markdown::report(results)?);
    if let Some(readme) = &options.update_readme {
        let shown = readme.display();
        let text = fs::read_to_string(readme).with_context(|| format!("cannot read {shown}"))?;
        let text = markdown::embed(&text, &summary::summary(results)?).with_context(|| shown.to_string())?;
        save(readme, &text)?;
        eprintln!("the table in {shown} is up to date");
    }
    eprintln!("the page: {}", directory.join("report.html").display());
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &str) -> Vec<String> {
        let words = std::iter::once("lb-bench").chain(arguments.split_whitespace());
        Options::parse_from(words).candidates().into_iter().map(Contestant::name).collect()
    }

    #[test]
    fn paths_take_part_where_a_suite_tells_them_apart_or_where_they_are_asked_for() {
        let check =
            |arguments: &str, expected: &[&str]| assert_eq!(names(arguments), expected, "{arguments}");
        check("latency --peers haproxy-splice,direct", &["direct", "lb-auto", "haproxy-splice"]);
        check("latency", &["direct", "lb-auto", "haproxy", "haproxy-new", "nginx", "envoy", "sozu"]);
        check("latency --peers haproxy,direct", &["direct", "lb-auto", "haproxy"]);
        check("bulk --peers direct", &["direct", "lb-auto", "lb-splice", "lb-copy"]);
        check("bulk --peers direct --paths copy", &["direct", "lb-copy"]);
        check("latency --paths copy,auto --peers nginx", &["lb-auto", "lb-copy", "nginx"]);
        assert_eq!(names(""), Contestant::all().into_iter().map(Contestant::name).collect::<Vec<_>>());
    }

    #[test]
    fn in_continuous_integration_every_path_is_in_every_suite() {
        assert_eq!(names("--ci latency"), names("--ci bulk"));
    }
}
