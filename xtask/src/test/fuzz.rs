// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzz targets, on stable Rust: built with the coverage flags that cargo-fuzz would pass, without a sanitizer (the code
//! under test has no unsafe), and run from the committed corpus. The layout is cargo-fuzz's, so that it works there too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::available_parallelism;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::targets;
use crate::report::{Outcome, Report};
use crate::repository::{cargo, executable, has_program, output, root};

/// The manifest of the fuzz targets, a workspace of their own.
pub const FUZZ: &str = "tests/fuzz/Cargo.toml";

/// How long each target runs unless told otherwise, in seconds.
pub const SECONDS: u32 = 60;

/// What makes libFuzzer see which code an input reaches (Clang's documentation, "SanitizerCoverage").
const COVERAGE_FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// How many lines of a failed target's output are shown.
const TAIL_LINES: usize = 40;

/// Adds the fuzz targets to a report: as many at a time as there are cores.
pub fn stages(report: &mut Report, filter: Option<&str>, seconds: u32) {
    report.stage("fuzz targets", || {
        if seconds == 0 {
            return Ok(Outcome::NotRun("--fuzz-seconds 0".to_owned()));
        }
        if !root().join(FUZZ).is_file() {
            return Ok(Outcome::NotRun(format!("there is no {FUZZ}")));
        }
        if !has_program("c++") {
            return Ok(Outcome::NotRun("libFuzzer needs a C++ compiler: `cargo xtask setup`".to_owned()));
        }
        let metadata = output(cargo("metadata").args([
            "--locked",
            "--no-deps",
            "--format-version=1",
            "--manifest-path",
            FUZZ,
        ]))?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
        let wanted = |name: &String| filter.is_none_or(|filter| name.contains(filter));
        let names: Vec<String> = targets(&metadata, "bin").into_iter().filter(wanted).collect();
        fuzz(&names, seconds)
    });
}

/// Builds the targets and runs them.
fn fuzz(names: &[String], seconds: u32) -> Result<Outcome> {
    let programs = names.iter().map(|name| Ok((name.as_str(), build(name)?))).collect::<Result<Vec<_>>>()?;
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut failed = Vec::new();
    for batch in programs.chunks(available_parallelism().map_or(1, usize::from)) {
        let runs = batch.iter().map(|(name, program)| Run::start(name, program, scratch.path(), seconds));
        for run in runs.collect::<Result<Vec<_>>>()? {
            let (name, has_passed) = run.finish()?;
            if !has_passed {
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        return Ok(Outcome::Failed(format!("{}; inputs are in tests/fuzz/artifacts", failed.join(", "))));
    }
    Ok(Outcome::Passed)
}

/// Builds one target. The host is named as the target, so that the flags do not reach build scripts.
fn build(name: &str) -> Result<PathBuf> {
    let version = output(Command::new("rustc").current_dir(root()).arg("-vV"))?;
    let host = host(&version).context("rustc -vV names no host")?;
    let mut command = cargo("build");
    command
        .args(["--locked", "--release", "--manifest-path", FUZZ, "--target", host, "--bin", name])
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE_FLAGS.join("\x1f"));
    executable(&output(&mut command)?).with_context(|| format!("cargo built {name} but did not say where"))
}

/// The line `host:` of `rustc -vV`.
fn host(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

/// One running target; killed if it is dropped while it runs.
struct Run {
    name: String,
    process: Child,
    log: PathBuf,
}

impl Run {
    /// Starts a target. What it finds worth keeping goes into `scratch`, not into the committed corpus.
    fn start(name: &str, program: &Path, scratch: &Path, seconds: u32) -> Result<Self> {
        let found = scratch.join(name);
        let corpus = root().join("tests/fuzz/corpus").join(name);
        let artifacts = root().join("tests/fuzz/artifacts").join(name);
        for folder in [&found, &artifacts] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        if !corpus.is_dir() {
            bail!("{} is missing: every target has a committed corpus", corpus.display());
        }
        let log = scratch.join(format!("{name}.log"));
        let process = Command::new(program)
            .current_dir(root())
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args([&found, &corpus])
            .stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name: name.to_owned(), process, log })
    }

    /// Waits for the end and says how it went.
    fn finish(mut self) -> Result<(String, bool)> {
        let status = self.process.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        let log = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let log = String::from_utf8_lossy(&log);
        let runs = executions(&log);
        println!(
            "fuzz {}: {} inputs, {status}",
            self.name,
            runs.map_or_else(|| "?".to_owned(), |runs| runs.to_string())
        );
        if !status.success() {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"));
        }
        Ok((std::mem::take(&mut self.name), status.success() && runs.is_some_and(|runs| runs > 0)))
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
    fn the_host_is_read_from_the_compiler() {
        assert_eq!(
            host("rustc 1.95.0\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n"),
            Some("x86_64-unknown-linux-gnu")
        );
    }
}
