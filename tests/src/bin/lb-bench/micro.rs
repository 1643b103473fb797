// SPDX-License-Identifier: MIT OR Apache-2.0
//! The suite `micro`: what the decisions of one connection cost, each alone. `cargo xtask bench micro` measures them, started from
//! here at the end of a run; this reads what it wrote.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::progress::words;
use crate::suite::{Size, Suite};

/// Its name in the output directory.
pub const FILE: &str = "micro.json";

/// The environment variable that names the program of `cargo xtask`, which measures.
pub const XTASK: &str = "LB_XTASK";

/// What parsing a ClientHello and finding its route may take, in nanoseconds.
pub const AIM_NS: f64 = 1000.0;

/// Cases that README shows, and whether [`AIM_NS`] is for them.
const SHOWN: [(&str, bool); 8] = [
    ("hello/1800-bytes-post-quantum", true),
    ("route/exact-among-10", true),
    ("route/exact-among-10000", true),
    ("route/exact-among-1000000", true),
    ("balance/round-robin-10", false),
    ("balance/least-connections-10", false),
    ("balance/maglev-10", false),
    ("proxy/ipv4-authority", false),
];

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Micro {
    /// Compiler, libc and the like.
    pub environment: BTreeMap<String, String>,
    /// In the order of the suite.
    pub cases: Vec<Case>,
}

/// One decision on one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Suite and input, such as `hello/517-bytes`.
    pub name: String,
    /// Instructions of one round.
    pub instructions: Option<f64>,
    /// Nanoseconds of one round.
    pub median_ns: Option<f64>,
    /// Nanoseconds of the fastest round.
    pub fastest_ns: Option<f64>,
}

impl Micro {
    /// From a file; `None` if there is none.
    ///
    /// # Errors
    /// It is not one of ours.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is not one of ours", path.display()))
    }

    /// Those that README shows, and whether [`AIM_NS`] is for them.
    pub fn shown(&self) -> impl Iterator<Item = (&Case, bool)> {
        let own = |name| self.cases.iter().find(move |case| case.name == name);
        SHOWN.iter().filter_map(move |(name, has_aim)| Some((own(*name)?, *has_aim)))
    }
}

impl Case {
    /// Time and instructions, in words.
    pub fn show(&self) -> [String; 2] {
        let time = |nanoseconds: f64| match nanoseconds {
            ..1000.0 => format!("{nanoseconds:.0} ns"),
            ..1_000_000.0 => format!("{:.2} µs", nanoseconds / 1e3),
            _ => format!("{:.2} ms", nanoseconds / 1e6),
        };
        let none = || "–".to_owned();
        [
            self.median_ns.map_or_else(none, time),
            self.instructions.map_or_else(none, |count| format!("{count:.0}")),
        ]
    }

    /// Whether [`AIM_NS`] is for it.
    pub fn has_aim(&self) -> bool {
        SHOWN.contains(&(self.name.as_str(), true))
    }

    /// Whether it takes less than [`AIM_NS`].
    pub fn is_below_aim(&self) -> bool {
        self.median_ns.is_some_and(|time| time < AIM_NS)
    }
}

/// About how long it takes, by its name.
pub fn estimate(size: Size) -> (String, Duration) {
    (
        Suite::Micro.name(),
        Duration::from_secs(if matches!(size, Size::Thorough | Size::Full) { 240 } else { 120 }),
    )
}

/// Has `cargo xtask bench micro` measure into a directory, unless it has done so already.
///
/// # Errors
/// It fails, and has said why.
pub fn run(directory: &Path, size: Size) -> Result<()> {
    let file = directory.join(FILE);
    if file.exists() {
        return Ok(());
    }
    let xtask = std::env::var_os(XTASK);
    let xtask =
        xtask.with_context(|| format!("{XTASK} does not name the program: use `cargo xtask bench`"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(xtask).args(["bench", "micro", "--json"]).arg(&file);
    if !matches!(size, Size::Thorough | Size::Full) {
        command.arg("--brief");
    }
    let left = words(estimate(size).1);
    eprintln!("[{left} to go] micro: times and instruction counts");
    // Standard output is for the results. A group of its own: Ctrl-C is for this process alone, which ends the others in order.
    command.stdout(std::io::stderr()).process_group(0);
    let status = command.status().context("cannot start setpriv (package util-linux)")?;
    ensure!(status.success(), "the suite micro failed ({status})");
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two cases, one of which README shows.
    pub fn micro() -> Micro {
        let case = |name: &str, median_ns| Case {
            name: name.to_owned(),
            instructions: Some(512.4),
            median_ns,
            fastest_ns: None,
        };
        Micro {
            environment: BTreeMap::new(),
            cases: vec![case("log/<json>", Some(1500.0)), case("route/exact-among-10", Some(99.6))],
        }
    }

    #[test]
    fn only_some_are_shown_and_the_aim_is_for_some_of_those() {
        let micro = micro();
        let shown: Vec<_> = micro.shown().map(|(case, has_aim)| (case.name.as_str(), has_aim)).collect();
        assert_eq!(shown, [("route/exact-among-10", true)]);
        assert_eq!(micro.cases[0].show(), ["1.50 µs", "512"]);
        assert_eq!(micro.cases[1].show(), ["100 ns", "512"]);
        assert!(micro.cases[1].is_below_aim() && !micro.cases[0].is_below_aim());
    }

    #[test]
    fn what_is_not_there_is_none_and_what_is_foreign_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        assert_eq!(Micro::load(&file).unwrap(), None);
        fs::write(&file, "{}").unwrap();
        assert!(Micro::load(&file).is_err());
        fs::write(&file, serde_json::to_string(&micro()).unwrap()).unwrap();
        assert_eq!(Micro::load(&file).unwrap(), Some(micro()));
    }
}
