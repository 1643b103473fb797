// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measures lb beside its peers in one run: `cargo xtask bench` builds and starts it.
//!
//! Client, balancer and servers live in network namespaces; the contestants take turns; the result is a Markdown table on
//! standard output, and the same with every sample as JSON in the output directory.
#![forbid(unsafe_code)]

mod contestant;
mod lab;
mod load;
mod measure;
mod report;
mod run;
mod suite;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum as _};

use contestant::Contestant;
use lab::Lab;
use report::Environment;
use run::{Measured, Sample};
use suite::{Size, Suite, Workload};

/// Measures lb beside its peers.
#[derive(Parser)]
#[command(
    name = "lb-bench",
    after_help = "LB_AGENT names the binary of lb. Needs root, for network namespaces."
)]
struct Options {
    /// What to measure; everything if none is named
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Whom to compare, with commas between; all that are installed if none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Contestant>,
    /// Samples of each; 10, or 2 if quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Little work: shows that everything works, the numbers mean nothing
    #[arg(long)]
    quick: bool,
    /// Where results, configurations and logs go
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

fn main() -> ExitCode {
    match role() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The ends of the load are this same program (see [`load`]).
fn role() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--as-client"] => load::client::run(),
        ["--as-server", first_port, routes] => load::server::run(first_port.parse()?, routes.parse()?),
        _ => bench(Options::parse()),
    }
}

fn bench(options: Options) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run this as root");
    let size = if options.quick { Size::Quick } else { Size::Full };
    let repeats = options.repeats.unwrap_or(size.repeats());
    let lab = Lab::new(&options.output)?;
    let mut environment = Environment::new(&lab, repeats)?;
    let contestants = present(&options.peers, &mut environment)?;
    let suites = if options.suites.is_empty() { Suite::value_variants().to_vec() } else { options.suites };
    let workloads: Vec<_> = suites.iter().flat_map(|suite| suite.workloads(size)).collect();
    let mut progress = Progress::new(workloads.len() * contestants.len() * repeats as usize);
    let mut results = Vec::new();
    for workload in &workloads {
        let report =
            |contestant, repeat, sample: &Sample| progress.show(workload, contestant, repeat, sample);
        results.push(run::run(&lab, workload, &contestants, repeats, report)?);
        // After each, so that a long run that is cut short leaves something behind.
        write(&lab, &environment, &contestants, &results)?;
    }
    print!("{}", report::markdown(&environment, &results)?);
    eprintln!("results, configurations and logs: {}", lab.directory.display());
    Ok(())
}

/// Those who can take part; the others are named in the environment.
fn present(wanted: &[Contestant], environment: &mut Environment) -> Result<Vec<Contestant>> {
    let candidates = if wanted.is_empty() { Contestant::value_variants() } else { wanted };
    let mut present = Vec::new();
    for contestant in candidates {
        match contestant.version() {
            Ok(version) => {
                environment.versions.insert(contestant.name(), version);
                present.push(*contestant);
            }
            Err(error) if wanted.is_empty() => {
                environment.missing.insert(contestant.name(), format!("{error:#}"));
            }
            Err(error) => bail!("{} cannot take part: {error:#}", contestant.name()),
        }
    }
    Ok(present)
}

fn write(
    lab: &Lab,
    environment: &Environment,
    contestants: &[Contestant],
    results: &[Measured],
) -> Result<()> {
    let configs: BTreeMap<_, _> = contestants
        .iter()
        .filter_map(|contestant| Some((contestant.file_name(), contestant.config(lab)?)))
        .collect();
    let json = serde_json::to_string_pretty(&report::json(environment, results, &configs)?)?;
    save(&lab.directory.join("results.json"), &json)?;
    save(&lab.directory.join("results.md"), &report::markdown(environment, results)?)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What runs and how long the rest will take.
struct Progress {
    start: Instant,
    done: usize,
    total: usize,
}

impl Progress {
    fn new(total: usize) -> Self {
        Self { start: Instant::now(), done: 0, total }
    }

    fn show(&mut self, workload: &Workload, contestant: Contestant, repeat: u32, sample: &Sample) {
        self.done += 1;
        let per_sample = self.start.elapsed().as_secs_f64() / self.done as f64;
        let left = per_sample * (self.total - self.done) as f64;
        eprintln!(
            "[{:3}/{}, {:.0} s to go] {} #{}, {}: {:.3} s",
            self.done,
            self.total,
            left,
            workload.title,
            repeat + 1,
            contestant.name(),
            sample.outcome.seconds
        );
    }
}
