// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask lint`: formatting and lints, of the host's crates, of the BPF programs, of the fuzz targets and of the Vagrantfile.

use std::process::Command;

use anyhow::Result;

use crate::ebpf::{bpf_cargo, has_rust_src};
use crate::report::{Outcome, Report};
use crate::repository::{cargo, execute, has_program, is_ci, root};
use crate::test::FUZZ;

/// Runs every check.
///
/// # Errors
///
/// One of them complains.
pub fn run() -> Result<()> {
    let mut report = Report::default();
    stages(&mut report);
    report.finish(is_ci())
}

/// Adds the checks to a report.
pub fn stages(report: &mut Report) {
    report.stage("format", || {
        execute(cargo("fmt").args(["--all", "--check"]))?;
        Ok(Outcome::Passed)
    });
    report.stage("clippy", || {
        let warnings = ["--", "--deny=warnings"];
        execute(cargo("clippy").args(["--workspace", "--all-targets", "--locked"]).args(warnings))?;
        Ok(Outcome::Passed)
    });
    report.stage("clippy for the BPF programs", bpf);
    report.stage("fuzz targets' format", || {
        if !root().join(FUZZ).is_file() {
            return Ok(Outcome::NotRun(format!("there is no {FUZZ}")));
        }
        execute(cargo("fmt").args(["--manifest-path", FUZZ, "--check"]))?;
        Ok(Outcome::Passed)
    });
    report.stage("Vagrantfile", vagrantfile);
}

/// Lints for the BPF target; nothing is linked, so bpf-linker is not needed.
fn bpf() -> Result<Outcome> {
    if !has_rust_src()? {
        return Ok(Outcome::NotRun("rust-src is missing: `cargo xtask setup --ebpf`".to_owned()));
    }
    for features in [&[][..], &["--features=log"]] {
        let mut command = bpf_cargo("clippy", &root().join("target/bpf"));
        execute(command.args(features).args(["--", "--deny=warnings"]))?;
    }
    Ok(Outcome::Passed)
}

/// Has Vagrant read its file, for whatever provider. What it remembers goes where nobody looks for sources.
fn vagrantfile() -> Result<Outcome> {
    if !has_program("vagrant") {
        return Ok(Outcome::NotRun("vagrant is missing: `cargo xtask setup --vm`".to_owned()));
    }
    let mut command = Command::new("vagrant");
    for variable in ["VAGRANT_HOME", "VAGRANT_DOTFILE_PATH"] {
        command.env(variable, root().join("target/vm/vagrant"));
    }
    execute(command.current_dir(root()).args(["validate", "--ignore-provider"]))?;
    Ok(Outcome::Passed)
}
