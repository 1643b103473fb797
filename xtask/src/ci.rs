// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask ci`: what must pass before a change lands, with the time of each stage.

use anyhow::Result;

use crate::report::{Outcome, Report};
use crate::{bench, ebpf, lint, micro, test, vm};

/// Runs all stages; what cannot run here is a failure too.
///
/// # Errors
///
/// A stage did not pass.
pub fn run() -> Result<()> {
    let mut report = Report::default();
    lint::stages(&mut report);
    test::stages(&mut report, &test::Args { yes: true, ..test::Args::default() });
    report.stage("BPF object is what its sources give", || {
        ebpf::run(&ebpf::Args { check: true, log: false })?;
        Ok(Outcome::Passed)
    });
    report.stage("another kernel, in a virtual machine", vm::stage);
    report.stage("the unit, under systemd in a virtual machine", vm::systemd_stage);
    report.stage("instruction counts", micro::stage);
    report.stage("bench, a little of everything", bench::stage);
    report.finish(true)
}
