// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: lb beside its peers, measured in one run. Needs root, for network namespaces.

use std::ffi::OsString;

use anyhow::{Context as _, Result};

use crate::repository::{agent, cargo, executable, execute, output, root};

/// What `bench` can be told. Names of suites and peers are checked by lb-bench itself, which lists them.
#[derive(clap::Args)]
pub struct Args {
    /// What to measure: connections, bulk, pingpong, idle; everything if none is named
    #[arg(value_name = "SUITE")]
    suites: Vec<OsString>,
    /// Whom to compare, with commas between: direct, lb-auto, lb-splice, lb-copy, haproxy, haproxy-splice, nginx; all that are
    /// installed if none is named
    #[arg(long)]
    peers: Option<OsString>,
    /// Samples of each; 10, or 2 if quick
    #[arg(long)]
    repeats: Option<u32>,
    /// Little work: shows that everything works, the numbers mean nothing
    #[arg(long)]
    quick: bool,
}

/// Builds lb and the bench in release mode and runs it. Results come to target/bench and, as a table, to standard output.
///
/// # Errors
///
/// A build fails, or the bench does: cargo or it have said why.
pub fn run(args: Args) -> Result<()> {
    let lb = agent()?;
    let messages = output(cargo("build").args([
        "--locked",
        "--release",
        "--package=lb-tests",
        "--bin=lb-bench",
        "--message-format=json-render-diagnostics",
    ]))?;
    let bench = executable(&messages).context("cargo built lb-bench but did not say where")?;
    let mut command = std::process::Command::new(bench);
    command.current_dir(root()).env("LB_AGENT", lb).args(args.suites);
    if let Some(peers) = args.peers {
        command.arg("--peers").arg(peers);
    }
    if let Some(repeats) = args.repeats {
        command.arg("--repeats").arg(repeats.to_string());
    }
    if args.quick {
        command.arg("--quick");
    }
    execute(&mut command)
}
