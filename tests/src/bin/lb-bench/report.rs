// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results: medians with ranges as a Markdown table for people, every sample as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

use crate::contestant::Contestant;
use crate::lab::Lab;
use crate::run::{Measured, Sample};
use crate::suite::Column;

/// Above this share of stolen time, times mean nothing.
const STOLEN_MAX: f64 = 0.02;

/// What the numbers depend on.
#[derive(Clone, Debug, Serialize)]
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
    /// What each contestant says about itself.
    pub versions: BTreeMap<String, String>,
    /// Who could not take part, and why.
    pub missing: BTreeMap<String, String>,
    /// Samples of each workload and contestant.
    pub repeats: u32,
}

impl Environment {
    /// As it is.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn new(lab: &Lab, repeats: u32) -> Result<Self> {
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            arguments: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            commit: output("git", &["describe", "--always", "--dirty"]),
            machine: machine()?,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            irq_time: irq_time().to_owned(),
            congestion_control: lab.congestion_control()?,
            versions: BTreeMap::new(),
            missing: BTreeMap::new(),
            repeats,
        })
    }
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

/// Median and range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the values are below.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order; `None` if there is none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: low.midpoint(high), min, max })
    }
}

/// One column of one contestant.
fn spread(measured: &Measured, samples: &[Sample], column: &Column) -> Option<Spread> {
    let direct = measured.rows.iter().find(|(contestant, _)| *contestant == Contestant::Direct);
    let values = samples.iter().enumerate().map(|(repeat, sample)| {
        let value = (column.value)(sample)?;
        if !column.is_less_direct {
            return Some(value);
        }
        Some(value - (column.value)(direct?.1.get(repeat)?)?)
    });
    Spread::of(values.collect::<Option<Vec<_>>>()?)
}

/// The table for people.
///
/// # Errors
/// Never: text takes all that is written into it.
pub fn markdown(environment: &Environment, results: &[Measured]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    writeln!(text, "# lb beside its peers, {}\n", environment.date)?;
    writeln!(
        text,
        "- command: `lb-bench {}`, commit {}",
        environment.arguments,
        or_unknown(&environment.commit)
    )?;
    writeln!(text, "- machine: {}", environment.machine)?;
    writeln!(
        text,
        "- kernel {}; time of interrupts is counted {}",
        environment.kernel, environment.irq_time
    )?;
    writeln!(text, "- congestion control in every namespace: {}", environment.congestion_control)?;
    for (name, version) in &environment.versions {
        writeln!(text, "- {name}: {version}")?;
    }
    for (name, reason) in &environment.missing {
        writeln!(text, "- **missing: {name}** ({reason})")?;
    }
    writeln!(
        text,
        "- {} repeats in turn, each beginning with another contestant; median (least–greatest)\n\
         - all: 2 threads or workers, no log, no health checks, PROXY v2 to the servers (nginx: v1, direct: none), idle \
         timeout 1 h, connect timeout 5 s; their configurations are beside this file",
        environment.repeats
    )?;
    for (index, measured) in results.iter().enumerate() {
        let suite = measured.workload.suite;
        if index == 0 || results[index - 1].workload.suite != suite {
            writeln!(text, "\n## {}\n\n{}", suite_name(measured), suite.method())?;
        }
        table(&mut text, measured)?;
    }
    Ok(text)
}

fn suite_name(measured: &Measured) -> String {
    serde_json::to_value(measured.workload.suite)
        .ok()
        .and_then(|name| Some(name.as_str()?.to_owned()))
        .unwrap_or_default()
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "unknown" } else { text }
}

fn table(text: &mut String, measured: &Measured) -> fmt::Result {
    let columns = measured.workload.columns;
    let titles: Vec<_> = columns.iter().map(|column| column.title).collect();
    writeln!(text, "\n| {} | {} |", measured.workload.title, titles.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(columns.len()))?;
    for (contestant, samples) in &measured.rows {
        let cells = columns.iter().map(|column| cell(spread(measured, samples, column), column.digits));
        writeln!(text, "| {} | {} |", contestant.name(), cells.collect::<Vec<_>>().join(" | "))?;
    }
    let stolen = measured.rows.iter().flat_map(|(_, samples)| samples).map(|sample| sample.stolen_share);
    let stolen = stolen.fold(0.0, f64::max);
    if stolen > STOLEN_MAX {
        writeln!(
            text,
            "\nUp to {:.0} % of the cores' time was stolen: these times mean little.",
            100.0 * stolen
        )?;
    }
    Ok(())
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    let Some(Spread { median, min, max }) = spread else { return "–".to_owned() };
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

/// Everything for programs.
///
/// # Errors
/// A number is not finite.
pub fn json(
    environment: &Environment,
    results: &[Measured],
    configs: &BTreeMap<String, String>,
) -> Result<Value> {
    let workloads = results.iter().map(|measured| {
        let contestants = measured.rows.iter().map(|(contestant, samples)| {
            let columns: BTreeMap<_, _> = measured
                .workload
                .columns
                .iter()
                .map(|column| (column.title, spread(measured, samples, column)))
                .collect();
            json!({ "name": contestant.name(), "columns": columns, "samples": samples })
        });
        json!({
            "suite": measured.workload.suite,
            "title": measured.workload.title,
            "work": measured.workload.work,
            "contestants": contestants.collect::<Vec<_>>(),
        })
    });
    let workloads: Vec<_> = workloads.collect();
    Ok(json!({ "environment": environment, "configs": configs, "workloads": workloads }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn a_cell_shows_median_and_range() {
        assert_eq!(cell(Spread::of(vec![1.26, 2.0, 3.0]), 1), "2.0 (1.3–3.0)");
        assert_eq!(cell(None, 1), "–");
    }
}
