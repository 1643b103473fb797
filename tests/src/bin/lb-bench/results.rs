// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one source of every report: what ran, where, and each sample. It is what results.json holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contestant::{AskedFor, Contestant};
use crate::environment::Environment;
use crate::statistics::{Better, NoRatio, Ratio, Spread};
use crate::suite::Workload;

/// The layout of results.json and of the journal; another one cannot be read.
pub const FORMAT: u32 = 1;

/// Routed without a balancer: what columns that are less direct take off.
pub const DIRECT: &str = "direct";

/// Whom lb is measured by.
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
    /// What is read off; the first two are those that README shows.
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
    /// All that was measured.
    pub sample: Value,
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
}

impl Planned {
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
        let mut series = self.raw_series(planned, contestant, column);
        if planned.columns.get(column).is_some_and(|metric| metric.is_less_direct) {
            if contestant == DIRECT {
                return BTreeMap::new();
            }
            let direct = self.raw_series(planned, DIRECT, column);
            series.retain(|repeat, _| direct.contains_key(repeat));
            for (repeat, value) in &mut series {
                *value -= direct[repeat];
            }
        }
        series
    }

    fn raw_series(&self, planned: &Planned, contestant: &str, column: usize) -> BTreeMap<u32, f64> {
        let own = self
            .samples
            .iter()
            .filter(|record| record.workload == planned.title && record.contestant == contestant);
        own.filter_map(|record| Some((record.repeat, *record.values.get(column)?.as_ref()?))).collect()
    }

    /// Median and range of a contestant in a column; `None` if nothing was measured.
    pub fn spread(&self, planned: &Planned, contestant: &str, column: usize) -> Option<Spread> {
        Spread::of(self.series(planned, contestant, column).into_values().collect())
    }

    /// One contestant by another in a column; `None` if one of them has no values there.
    pub fn ratio(
        &self,
        planned: &Planned,
        [one, other]: [&str; 2],
        column: usize,
    ) -> Option<Result<Ratio, NoRatio>> {
        let (ones, others) = (self.series(planned, one, column), self.series(planned, other, column));
        if ones.is_empty() || others.is_empty() {
            return None;
        }
        let pairs: Vec<_> =
            ones.iter().filter_map(|(repeat, value)| Some((*value, *others.get(repeat)?))).collect();
        Some(Ratio::of(&pairs, planned.columns.get(column)?.better()))
    }

    /// The lb that is compared at a glance: with the path that it chooses itself, if it took part.
    pub fn subject(&self) -> Option<&str> {
        self.first(|name| name == "lb-auto").or_else(|| self.first(is_lb))
    }

    /// The HAProxy that it is measured by.
    pub fn reference(&self) -> Option<&str> {
        self.first(|name| name == HAPROXY).or_else(|| self.first(|name| name.starts_with(HAPROXY)))
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

    /// The greatest share of stolen time while a workload ran.
    pub fn stolen_share(&self, planned: &Planned) -> f64 {
        let own = self.samples.iter().filter(|record| record.workload == planned.title);
        own.map(|record| record.stolen_share).fold(0.0, f64::max)
    }
}

/// Whether this is lb, by whatever path.
pub fn is_lb(name: &str) -> bool {
    name.starts_with("lb-")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Results of one workload with a rate, a cost and a cost less direct: values by contestant and repeat.
    pub fn results(rows: &[(&str, &[f64])]) -> Results {
        let metric =
            |title: &str, is_less_direct| Metric { title: title.to_owned(), digits: 1, is_less_direct };
        let planned = Planned {
            suite: "bulk".to_owned(),
            method: "Bytes & more.".to_owned(),
            title: "download <1>".to_owned(),
            work: Value::Null,
            absent: BTreeMap::new(),
            columns: vec![
                metric("Gb/s", false),
                metric("CPU, s/GB", false),
                metric("less direct, s/GB", true),
            ],
        };
        let records = rows.iter().flat_map(|(contestant, values)| {
            values.iter().enumerate().map(|(repeat, value)| Record {
                workload: "download <1>".to_owned(),
                contestant: (*contestant).to_owned(),
                repeat: repeat as u32,
                values: vec![Some(*value), (*contestant != DIRECT).then_some(1.0 / value), Some(*value)],
                stolen_share: 0.0,
                sample: Value::Null,
            })
        });
        let plan = Plan {
            format: FORMAT,
            environment: crate::environment::tests::environment(),
            contestants: rows.iter().map(|(name, _)| (*name).to_owned()).collect(),
            repeats: rows.first().map_or(0, |(_, values)| values.len() as u32),
            workloads: vec![planned],
        };
        Results { plan, resumed: Vec::new(), configs: BTreeMap::new(), samples: records.collect() }
    }

    #[test]
    fn direct_is_taken_off_within_the_same_repeat() {
        let results = results(&[(DIRECT, &[1.0, 2.0]), ("lb-auto", &[4.0, 4.0, 9.0])]);
        let planned = &results.plan.workloads[0];
        assert_eq!(results.series(planned, "lb-auto", 0), BTreeMap::from([(0, 4.0), (1, 4.0), (2, 9.0)]));
        assert_eq!(results.series(planned, "lb-auto", 2), BTreeMap::from([(0, 3.0), (1, 2.0)]));
        assert_eq!(results.spread(planned, DIRECT, 1), None);
        assert_eq!(results.spread(planned, DIRECT, 2), None);
        assert_eq!(results.spread(planned, "lb-auto", 3), None);
    }

    #[test]
    fn ratios_are_of_the_same_repeat() {
        // The medians are 4 and 4, but lb was faster each time.
        let results = results(&[
            ("lb-auto", &[2.2, 4.4, 8.8, 2.2, 4.4, 8.8]),
            (HAPROXY, &[2.0, 4.0, 8.0, 2.0, 4.0, 8.0]),
        ]);
        let planned = &results.plan.workloads[0];
        let ratio = results.ratio(planned, ["lb-auto", HAPROXY], 0).unwrap().unwrap();
        assert!((ratio.spread.median - 1.1).abs() < 1e-9);
        assert_eq!(ratio.verdict, crate::statistics::Verdict::Better);
        assert_eq!(results.ratio(planned, ["lb-auto", DIRECT], 0), None);
    }

    #[test]
    fn nobody_is_missed_who_does_not_take_part() {
        let mut results = results(&[("lb-auto", &[1.0, 2.0]), ("sozu", &[])]);
        assert_eq!(results.missing(), 2);
        results.plan.workloads[0].absent.insert("sozu".to_owned(), "too small".to_owned());
        assert_eq!(results.missing(), 0);
        let absences = results.plan.workloads[0].absences(&results.plan.contestants);
        assert_eq!(absences, BTreeMap::from([("too small", vec!["sozu"])]));
    }

    #[test]
    fn the_subject_is_lb_and_the_reference_is_haproxy() {
        let results = results(&[(DIRECT, &[]), ("lb-copy", &[]), ("lb-auto", &[]), ("haproxy-splice", &[])]);
        assert_eq!((results.subject(), results.reference()), (Some("lb-auto"), Some("haproxy-splice")));
        assert_eq!(results.peers().collect::<Vec<_>>(), ["haproxy-splice"]);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let results = results(&[("lb-auto", &[1.0, 2.0])]);
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, &results).unwrap();
        assert_eq!(Results::load(file.path()).unwrap().samples, results.samples);
        fs::write(file.path(), "{}").unwrap();
        assert!(Results::load(file.path()).is_err());
    }
}
