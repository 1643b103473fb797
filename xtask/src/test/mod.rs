// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: everything that can run on this machine, and at the end what could not and why.

mod fuzz;
pub mod links;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::report::{Outcome, Report};
use crate::repository::{agent, cargo, execute, has_program, is_ci, is_root, output, root};
use crate::setup;

pub use fuzz::FUZZ;
use links::Links;

/// The target with the end-to-end tests, in package lb-tests.
const E2E: &str = "e2e";

/// How much the end-to-end tests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// What fits into a change's test run.
    Small,
    /// What finds rare faults.
    Soak,
}

impl Size {
    /// What the tests read in the environment variable `LB_TEST_SIZE`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Soak => "soak",
        }
    }
}

/// What `test` can be told.
#[derive(clap::Args)]
pub struct Args {
    /// Runs only tests and fuzz targets whose name contains this
    pub filter: Option<String>,
    /// Seconds that each fuzz target runs; 0 leaves them out
    #[arg(long, default_value_t = fuzz::SECONDS)]
    pub fuzz_seconds: u32,
    /// Does not ask before it uses sudo to install packages
    #[arg(long)]
    pub yes: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { filter: None, fuzz_seconds: fuzz::SECONDS, yes: false }
    }
}

/// Runs all tests.
///
/// # Errors
///
/// A stage failed.
pub fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    let needs = stages(&mut report, args);
    special_stages(&mut report, &needs, Size::Small, args.filter.as_deref());
    report.finish(is_ci())
}

/// Adds all tests to a report but those on links that not every kernel can make, which CI runs in a virtual machine.
pub fn stages(report: &mut Report, args: &Args) -> Needs {
    let filter = args.filter.as_deref();
    let needs = Needs::prepare(report, args.yes);
    report.stage("unit and property tests", || unit(filter));
    report.stage("examples in the documentation", || {
        execute(cargo("test").args(["--locked", "--workspace", "--doc"]).args(filter))?;
        Ok(Outcome::Passed)
    });
    let targets = fuzz::Targets::start(args.fuzz_seconds);
    report.stage("end-to-end tests", || e2e(&needs, Size::Small, None, filter));
    targets.stage(report, filter);
    needs
}

/// Adds the end-to-end tests alone, and what they need, to a report.
pub fn e2e_stages(report: &mut Report, size: Size, filter: Option<&str>, is_agreed: bool) {
    let needs = Needs::prepare(report, is_agreed);
    report.stage("end-to-end tests", || e2e(&needs, size, None, filter));
    special_stages(report, &needs, size, filter);
}

/// Adds the end-to-end tests on links that not every kernel can make, kind by kind.
fn special_stages(report: &mut Report, needs: &Needs, size: Size, filter: Option<&str>) {
    for links in &links::ALL {
        let name = format!("end-to-end tests on {}", links.title);
        report.stage(&name, || special(needs, size, links, filter));
    }
}

/// The end-to-end tests on links of a kind, where the kernel can make such.
fn special(needs: &Needs, size: Size, links: &Links, filter: Option<&str>) -> Result<Outcome> {
    if let Err(reason) = links.are_possible() {
        return Ok(Outcome::NotRun(reason));
    }
    // Rust's own harness runs what contains one of its filters, and here it would have to contain two.
    if filter.is_some_and(|filter| !filter.starts_with(links.prefix)) && !has_program("cargo-nextest") {
        return Ok(Outcome::NotRun(format!(
            "without cargo-nextest, a filter must begin with {}",
            links.prefix
        )));
    }
    e2e(needs, size, Some(links), filter)
}

/// What the end-to-end tests need: the path of the agent, or why they cannot run.
pub struct Needs(std::result::Result<std::path::PathBuf, String>);

impl Needs {
    /// Installs packages and builds the agent. Somebody who wants no packages still gets the tests that need none.
    fn prepare(report: &mut Report, is_agreed: bool) -> Self {
        let mut needs = Err("the agent was not built".to_owned());
        report.stage("agent", || {
            needs = Ok(agent()?);
            Ok(Outcome::Passed)
        });
        report.stage("shipped configurations", || match &needs {
            Ok(lb) => configurations(lb),
            Err(reason) => Ok(Outcome::NotRun(reason.clone())),
        });
        report.stage("packages", || {
            let Err(error) = setup::install_packages(is_agreed) else { return Ok(Outcome::Passed) };
            needs = Err("packages are missing".to_owned());
            Ok(Outcome::NotRun(format!("{error:#}")))
        });
        if !is_root() {
            needs = Err("network namespaces need root: run `cargo xtask test` as root".to_owned());
        }
        Self(needs)
    }
}

/// `lb check` on every configuration that the repository ships.
fn configurations(lb: &Path) -> Result<Outcome> {
    let entries = std::fs::read_dir(root().join("config")).context("cannot list config/")?;
    let files = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    for file in files.iter().filter(|file| file.extension() == Some(OsStr::new("toml"))) {
        execute(Command::new(lb).current_dir(root()).arg("check").arg(file))
            .with_context(|| file.display().to_string())?;
    }
    Ok(Outcome::Passed)
}

/// Every test that is not end to end. The workspace is named as a whole and the targets one by one, because another choice
/// of packages would have cargo build their dependencies again with other features.
fn unit(filter: Option<&str>) -> Result<Outcome> {
    let metadata = output(cargo("metadata").args(["--locked", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let targets = test_targets(&metadata).into_iter().filter(|target| target != E2E);
    let mut command = cargo("test");
    command.args(["--locked", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    command.args(targets.map(|target| format!("--test={target}"))).args(filter);
    execute(&mut command)?;
    Ok(Outcome::Passed)
}

/// The names of all integration tests (The Cargo Book, "cargo metadata"), sorted.
fn test_targets(metadata: &Value) -> Vec<String> {
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut names: Vec<String> = list(metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        .filter_map(|target| target.get("name")?.as_str().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The end-to-end tests on links of a kind, or else all that any kernel can run; each in a process of its own where cargo-nextest is installed.
fn e2e(needs: &Needs, size: Size, links: Option<&Links>, filter: Option<&str>) -> Result<Outcome> {
    let lb = match &needs.0 {
        Ok(lb) => lb,
        Err(reason) => return Ok(Outcome::NotRun(reason.clone())),
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut command = e2e_command(has_program("cargo-nextest"), cores * tests_per_core(size), links, filter);
    execute(command.env("LB_AGENT", lb).env("LB_TEST_SIZE", size.label()))?;
    Ok(Outcome::Passed)
}

/// Tests that run at a time, for each core: small ones wait for most of their time.
fn tests_per_core(size: Size) -> usize {
    if size == Size::Small { 3 } else { 2 }
}

/// The runner's command line.
fn e2e_command(has_nextest: bool, threads: usize, links: Option<&Links>, filter: Option<&str>) -> Command {
    let mut command = cargo(if has_nextest { "nextest" } else { "test" });
    if has_nextest {
        command.args(["run", "--no-tests=pass", "--test-threads", &threads.to_string()]);
    }
    command.args(["--locked", "--no-fail-fast", "--workspace", "--test", E2E]).args(filter);
    let all = links::ALL.map(|links| links.prefix);
    match (has_nextest, links) {
        (true, None) => command.args(["-E", &format!("not test(/^({})/)", all.join("|"))]),
        (true, Some(links)) => command.args(["-E", &format!("test(/^{}/)", links.prefix)]),
        (false, None) => command.arg("--").args(all.iter().flat_map(|prefix| ["--skip", *prefix])),
        (false, Some(links)) if filter.is_none() => command.arg(links.prefix),
        (false, Some(_)) => &mut command,
    };
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_tests_are_found_in_all_packages() {
        let metadata = serde_json::json!({"packages": [
            {"targets": [{"name": "lb", "kind": ["lib"]}, {"name": "hello", "kind": ["test"]}]},
            {"targets": [{"name": "e2e", "kind": ["test"]}, {"name": "hello", "kind": ["test"]}]},
            {"targets": [{"name": "xtask", "kind": ["bin"]}]},
        ]});
        assert_eq!(test_targets(&metadata), ["e2e", "hello"]);
    }

    #[track_caller]
    fn check(has_nextest: bool, links: Option<&Links>, filter: Option<&str>, expected: &str) {
        let command = e2e_command(has_nextest, 3, links, filter);
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        assert_eq!(arguments.join(" "), expected);
    }

    #[test]
    fn both_runners_run_only_the_end_to_end_tests() {
        let nextest =
            "nextest run --no-tests=pass --test-threads 3 --locked --no-fail-fast --workspace --test e2e";
        let special =
            ["lossy_links::", "packet_stacked::vlan::", "packet_stacked::ipvlan::", "packet_stacked::bond::"];
        let faulty = Some(&links::FAULTY);
        check(true, None, None, &format!("{nextest} -E not test(/^({})/)", special.join("|")));
        check(true, faulty, Some("copy"), &format!("{nextest} copy -E test(/^lossy_links::/)"));
        let test = "test --locked --no-fail-fast --workspace --test e2e";
        let skipped = special.join(" --skip ");
        check(false, None, Some("half_close"), &format!("{test} half_close -- --skip {skipped}"));
        check(false, faulty, None, &format!("{test} lossy_links::"));
    }
}
