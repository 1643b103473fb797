// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which tests run on each kernel: the one list of them.

use anyhow::{Result, ensure};

use super::programs::{Programs, tests};
use crate::test::{Size, links};

/// A group of tests, all whose name begins so.
struct Group {
    program: &'static str,
    prefix: &'static str,
    /// How many there are at least, so that none gets lost unseen.
    least: usize,
    /// How much they do, outside CI.
    size: Size,
}

/// What runs on every kernel.
const GROUPS: [Group; 30] = [
    // Loading, and the self-test.
    Group { program: "unit", prefix: "kernel::", least: 48, size: Size::Small },
    Group { program: "e2e", prefix: "sockmap", least: 15, size: Size::Small },
    Group { program: "e2e", prefix: "packet::", least: 8, size: Size::Small },
    Group { program: "e2e", prefix: "packet_kill::", least: 6, size: Size::Small },
    Group { program: "e2e", prefix: "packet_interfaces::", least: 18, size: Size::Small },
    Group { program: "e2e", prefix: "packet_addresses::", least: 6, size: Size::Small },
    Group { program: "e2e", prefix: "packet_loopback::", least: 14, size: Size::Small },
    Group { program: "e2e", prefix: "packet_rtt::", least: 4, size: Size::Small },
    // Not `packet_manager::`: bash hands its descriptors over, and is not there.
    Group { program: "e2e", prefix: "packet_restart::", least: 22, size: Size::Small },
    // What comes without privileges.
    Group { program: "e2e", prefix: "privileges::", least: 11, size: Size::Small },
    Group { program: "e2e", prefix: links::PREFIX, least: 34, size: Size::Soak },
    Group { program: "e2e", prefix: "transfer::", least: 16, size: Size::Small },
    Group { program: "e2e", prefix: "ends::", least: 44, size: Size::Small },
    Group { program: "e2e", prefix: "backpressure::", least: 8, size: Size::Small },
    Group { program: "e2e", prefix: "stalls::", least: 5, size: Size::Small },
    Group { program: "e2e", prefix: "early_data::", least: 8, size: Size::Small },
    // What else path sockmap promises.
    Group { program: "e2e", prefix: "hand_over::sockmap", least: 7, size: Size::Small },
    Group { program: "e2e", prefix: "half_close::sockmap", least: 7, size: Size::Small },
    Group { program: "e2e", prefix: "backlog::sockmap", least: 5, size: Size::Small },
    Group { program: "e2e", prefix: "slow_readers::sockmap", least: 3, size: Size::Small },
    Group { program: "e2e", prefix: "accounting::sockmap", least: 6, size: Size::Small },
    Group { program: "e2e", prefix: "timeouts::sockmap", least: 11, size: Size::Small },
    Group { program: "e2e", prefix: "withdrawals::", least: 4, size: Size::Small },
    Group { program: "e2e", prefix: "pauses::", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "promotion::", least: 3, size: Size::Small },
    Group { program: "e2e", prefix: "wakeups::", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "overlaps::sockmap", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "leftovers::sockmap", least: 1, size: Size::Small },
    // Both families and Multipath TCP, on every path.
    Group { program: "e2e", prefix: "socket_kinds::", least: 24, size: Size::Small },
    // 100,000 connections: here a process may have as many descriptors.
    Group { program: "e2e", prefix: IDLE, least: 1, size: Size::Soak },
];

/// Tests of what idle connections cost.
const IDLE: &str = "idle::";

/// What tests of these groups contain that do not run there, each with the reason.
const LEFT_OUT: [(&str, &str); 4] = [
    ("a_gigabyte_each_way", "minutes for each path; the bytes are those of 64 MiB, again and again"),
    (
        "where_bpf_is_forbidden",
        "Python makes the filter, and is not there; systemd's guest has a filter, too",
    ),
    ("what_is_sent_again_with_more", "Python makes the segments, and is not there"),
    ("curl_reports_an_error", "curl, nginx and what makes certificates are not there"),
];

/// How long one test may take, in seconds, and one with very many connections. Emulated processors are some twenty times slower.
const PATIENCE_SECONDS: u32 = 400;
const IDLE_PATIENCE_SECONDS: u32 = 2_400;

/// Memory that a machine needs for the tests, in MiB, and for very many connections.
const MEMORY_MIB: u32 = 2_048;
const IDLE_MEMORY_MIB: u32 = 8_192;

/// For whom the tests are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For the table: everything.
    Whole,
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
        let patience = if self.is_idle() { IDLE_PATIENCE_SECONDS } else { PATIENCE_SECONDS };
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

/// The tests whose name contains `filter`.
///
/// # Errors
/// A group has fewer tests than it should, or none is left.
pub fn chosen(programs: &Programs, filter: Option<&str>, scope: Scope) -> Result<Vec<Test>> {
    let (unit, e2e) = (tests(&programs.unit)?, tests(&programs.e2e)?);
    let mut all = Vec::new();
    for group in &GROUPS {
        let names = if group.program == "unit" { &unit } else { &e2e };
        let found = names.iter().filter(|name| name.starts_with(group.prefix));
        let size = if scope == Scope::Ci { Size::Small } else { group.size };
        let found: Vec<_> =
            found.map(|name| Test { program: group.program, name: name.clone(), size }).collect();
        let (count, least, prefix) = (found.len(), group.least, group.prefix);
        ensure!(count >= least, "{count} tests begin with {prefix}, at least {least} should");
        all.extend(found);
    }
    all.retain(|test| scope == Scope::Whole || is_for_ci(test));
    all.retain(|test| LEFT_OUT.iter().all(|(part, _)| !test.name.contains(part)));
    all.retain(|test| filter.is_none_or(|filter| test.name.contains(filter)));
    ensure!(!all.is_empty(), "no test of those that run here has such a name");
    Ok(all)
}

/// Whether a test is about what a kernel does and no other test shows, in a short time: links lose packets of both families alike.
fn is_for_ci(test: &Test) -> bool {
    let prefixes = ["kernel::", "sockmap", "packet::", links::PREFIX];
    let is_again = test.name.starts_with(links::PREFIX) && test.name.contains("::v6::");
    !is_again && prefixes.iter().any(|prefix| test.name.starts_with(prefix))
}
