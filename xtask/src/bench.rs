// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: lb beside its peers, measured in one run. Needs root, for network namespaces.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args as _, FromArgMatches as _};

use crate::micro;
use crate::report::Outcome;
use crate::repository::{agent, cargo, executables, output, root};

/// How long the bench may take in CI: two minutes are meant, and a busy machine takes longer.
const STAGE_MAX: Duration = Duration::from_secs(600);

/// What `bench` can be told: whatever lb-bench can, which also says what that is.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Suites and options; `--help` lists them. Or `micro` alone, with --check, --accept or --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Builds lb and the bench in release mode and becomes the bench, so that signals and the exit code are its own. Results come to
/// target/bench and, as tables, to standard output.
///
/// # Errors
///
/// A build fails: cargo has said why. Or the bench cannot be started, or suite `micro` fails.
pub fn run(args: &Args) -> Result<()> {
    if let Some((suite, rest)) = args.args.split_first()
        && suite == "micro"
    {
        return micro::run(&micro_args(rest)?);
    }
    let mut command = command(&args.args)?;
    Err(command.exec()).with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// A stage of CI: everybody does a little of everything, and every byte is counted.
///
/// # Errors
///
/// A build fails, or the bench: both have said why. Or it takes far longer than it should.
pub fn stage() -> Result<Outcome> {
    if !crate::repository::is_root() {
        return Ok(Outcome::NotRun("network namespaces need root".to_owned()));
    }
    let mut command = command(&["--ci".into()])?;
    let start = Instant::now();
    let status = command.status().context("cannot start the bench")?;
    let seconds = start.elapsed().as_secs();
    println!("the bench took {seconds} s, without its build");
    ensure!(status.success(), "the bench failed ({status})");
    ensure!(seconds <= STAGE_MAX.as_secs(), "it took {seconds} s; {} are the limit", STAGE_MAX.as_secs());
    Ok(Outcome::Passed)
}

/// Builds what the bench needs, and how to start it.
fn command(args: &[OsString]) -> Result<Command> {
    let messages = output(cargo("build").args([
        "--locked",
        "--release",
        "--package=lb-tests",
        "--bin=lb-bench",
        "--bin=lb-peer",
        "--message-format=json-render-diagnostics",
    ]))?;
    let bench = executables(&messages).into_iter().find(|path| path.ends_with("lb-bench"));
    let bench = bench.context("cargo built lb-bench but did not say where")?;
    let mut command = Command::new(&bench);
    command.current_dir(root()).args(args);
    // For suite micro, which is measured here.
    command.env("LB_XTASK", std::env::current_exe().context("the path of this program is unknown")?);
    if measures(args) {
        command.env("LB_AGENT", agent()?);
    }
    Ok(command)
}

/// The arguments of suite `micro`, which needs neither namespaces nor root.
fn micro_args(args: &[OsString]) -> Result<micro::Args> {
    let command = clap::Command::new("cargo xtask bench micro").no_binary_name(true);
    let matches = micro::Args::augment_args(command).get_matches_from(args);
    Ok(micro::Args::from_arg_matches(&matches)?)
}

/// Whether these arguments make the bench measure; help, plans and reports need no lb.
fn measures(args: &[OsString]) -> bool {
    let is_other = |text: &str| {
        ["-h", "--help"].contains(&text) || text == "--plan" || text.starts_with("--report-only")
    };
    !args.iter().filter_map(|argument| argument.to_str()).any(is_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_measuring_needs_lb() {
        let measures = |args: &[&str]| measures(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(measures(&[]) && measures(&["bulk", "--quick"]) && measures(&["--resume", "target/bench/a"]));
        assert!(
            !measures(&["--help"])
                && !measures(&["bulk", "--plan"])
                && !measures(&["--report-only=results.json", "--update-readme"])
        );
    }
}
