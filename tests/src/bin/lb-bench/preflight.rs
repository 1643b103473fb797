// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether the programs are there that the load is made with, before anything has run for an hour. Peers are another matter: those that
//! are missing are named in the report.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::load::{Tool, Work};
use crate::micro;
use crate::options::Options;
use crate::suite::Workload;

/// What brings all of them.
const SETUP: &str = "cargo xtask setup --bench";

/// Makes sure that everything is there.
///
/// # Errors
/// Something is missing; all of it is named, with what needs it and what installs it.
pub fn check(options: &Options) -> Result<()> {
    let is_there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder: std::path::PathBuf| is_program(&folder.join(program)))
    };
    let mut needs: Vec<_> = options.workloads().iter().flat_map(needs).collect();
    needs.push(("setpriv", "everything"));
    if options.has_micro() {
        needs.push(("valgrind", "micro"));
        ensure!(
            std::env::var_os(micro::XTASK).is_some(),
            "micro is measured by `cargo xtask bench`: start it like that, or name suites without it"
        );
    }
    let missing = missing(needs, is_there);
    ensure!(missing.is_empty(), "missing: {}; `{SETUP}` installs them", missing.join(", "));
    Ok(())
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// Programs of a workload, with the name of its suite.
fn needs(workload: &Workload) -> Vec<(&'static str, &'static str)> {
    match workload.work {
        Work::Https { tool: Tool::Wrk { .. }, .. } => vec![("wrk", "https"), ("nginx", "https")],
        Work::Https { tool: Tool::H2load { .. }, .. } => vec![("h2load", "https"), ("nginx", "https")],
        _ => vec![("ip", "network namespaces")],
    }
}

fn missing(mut needs: Vec<(&'static str, &'static str)>, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    needs.sort_unstable();
    needs.dedup();
    let missing = needs.into_iter().filter(|(program, _)| !is_there(program));
    missing.map(|(program, needed_by)| format!("{program} (for {needed_by})")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{Size, Suite};

    #[test]
    fn what_is_missing_is_named_once_with_what_needs_it() {
        let needs: Vec<_> = Suite::Https.workloads(Size::Full).iter().flat_map(needs).collect();
        assert_eq!(missing(needs.clone(), |_| true), Vec::<String>::new());
        assert_eq!(missing(needs, |program| program == "nginx"), ["h2load (for https)", "wrk (for https)"]);
    }
}
