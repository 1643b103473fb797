// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask soak`: the end-to-end tests with sizes and durations that find rare faults.

use anyhow::Result;

use crate::report::Report;
use crate::repository::is_ci;
use crate::test::{Size, e2e_stages};

/// What `soak` can be told.
#[derive(clap::Args)]
pub struct Args {
    /// Runs only tests whose name contains this
    filter: Option<String>,
    /// Does not ask before it uses sudo to install packages
    #[arg(long)]
    yes: bool,
}

/// Runs the end-to-end tests at size `soak`.
///
/// # Errors
///
/// A stage failed.
pub fn run(args: &Args) -> Result<()> {
    let mut report = Report::default();
    e2e_stages(&mut report, Size::Soak, args.filter.as_deref(), args.yes);
    report.finish(is_ci())
}
