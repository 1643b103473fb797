// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the numbers depend on: machine, kernel, versions, and who could not take part.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::contestant::common_settings;
use crate::lab::{Lab, own_program};

/// What the numbers depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// When it started, UTC.
    pub date: String,
    /// The arguments it was started with.
    pub arguments: String,
    /// The commit of the working directory, with a mark if there are changes; empty outside of a repository.
    pub commit: String,
    /// Processor, cores, memory.
    pub machine: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether the kernel counts interrupts apart from the program that they interrupt (CONFIG_IRQ_TIME_ACCOUNTING).
    pub irq_time: String,
    /// In every namespace.
    pub congestion_control: String,
    /// What all contestants have in common, in words; empty in results of before it was kept.
    #[serde(default)]
    pub settings: String,
    /// What each contestant says about itself.
    pub versions: BTreeMap<String, String>,
    /// SHA-256 of our own programs, the bench and lb.
    pub digests: BTreeMap<String, String>,
    /// Who could not take part.
    pub missing: BTreeMap<String, Missing>,
}

/// Someone who could not take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Why.
    pub reason: String,
    /// What mends it.
    pub install: String,
}

impl Environment {
    /// As it is; versions and missing ones are for the caller to fill in.
    ///
    /// # Errors
    /// There is no /proc, or one of our own programs cannot be read.
    pub fn new(lab: &Lab, agent: Option<&Path>) -> Result<Self> {
        let bench = own_program()?;
        let programs = [("lb-bench", Some(Path::new(&bench))), ("lb", agent)];
        let digests = programs.into_iter().filter_map(|(name, path)| Some((name.to_owned(), path?)));
        Ok(Self {
            date: now(),
            arguments: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            commit: output("git", &["describe", "--always", "--dirty"]),
            machine: machine()?,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            irq_time: irq_time().to_owned(),
            congestion_control: lab.congestion_control()?,
            settings: common_settings(),
            versions: BTreeMap::new(),
            digests: digests.map(|(name, path)| Ok((name, digest(path)?))).collect::<Result<_>>()?,
            missing: BTreeMap::new(),
        })
    }

    /// The facts above every report, each with its name.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let commit = if self.commit.is_empty() { "unknown" } else { &self.commit };
        vec![
            ("date", self.date.clone()),
            ("command", format!("cargo xtask bench {}", self.arguments).trim_end().to_owned()),
            ("commit", commit.to_owned()),
            ("machine", self.machine.clone()),
            ("kernel", format!("{}; time of interrupts is counted {}", self.kernel, self.irq_time)),
            ("congestion control", format!("{} in every namespace", self.congestion_control)),
        ]
    }

    /// Each version with the names of those that have it.
    pub fn versions(&self) -> Vec<(String, &str)> {
        let mut versions: Vec<(String, &str)> = Vec::new();
        for (name, version) in &self.versions {
            match versions.iter_mut().find(|(_, known)| known == version) {
                Some((names, _)) => *names = format!("{names}, {name}"),
                None => versions.push((name.clone(), version)),
            }
        }
        versions
    }

    /// What of this differs in `other` and would make samples of both incomparable, in words.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, one: &str, two: &str| {
            if one != two {
                differences.push(format!("{what}: {one:?} became {two:?}"));
            }
        };
        compare("machine", &self.machine, &other.machine);
        compare("kernel", &self.kernel, &other.kernel);
        compare("time of interrupts", &self.irq_time, &other.irq_time);
        compare("settings", &self.settings, &other.settings);
        compare("congestion control", &self.congestion_control, &other.congestion_control);
        let none = String::new();
        let maps = [("version", &self.versions, &other.versions), ("digest", &self.digests, &other.digests)];
        for (what, ones, others) in maps {
            let names: std::collections::BTreeSet<_> = ones.keys().chain(others.keys()).collect();
            for name in names {
                let values = [ones, others].map(|map| map.get(name).unwrap_or(&none));
                compare(&format!("{what} of {name}"), values[0], values[1]);
            }
        }
        differences
    }
}

/// What installs the peers that Debian does not have.
const SETUP_BENCH: &str = "cargo xtask setup --bench";

/// What installs a contestant, by the beginning of its name.
pub fn how_to_install(name: &str) -> &'static str {
    let ways = [
        ("lb-", "cargo build --release --bin lb, and LB_AGENT=target/release/lb"),
        ("haproxy-new", SETUP_BENCH),
        ("haproxy", "apt-get install haproxy"),
        ("nginx", "apt-get install nginx-light libnginx-mod-stream"),
        ("envoy", SETUP_BENCH),
        ("sozu", SETUP_BENCH),
    ];
    ways.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("see its manual", |(_, way)| way)
}

/// The time, to the minute, for people.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn machine() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes =
        memory.split_whitespace().nth(1).and_then(|size| size.parse::<f64>().ok()).unwrap_or_default();
    let model = model.map_or("processor unknown", |(_, model)| model.trim());
    Ok(format!("{model}, {cores} cores, {:.1} GiB", kilobytes / (1 << 20) as f64))
}

fn irq_time() -> &'static str {
    let config = output("zcat", &["/proc/config.gz"]);
    if config.is_empty() {
        "unknown"
    } else if config.lines().any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y") {
        "apart"
    } else {
        "in the program that they interrupt"
    }
}

/// The standard output of a program; empty if it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Of a machine that does not exist.
    pub fn environment() -> Environment {
        let map = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Environment {
            date: "2030-01-02 03:04 UTC".to_owned(),
            arguments: "--quick <all>".to_owned(),
            commit: "abc123".to_owned(),
            machine: "abacus, 2 cores".to_owned(),
            kernel: "7.0".to_owned(),
            irq_time: "apart".to_owned(),
            congestion_control: "cubic".to_owned(),
            settings: "All: 2 abaci.".to_owned(),
            versions: map("haproxy", "HAProxy 1 & 2 | 3"),
            digests: map("lb", "00ff"),
            missing: BTreeMap::new(),
        }
    }

    #[test]
    fn only_what_makes_samples_incomparable_differs() {
        let (one, mut other) = (environment(), environment());
        other.date = "later".to_owned();
        other.arguments = "--resume".to_owned();
        assert_eq!(one.differences(&other), Vec::<String>::new());
        other.kernel = "7.1".to_owned();
        other.digests.insert("lb".to_owned(), "11".to_owned());
        other.versions.insert("nginx".to_owned(), "2".to_owned());
        let expected = [
            r#"kernel: "7.0" became "7.1""#,
            r#"version of nginx: "" became "2""#,
            r#"digest of lb: "00ff" became "11""#,
        ];
        assert_eq!(one.differences(&other), expected);
    }

    #[test]
    fn who_has_the_same_version_is_named_with_it() {
        let mut environment = environment();
        environment.versions.insert("haproxy-splice".to_owned(), "HAProxy 1 & 2 | 3".to_owned());
        environment.versions.insert("nginx".to_owned(), "4".to_owned());
        let expected =
            [("haproxy, haproxy-splice".to_owned(), "HAProxy 1 & 2 | 3"), ("nginx".to_owned(), "4")];
        assert_eq!(environment.versions(), expected);
    }

    #[test]
    fn every_contestant_can_be_installed() {
        for contestant in crate::contestant::Contestant::all() {
            let name = contestant.name();
            assert!(name == "direct" || how_to_install(&name) != "see its manual", "{name}");
        }
    }
}
