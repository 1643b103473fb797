// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line, and what follows from it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum as _};

use crate::contestant::{AskedFor, Contestant, LbPath, PeerParser};
use crate::suite::{Size, Suite, Workload};

/// Measures lb beside its peers.
#[derive(Parser)]
#[command(
    name = "lb-bench",
    after_help = "LB_AGENT names the binary of lb. Needs root, for network namespaces. Ctrl-C ends it in good order and keeps the \
                  samples so far."
)]
pub struct Options {
    /// What to measure; everything but promotion if none is named
    #[arg(value_enum)]
    pub suites: Vec<Suite>,
    /// Whom to compare lb with, commas between, in every suite; if none is named, all that are installed: those that splice where many
    /// bytes flow, newer HAProxies, Envoy and sozu for connections and bulk
    #[arg(long, value_parser = PeerParser, value_delimiter = ',', value_name = "PEERS")]
    pub peers: Vec<Contestant>,
    /// Paths of lb, commas between, in everything; if none is named, auto, and the others in every suite where bytes flow
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PATHS")]
    pub paths: Vec<LbPath>,
    /// Samples of each; 10, or 2 if quick
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: Option<u32>,
    /// What the order of turns is drawn from; a new one each time if none is named
    #[arg(long, value_name = "NUMBER", conflicts_with = "resume")]
    pub seed: Option<u64>,
    /// Little work: shows that everything works, the numbers mean nothing
    #[arg(long)]
    pub quick: bool,
    /// More workloads, all peers in more of them, longer samples; takes hours
    #[arg(long, conflicts_with = "quick")]
    pub thorough: bool,
    /// Less still, within two minutes; fails if somebody who could take part is not installed
    #[arg(long, conflicts_with_all = ["quick", "thorough"])]
    pub ci: bool,
    /// What every namespace uses; cubic and bbr are usual
    #[arg(long, default_value = "cubic", value_name = "NAME")]
    pub congestion_control: String,
    /// Where results, configurations and logs go: a directory without a run; target/bench/DATE if none is named
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Goes on with the run in this directory, given the same command, programs and machine
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub resume: Option<PathBuf>,
    /// Measures nothing: says how long each suite will take
    #[arg(long, conflicts_with_all = ["resume", "output"])]
    pub plan: bool,
    /// Measures nothing: makes the reports again from this results.json, beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["suites", "peers", "paths", "repeats", "quick", "output", "resume", "plan"])]
    pub report_only: Option<PathBuf>,
    /// Puts the table between the markers of this file, README.md if none is named
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "README.md")]
    pub update_readme: Option<PathBuf>,
}

impl Options {
    /// How much is done.
    pub fn size(&self) -> Size {
        match () {
            () if self.ci => Size::Ci,
            () if self.quick => Size::Quick,
            () if self.thorough => Size::Thorough,
            () => Size::Full,
        }
    }

    /// In continuous integration everybody has to show that it works in every suite.
    pub fn asked_for(&self) -> AskedFor {
        AskedFor { everybody: self.ci, paths: !self.paths.is_empty(), peers: !self.peers.is_empty() }
    }

    /// What is measured; in continuous integration, instruction counts are a stage of their own.
    pub fn suites(&self) -> Vec<Suite> {
        if !self.suites.is_empty() {
            return self.suites.clone();
        }
        let is_wanted =
            |suite: &&Suite| if self.ci { **suite != Suite::Micro } else { !suite.is_on_request() };
        Suite::value_variants().iter().filter(is_wanted).copied().collect()
    }

    /// Whether the suite micro is among them.
    pub fn has_micro(&self) -> bool {
        self.suites().contains(&Suite::Micro)
    }

    /// What is measured, in order.
    pub fn workloads(&self) -> Vec<Workload> {
        self.suites().iter().flat_map(|suite| suite.workloads(self.size())).collect()
    }

    /// Samples of each.
    pub fn repeats(&self) -> u32 {
        self.repeats.unwrap_or(self.size().repeats())
    }

    /// What the order of turns is drawn from.
    pub fn seed(&self) -> u64 {
        // Whatever does not fit does not matter.
        self.seed.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().cast_unsigned())
    }

    /// Those who are to take part, in the order of reports.
    pub fn candidates(&self) -> Vec<Contestant> {
        let workloads = self.workloads();
        let takes_part = |contestant: &Contestant| {
            workloads.iter().any(|workload| workload.absence(*contestant, self.asked_for()).is_none())
        };
        let is_wanted = |contestant: &Contestant| match contestant {
            Contestant::Lb(path) if !self.paths.is_empty() => self.paths.contains(path),
            peer if !self.peers.is_empty() && !matches!(peer, Contestant::Lb(_)) => self.peers.contains(peer),
            _ => takes_part(contestant),
        };
        Contestant::all().into_iter().filter(is_wanted).collect()
    }

    /// Makes sure that everybody who was named has something to do.
    ///
    /// # Errors
    /// Somebody takes part in none of the workloads; the message says why.
    pub fn ensure_all_take_part(&self) -> Result<()> {
        let workloads = self.workloads();
        for contestant in self.candidates() {
            let absence = |workload: &Workload| workload.absence(contestant, self.asked_for());
            let absences: Option<Vec<_>> = workloads.iter().map(absence).collect();
            let Some(absences) = absences else { continue };
            let reason = absences.first().copied().unwrap_or("micro is of lb alone");
            bail!("{} takes part in none of these suites: {reason}", contestant.name());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &str) -> Vec<String> {
        let words = std::iter::once("lb-bench").chain(arguments.split_whitespace());
        Options::parse_from(words).candidates().into_iter().map(Contestant::name).collect()
    }

    #[test]
    fn everybody_takes_part_where_a_suite_tells_them_apart_or_where_asked_for() {
        let check =
            |arguments: &str, expected: &[&str]| assert_eq!(names(arguments), expected, "{arguments}");
        let ours = ["lb-auto", "lb-splice", "lb-sockmap", "lb-packet", "lb-copy"];
        check(
            "latency --peers haproxy-splice,direct",
            &["direct", ours[0], ours[1], ours[2], ours[3], ours[4], "haproxy-splice"],
        );
        check("scale", &["direct", ours[0], "haproxy"]);
        check("scale --thorough", &["direct", ours[0], "haproxy", "haproxy-new"]);
        check("scale --peers haproxy,direct", &["direct", "lb-auto", "haproxy"]);
        check("bulk --peers direct", &["direct", ours[0], ours[1], ours[2], ours[3], ours[4]]);
        check("bulk --peers direct --paths copy", &["direct", "lb-copy"]);
        check("latency --paths copy,auto --peers nginx", &["lb-auto", "lb-copy", "nginx"]);
        let is_usual = |one: &Contestant| !one.is_on_request() || one.is_about_beginnings();
        let usual = Contestant::all().into_iter().filter(is_usual);
        assert_eq!(names(""), usual.map(Contestant::name).collect::<Vec<_>>());
        let inside = ["sockmap", "sockmap-inside", "sockmap-late", "packet", "packet-late"];
        let ways: Vec<_> = ["auto"].iter().chain(&inside).map(|word| format!("lb-{word}")).collect();
        assert_eq!(names("promotion"), ways);
        check("promotion --paths auto,packet", &["lb-auto", "lb-packet"]);
        check("bulk --peers direct --paths sockmap-inside", &["direct", "lb-sockmap-inside"]);
        check(
            "connections --peers direct",
            &["direct", ours[0], ours[1], ours[2], ours[3], "lb-packet-late", ours[4]],
        );
        check("bulk --peers direct --paths packet-late", &["direct", "lb-packet-late"]);
    }

    #[test]
    fn who_is_named_and_has_nothing_to_do_is_refused() {
        let ensured = |arguments: &str| {
            let words = std::iter::once("lb-bench").chain(arguments.split_whitespace());
            Options::parse_from(words).ensure_all_take_part().map_err(|error| error.to_string())
        };
        for arguments in
            ["", "--ci", "--thorough", "scale --peers haproxy,direct", "scale bulk --peers nginx", "micro"]
        {
            assert_eq!(ensured(arguments), Ok(()), "{arguments}");
        }
        let check = |arguments: &str, expected: &str| {
            assert_eq!(ensured(arguments), Err(expected.to_owned()), "{arguments}");
        };
        check(
            "scale --peers haproxy,nginx",
            "nginx takes part in none of these suites: this suite is for lb and HAProxy",
        );
        check("micro --peers haproxy", "haproxy takes part in none of these suites: micro is of lb alone");
    }

    #[test]
    fn in_continuous_integration_every_path_is_in_every_suite() {
        assert_eq!(names("--ci latency"), names("--ci bulk"));
        let suites = Options::parse_from(["lb-bench", "--ci"]).suites();
        assert!(suites.contains(&Suite::Promotion) && !suites.contains(&Suite::Micro), "{suites:?}");
        assert!(!Options::parse_from(["lb-bench"]).suites().contains(&Suite::Promotion));
        let takes_part = |suite: Suite, name: &str| {
            let contestant = Contestant::all().into_iter().find(|one| one.name() == name).unwrap();
            let asked_for = Options::parse_from(["lb-bench", "--ci"]).asked_for();
            suite.workloads(Size::Ci).iter().all(|one| one.absence(contestant, asked_for).is_none())
        };
        assert!(takes_part(Suite::Latency, "envoy") && !takes_part(Suite::Latency, "lb-packet-late"));
        assert!(takes_part(Suite::Promotion, "lb-packet-late") && !takes_part(Suite::Promotion, "envoy"));
    }
}
