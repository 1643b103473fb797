// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the tests that could run on a kernel are to run there, and what they need.

use anyhow::{Result, ensure};

use super::groups::{GROUPS, IDLE, LEFT_OUT};
use super::programs::{Programs, tests};
use crate::test::{Size, links};

/// How long one test may take, in seconds. Emulated processors are some twenty times slower.
const PATIENCE_SECONDS: u32 = 400;

/// The same of one that does as much as in a soak.
pub const SOAK_PATIENCE_SECONDS: u32 = 2_400;

/// Memory that a machine needs for the tests, in MiB, and for very many connections.
const MEMORY_MIB: u32 = 2_048;
const IDLE_MEMORY_MIB: u32 = 8_192;

/// For whom the tests are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For the table: everything.
    Whole,
    /// For rare faults: everything, groups that find them at the size of a soak.
    Soak,
    /// For every change: what fits into some minutes.
    Ci,
}

/// A test to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// `unit` or `e2e`.
    pub program: &'static str,
    /// Its whole name.
    pub name: String,
    /// How much it does.
    pub size: Size,
}

impl Test {
    /// What the guest is told.
    pub fn lines(&self) -> [String; 3] {
        let size = format!("set LB_TEST_SIZE {}", self.size.label());
        let alone = "set LB_TEST_ALONE 1".to_owned();
        let patience = match self.size {
            Size::Small => PATIENCE_SECONDS,
            Size::Soak => SOAK_PATIENCE_SECONDS,
        };
        [size, alone, format!("test {} {} {patience}", self.program, self.name)]
    }

    fn is_idle(&self) -> bool {
        self.name.starts_with(IDLE)
    }
}

/// The memory that a machine needs for these tests, in MiB.
pub fn memory_mib(tests: &[Test]) -> u32 {
    if tests.iter().any(Test::is_idle) { IDLE_MEMORY_MIB } else { MEMORY_MIB }
}

/// The tests whose name contains one of `filters`; without any, all.
///
/// # Errors
/// A group has fewer tests than it should, or none is left.
pub fn chosen(programs: &Programs, filters: &[String], scope: Scope) -> Result<Vec<Test>> {
    let (unit, e2e) = (tests(&programs.unit)?, tests(&programs.e2e)?);
    let mut all = Vec::new();
    for group in &GROUPS {
        let names = if group.program == "unit" { &unit } else { &e2e };
        let found = names.iter().filter(|name| name.starts_with(group.prefix));
        let size = if scope == Scope::Soak { group.size } else { Size::Small };
        let found: Vec<_> =
            found.map(|name| Test { program: group.program, name: name.clone(), size }).collect();
        let (count, least, prefix) = (found.len(), group.least, group.prefix);
        ensure!(count >= least, "{count} tests begin with {prefix}, at least {least} should");
        all.extend(found);
    }
    all.retain(|test| scope != Scope::Ci || is_for_ci(test));
    all.retain(|test| LEFT_OUT.iter().all(|(part, _)| !test.name.contains(part)));
    all.retain(|test| filters.is_empty() || filters.iter().any(|filter| test.name.contains(filter)));
    ensure!(!all.is_empty(), "no test of those that run here has such a name");
    Ok(all)
}

/// Whether a test is about what a kernel does and no other test shows, in a short time: links do to packets of both families alike, of interfaces on others it
/// is enough that flows leave and a cable may be pulled, and what programs are taken up by, and which interfaces they are at, depends on a kernel
/// where it has only filters.
fn is_for_ci(test: &Test) -> bool {
    let begins_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| test.name.starts_with(prefix));
    let contains = |parts: &[&str]| parts.iter().any(|part| test.name.contains(part));
    if begins_with(&links::ALL.map(|links| links.prefix)) {
        let is_enough =
            contains(&["::flows_leave_and_end", "::a_cable_"]) || !begins_with(&["packet_stacked::"]);
        return is_enough && !contains(&["::v6::"]);
    }
    let is_elsewhere = contains(&["tests::left::", "tests::interfaces::"]) && !contains(&["::filters_"]);
    begins_with(&["kernel::", "sockmap", "packet::"]) && !is_elsewhere
}
