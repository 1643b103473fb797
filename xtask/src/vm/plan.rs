// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which tests run on each kernel: the one list of them.

use anyhow::{Result, ensure};

use super::programs::{Programs, tests};

/// A group of tests, all whose name begins so.
struct Group {
    program: &'static str,
    prefix: &'static str,
    /// How many there are at least, so that none gets lost unseen.
    least: usize,
}

/// What runs on every kernel.
const GROUPS: [Group; 6] = [
    // Loading, the self-test, and what comes without privileges.
    Group { program: "unit", prefix: "kernel::", least: 5 },
    Group { program: "e2e", prefix: "sockmap", least: 12 },
    Group { program: "e2e", prefix: "transfer::", least: 8 },
    Group { program: "e2e", prefix: "ends::", least: 20 },
    Group { program: "e2e", prefix: "backpressure::", least: 8 },
    Group { program: "e2e", prefix: "early_data::", least: 4 },
];

/// Tests of these groups that do not run there, each with the reason.
const LEFT_OUT: [(&str, &str); 0] = [];

/// How long one test may take, in seconds. Emulated processors are some twenty times slower.
const PATIENCE_SECONDS: u32 = 200;

/// A test to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// `unit` or `e2e`.
    pub program: &'static str,
    /// Its whole name.
    pub name: String,
}

impl Test {
    /// What the guest is told.
    pub fn line(&self) -> String {
        format!("test {} {} {PATIENCE_SECONDS}", self.program, self.name)
    }
}

/// The tests whose name contains `filter`.
///
/// # Errors
/// A group has fewer tests than it should, or none is left.
pub fn chosen(programs: &Programs, filter: Option<&str>) -> Result<Vec<Test>> {
    let (unit, e2e) = (tests(&programs.unit)?, tests(&programs.e2e)?);
    let mut all = Vec::new();
    for group in &GROUPS {
        let names = if group.program == "unit" { &unit } else { &e2e };
        let found = names.iter().filter(|name| name.starts_with(group.prefix));
        let found: Vec<_> = found.map(|name| Test { program: group.program, name: name.clone() }).collect();
        let (count, least, prefix) = (found.len(), group.least, group.prefix);
        ensure!(count >= least, "{count} tests begin with {prefix}, at least {least} should");
        all.extend(found);
    }
    all.retain(|test| LEFT_OUT.iter().all(|(name, _)| test.name != *name));
    all.retain(|test| filter.is_none_or(|filter| test.name.contains(filter)));
    ensure!(!all.is_empty(), "no test of those that run here has such a name");
    Ok(all)
}
