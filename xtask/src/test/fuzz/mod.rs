// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzz targets: plain programs that stable Rust builds, run from the committed corpus. There is no sanitizer: the code under
//! test has no unsafe. The layout is cargo-fuzz's, so that it works there too.

mod build;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail};

use self::build::Build;
use crate::report::{Outcome, Report};
use crate::repository::{has_program, root};

/// The folder with the fuzz targets, a workspace of its own with its own compiler flags, from the root of the repository.
const FOLDER: &str = "tests/fuzz";

/// Their manifest.
pub const FUZZ: &str = "tests/fuzz/Cargo.toml";

/// How long each target runs unless told otherwise, in seconds.
pub const SECONDS: u32 = 60;

/// How many lines of what failed are shown.
const TAIL_LINES: usize = 40;

/// The fuzz targets of a test run, whose build is under way or need not be.
pub struct Targets {
    build: Result<Build, Outcome>,
    seconds: u32,
}

impl Targets {
    /// Starts to build them, if they are to run for any time.
    pub fn start(seconds: u32) -> Self {
        let not_run = |reason: &str| Err(Outcome::NotRun(reason.to_owned()));
        let build = if seconds == 0 {
            not_run("--fuzz-seconds 0")
        } else if !root().join(FUZZ).is_file() {
            not_run(&format!("there is no {FUZZ}"))
        } else if !has_program("c++") {
            not_run("libFuzzer needs a C++ compiler: `cargo xtask setup`")
        } else {
            Build::start().map_err(|error| Outcome::Failed(format!("{error:#}")))
        };
        Self { build, seconds }
    }

    /// Runs those whose name contains `filter`, all at the same time: more of them than cores share these, and take no longer.
    pub fn stage(self, report: &mut Report, filter: Option<&str>) {
        report.stage("fuzz targets", || {
            let build = match self.build {
                Ok(build) => build,
                Err(outcome) => return Ok(outcome),
            };
            let mut programs = build.finish()?;
            programs.retain(|program| filter.is_none_or(|filter| name(program).contains(filter)));
            run(&programs, self.seconds)
        });
    }
}

/// A target's name: its program's.
fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs targets, each for so many seconds.
fn run(programs: &[PathBuf], seconds: u32) -> Result<Outcome> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut failed = Vec::new();
    let runs = programs.iter().map(|program| Run::start(program, scratch.path(), seconds));
    for mut run in runs.collect::<Result<Vec<_>>>()? {
        if !run.finish()? {
            failed.push(run.name.clone());
        }
    }
    if !failed.is_empty() {
        return Ok(Outcome::Failed(format!("{}; inputs are in {FOLDER}/artifacts", failed.join(", "))));
    }
    Ok(Outcome::Passed)
}

/// One running target; killed if it is dropped while it runs.
struct Run {
    name: String,
    process: Child,
    log: PathBuf,
}

impl Run {
    /// Starts a target. What it finds worth keeping goes into `scratch`, not into the committed corpus.
    fn start(program: &Path, scratch: &Path, seconds: u32) -> Result<Self> {
        let name = name(program);
        let found = scratch.join(&name);
        let corpus = root().join(FOLDER).join("corpus").join(&name);
        let artifacts = root().join(FOLDER).join("artifacts").join(&name);
        for folder in [&found, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        if !corpus.is_dir() {
            bail!("{} is missing: every target has a committed corpus", corpus.display());
        }
        let log = scratch.join(format!("{name}.log"));
        let process = Command::new(program)
            .current_dir(root())
            // The panic's message must be among the last lines.
            .env("RUST_BACKTRACE", "0")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args([&found, &corpus])
            .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, process, log })
    }

    /// Waits for the end; whether inputs were run and none failed.
    fn finish(&mut self) -> Result<bool> {
        let status = self.process.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        let log = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        let inputs = executions(&log).unwrap_or(0);
        println!("fuzz {}: {inputs} inputs, {status}", self.name);
        let has_passed = status.success() && inputs > 0;
        if !has_passed {
            eprintln!("{}", last_lines(&log));
        }
        Ok(has_passed)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// How many inputs libFuzzer says that it ran.
fn executions(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

/// The end of what a program has printed.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_inputs_is_read_from_the_final_statistics() {
        let log = "Done 12 runs in 1 second(s)\nstat::number_of_executed_units: 12\nstat::average_exec_per_sec: 12\n";
        assert_eq!(executions(log), Some(12));
        assert_eq!(executions("thread panicked"), None);
    }

    #[test]
    fn a_target_is_named_by_its_program() {
        assert_eq!(name(Path::new("/t/x86_64-unknown-linux-gnu/release/hello")), "hello");
    }
}
