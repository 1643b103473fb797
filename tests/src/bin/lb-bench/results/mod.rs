// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one source of every report: what ran, where, and each sample. It is what results.json holds.

mod pool;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contestant::{AskedFor, Contestant};
use crate::environment::Environment;
use crate::micro::Micro;
use crate::programs::ProgramTimes;
use crate::statistics::{Better, NoRatio, Ratio, STOLEN_MAX, Spread};
use crate::suite::{Role, Workload};

pub mod aims;

/// The layout of results.json and of the journal; another one cannot be read.
pub const FORMAT: u32 = 2;

/// Routed without a balancer: what columns that are less direct take off.
pub const DIRECT: &str = "direct";

/// Whom lb is measured by: all whose names begin so, whatever their version and whether they are told to splice.
pub const HAPROXY: &str = "haproxy";

/// Everything that a report needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// What was to be done.
    pub plan: Plan,
    /// When the run went on after it had been cut short.
    pub resumed: Vec<String>,
    /// Configurations by file name, the end of long ones cut off.
    pub configs: BTreeMap<String, String>,
    /// In the order in which they were taken; of a run that was cut short, those so far.
    pub samples: Vec<Record>,
    /// Samples that could not be taken.
    pub failures: Vec<Failure>,
    /// How long BPF programs ran.
    #[serde(default)]
    pub program_times: Vec<ProgramTimes>,
    /// What the suite micro said, if it was asked for and has run.
    pub micro: Option<Micro>,
}

/// What was to be done, on what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// [`FORMAT`].
    pub format: u32,
    /// Machine, kernel, versions.
    pub environment: Environment,
    /// Names of those who take part.
    pub contestants: Vec<String>,
    /// Samples of each workload and contestant.
    pub repeats: u32,
    /// What the order of turns is drawn from.
    pub seed: u64,
    /// In this order.
    pub workloads: Vec<Planned>,
}

/// A workload as the report sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The suite that it belongs to.
    pub suite: String,
    /// How the suite is measured.
    pub method: String,
    /// What it is; no other workload of the run is called the same.
    pub title: String,
    /// What the client does.
    pub work: Value,
    /// Those who do not take part, and why.
    pub absent: BTreeMap<String, String>,
    /// What is read off.
    pub columns: Vec<Metric>,
}

/// A number that is read off a sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// With its unit, which says whether high or low is better ([`Better::of`]).
    pub title: String,
    /// Digits behind the point.
    pub digits: usize,
    /// Whether the value of [`DIRECT`] in the same repeat is taken off.
    pub is_less_direct: bool,
    /// What reports do with it.
    pub role: Role,
    /// Where it is a percentile in microseconds that all samples together may have although none has it alone: which one, per mille.
    #[serde(default)]
    pub pooled_per_mille: Option<u64>,
}

/// One workload on one contestant, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Title of the workload.
    pub workload: String,
    /// Name of the contestant.
    pub contestant: String,
    /// From 0.
    pub repeat: u32,
    /// By column, nothing taken off; `None` where a column does not apply.
    pub values: Vec<Option<f64>>,
    /// Share of the cores' time that the host of this virtual machine took away.
    pub stolen_share: f64,
    /// Bytes that lb carried by each of its paths, by its own counters; empty for others.
    pub paths: BTreeMap<String, u64>,
    /// All that was measured.
    pub sample: Value,
}

/// A sample that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Title of the workload.
    pub workload: String,
    /// Name of the contestant.
    pub contestant: String,
    /// From 0.
    pub repeat: u32,
    /// Why.
    pub reason: String,
}

impl Planned {
    /// What a report needs to know of a workload.
    ///
    /// # Errors
    /// Never: suites and works are plain data.
    pub fn new(workload: &Workload, asked_for: AskedFor) -> Result<Self> {
        let columns = workload.columns.iter().map(|column| Metric {
            title: column.title.to_owned(),
            digits: column.digits,
            is_less_direct: column.is_less_direct,
            role: column.role,
            pooled_per_mille: column.pooled_per_mille,
        });
        let absent = Contestant::all().into_iter().filter_map(|contestant| {
            Some((contestant.name(), workload.absence(contestant, asked_for)?.to_owned()))
        });
        Ok(Self {
            suite: workload.suite.name(),
            method: workload.suite.method(),
            title: workload.title.clone(),
            work: serde_json::to_value(workload.work)?,
            absent: absent.collect(),
            columns: columns.collect(),
        })
    }

    /// Those of `contestants` who do not take part, by why.
    pub fn absences<'a>(&'a self, contestants: &'a [String]) -> BTreeMap<&'a str, Vec<&'a str>> {
        let mut absences = BTreeMap::<_, Vec<_>>::new();
        for name in contestants {
            if let Some(reason) = self.absent.get(name) {
                absences.entry(reason.as_str()).or_default().push(name.as_str());
            }
        }
        absences
    }
}

impl Metric {
    /// Which of two values is the better one.
    pub fn better(&self) -> Better {
        Better::of(&self.title)
    }

    /// A value with the digits that it has.
    pub fn show(&self, value: f64) -> String {
        let digits = self.digits;
        format!("{value:.digits$}")
    }

    /// Median and range, for people.
    pub fn show_spread(&self, spread: Spread) -> String {
        let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| self.show(value));
        format!("{median} ({min}–{max})")
    }
}

impl Results {
    /// From results.json.
    ///
    /// # Errors
    /// It cannot be read, or it is not of this [`FORMAT`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let results: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what this version of the bench writes", path.display()))?;
        let format = results.plan.format;
        ensure!(format == FORMAT, "{} is of format {format}, this version reads {FORMAT}", path.display());
        Ok(results)
    }

    /// Values of a contestant in a column by repeat, with direct taken off where the column says so; there, direct has none.
    pub fn series(&self, planned: &Planned, contestant: &str, column: usize) -> BTreeMap<u32, f64> {
        self.series_of(planned, contestant, column, |_| true)
    }

    /// The same without what counts for no ratio: samples of which too much time was stolen ([`STOLEN_MAX`]).
    fn undisturbed(&self, planned: &Planned, contestant: &str, column: usize) -> BTreeMap<u32, f64> {
        self.series_of(planned, contestant, column, |record| !record.is_disturbed())
    }

    fn series_of(
        &self,
        planned: &Planned,
        contestant: &str,
        column: usize,
        counts: fn(&Record) -> bool,
    ) -> BTreeMap<u32, f64> {
        let raw = |name: &str| -> BTreeMap<u32, f64> {
            let own = self.samples_of(planned, name).filter(|record| counts(record));
            own.filter_map(|record| Some((record.repeat, *record.values.get(column)?.as_ref()?))).collect()
        };
        let mut series = raw(contestant);
        if planned.columns.get(column).is_some_and(|metric| metric.is_less_direct) {
            if contestant == DIRECT {
                return BTreeMap::new();
            }
            let direct = raw(DIRECT);
            series.retain(|repeat, _| direct.contains_key(repeat));
            for (repeat, value) in &mut series {
                *value -= direct[repeat];
            }
        }
        series
    }

    fn samples_of(&self, planned: &Planned, contestant: &str) -> impl Iterator<Item = &Record> {
        let own = move |record: &&Record| record.workload == planned.title && record.contestant == contestant;
        self.samples.iter().filter(own)
    }

    /// Median and range of a contestant in a column; `None` if nothing was measured. Where no sample has the value alone, that of all
    /// together.
    pub fn spread(&self, planned: &Planned, contestant: &str, column: usize) -> Option<Spread> {
        let values: Vec<_> = self.series(planned, contestant, column).into_values().collect();
        Spread::of(values).or_else(|| Spread::of(vec![self.pooled(planned, contestant, column)?]))
    }

    /// One contestant by another in a column; `None` if one of them has no values there.
    pub fn ratio(
        &self,
        planned: &Planned,
        names: [&str; 2],
        column: usize,
    ) -> Option<Result<Ratio, NoRatio>> {
        let pairs = self.pairs(planned, names, column)?;
        Some(Ratio::of(&pairs, planned.columns.get(column)?.better()))
    }

    /// Values of two contestants in the same repeats, as far as they count for ratios; `None` if one of them has no values there.
    fn pairs(&self, planned: &Planned, [one, other]: [&str; 2], column: usize) -> Option<Vec<(f64, f64)>> {
        if [one, other].iter().any(|name| self.series(planned, name, column).is_empty()) {
            return None;
        }
        let [ones, others] = [one, other].map(|name| self.undisturbed(planned, name, column));
        Some(ones.iter().filter_map(|(repeat, value)| Some((*value, *others.get(repeat)?))).collect())
    }

    /// The lb that is compared at a glance: with the path that it chooses itself, if it took part.
    pub fn subject(&self) -> Option<&str> {
        self.first(|name| name == "lb-auto").or_else(|| self.first(is_lb))
    }

    /// Those that it is measured by: in each number by the best one of them.
    pub fn references(&self) -> Vec<&str> {
        self.peers().filter(|name| name.starts_with(HAPROXY)).collect()
    }

    /// The best one of [`Self::references`] in a column; `None` if none of them has values there.
    pub fn reference(&self, planned: &Planned, column: usize) -> Option<&str> {
        self.best(planned, &self.references(), column)
    }

    /// The best of some contestants in a column, by medians of what counts for ratios; `None` if none of them has values there.
    fn best<'a>(&self, planned: &Planned, names: &[&'a str], column: usize) -> Option<&'a str> {
        let better = planned.columns.get(column)?.better();
        let medians = names.iter().filter_map(|name| {
            let undisturbed = Spread::of(self.undisturbed(planned, name, column).into_values().collect());
            let median = undisturbed.or_else(|| self.spread(planned, name, column))?.median;
            Some((*name, if better == Better::High { -median } else { median }))
        });
        medians.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(name, _)| name)
    }

    /// A contestant by the best HAProxy in a column, and which one that is; `None` if one of them has no values there.
    pub fn ratio_to_reference(
        &self,
        planned: &Planned,
        name: &str,
        column: usize,
    ) -> Option<(&str, Result<Ratio, NoRatio>)> {
        let reference = self.reference(planned, column)?;
        Some((reference, self.ratio(planned, [name, reference], column)?))
    }

    /// The other paths of lb that took part.
    pub fn other_paths(&self) -> impl Iterator<Item = &str> {
        let subject = self.subject();
        self.ours().filter(move |name| Some(*name) != subject)
    }

    /// All paths of lb that took part.
    pub fn ours(&self) -> impl Iterator<Item = &str> {
        self.plan.contestants.iter().map(String::as_str).filter(|name| is_lb(name))
    }

    /// By which of its paths lb carried the bytes of some workloads: shares, the greatest first.
    pub fn paths_taken(&self, workloads: &[Planned], contestant: &str) -> Vec<(&str, f64)> {
        let mut bytes = BTreeMap::<&str, u64>::new();
        let is_own = |record: &&Record| {
            record.contestant == contestant
                && workloads.iter().any(|planned| planned.title == record.workload)
        };
        for (path, count) in self.samples.iter().filter(is_own).flat_map(|record| &record.paths) {
            *bytes.entry(path).or_default() += count;
        }
        let total: u64 = bytes.values().sum();
        let mut shares: Vec<_> = bytes
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(path, count)| (path, count as f64 / total as f64))
            .collect();
        shares.sort_by(|one, other| other.1.total_cmp(&one.1));
        shares
    }

    /// Who failed in what, how often, and why the first time.
    pub fn failed(&self) -> Vec<(&str, &str, usize, &str)> {
        let mut failed = Vec::<(&str, &str, usize, &str)>::new();
        for failure in &self.failures {
            let own = failed.iter_mut().find(|(contestant, workload, ..)| {
                *contestant == failure.contestant && *workload == failure.workload
            });
            match own {
                Some((_, _, count, _)) => *count += 1,
                None => failed.push((&failure.contestant, &failure.workload, 1, &failure.reason)),
            }
        }
        failed
    }

    /// Whether somebody failed in a workload.
    pub fn has_failed(&self, planned: &Planned, contestant: &str) -> bool {
        let is_own =
            |failure: &Failure| failure.contestant == contestant && failure.workload == planned.title;
        self.failures.iter().any(is_own)
    }

    /// Those that are neither lb nor direct.
    pub fn peers(&self) -> impl Iterator<Item = &str> {
        self.plan.contestants.iter().map(String::as_str).filter(|name| !is_lb(name) && *name != DIRECT)
    }

    fn first(&self, is_wanted: impl Fn(&str) -> bool) -> Option<&str> {
        self.plan.contestants.iter().map(String::as_str).find(|name| is_wanted(name))
    }

    /// How many samples are still to be taken.
    pub fn missing(&self) -> usize {
        let takes_part = |planned: &Planned| {
            self.plan.contestants.iter().filter(|name| !planned.absent.contains_key(*name)).count()
        };
        let all = self.plan.workloads.iter().map(takes_part).sum::<usize>() * self.plan.repeats as usize;
        all.saturating_sub(self.samples.len())
    }

    /// How many samples of a workload count for no ratio, because too much time was stolen meanwhile.
    pub fn disturbed(&self, planned: &Planned) -> usize {
        let own = self.samples.iter().filter(|record| record.workload == planned.title);
        own.filter(|record| record.is_disturbed()).count()
    }
}

impl Record {
    /// Whether the host took so much time away that this counts for no ratio.
    fn is_disturbed(&self) -> bool {
        self.stolen_share > STOLEN_MAX
    }
}

/// Whether this is lb, by whatever path.
pub fn is_lb(name: &str) -> bool {
    name.starts_with("lb-")
}

#[cfg(test)]
pub mod tests;
