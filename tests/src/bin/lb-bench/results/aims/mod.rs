// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lb aims at beside others, and whether a run shows that it is held.

use list::AIMS;

use super::{DIRECT, Metric, Planned, Results};
use crate::statistics::{Better, Estimate, NoRatio, Verdict};
use crate::suite::Role;

mod list;

/// Something that lb aims at, as a ratio within one run.
#[derive(Debug)]
pub struct Aim {
    /// What, for people.
    pub text: &'static str,
    who: Who,
    against: Against,
    suites: &'static [&'static str],
    /// Title of the only column that it is about; otherwise it is about all that count.
    metric: Option<&'static str>,
    /// Size of the only messages that it is about, in bytes.
    message_bytes: Option<u64>,
    demand: Demand,
}

/// Whose aim it is.
#[derive(Debug)]
enum Who {
    /// lb as it is compared at a glance ([`Results::subject`]).
    Subject,
    /// lb on every path that took part.
    Everybody,
    Only(&'static str),
}

/// Whom it is held against.
#[derive(Debug)]
enum Against {
    /// In each number the best one of those that took part.
    Haproxy,
    Direct,
    /// The best of these in each number.
    BestOf(&'static [&'static str]),
}

/// What the ratio has to be.
#[derive(Clone, Copy, Debug)]
enum Demand {
    /// Not worse, as [`Verdict`] has it.
    Level,
    /// On the better side of `aim`, or at least of `least`.
    Beyond { aim: f64, least: Option<f64> },
    /// More, and this many times as much where the ends of the load are not the limit. They are where they do not reach it without
    /// any balancer.
    MoreUnlessEndsLimit(f64),
}

/// What a run says about an aim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It is held.
    Held,
    /// The least is held, and the aim is not for certain.
    LeastHeld {
        /// What is held.
        least: f64,
        /// What is not.
        aim: f64,
    },
    /// It is missed.
    Missed,
    /// Neither is certain: there is no ratio, or, where no reason is given, its interval holds the bound.
    Unknown(Option<NoRatio>),
}

/// An aim in one number of one contestant.
#[derive(Clone, Debug)]
pub struct Finding<'results> {
    /// Whose number it is.
    pub who: &'results str,
    /// Whom it is held against.
    pub reference: &'results str,
    /// What was done.
    pub planned: &'results Planned,
    /// What was read off.
    pub metric: &'results Metric,
    /// Where the workload is in the plan, and the column in the workload.
    pub place: (usize, usize),
    /// The one's values by the other's.
    pub ratio: Result<Estimate, NoRatio>,
    /// What follows.
    pub outcome: Outcome,
}

/// An aim, and all that a run says about it.
#[derive(Debug)]
pub struct Judgement<'results> {
    /// The aim.
    pub aim: &'static Aim,
    /// In the order of the plan; at least one.
    pub findings: Vec<Finding<'results>>,
}

/// What a run says about each aim; aims about which it says nothing are left out.
pub fn judge(results: &Results) -> Vec<Judgement<'_>> {
    let all = AIMS.iter().map(|aim| Judgement { aim, findings: aim.findings(results) });
    all.filter(|judgement| !judgement.findings.is_empty()).collect()
}

impl Aim {
    /// Whether it is about so many numbers that those who hold it are only counted.
    pub fn is_broad(&self) -> bool {
        self.metric.is_none()
    }

    fn findings<'results>(&self, results: &'results Results) -> Vec<Finding<'results>> {
        let mut findings = Vec::new();
        for (workload, planned) in results.plan.workloads.iter().enumerate() {
            let columns = planned.columns.iter().enumerate();
            for (column, metric) in columns.filter(|(_, metric)| self.is_about(planned, metric)) {
                let all = self.who(results);
                let own = all.into_iter().filter_map(|who| self.finding(results, who, (workload, column)));
                findings.extend(own.map(|(reference, who, ratio)| Finding {
                    who,
                    reference,
                    planned,
                    metric,
                    place: (workload, column),
                    ratio,
                    outcome: self.outcome(results, (planned, column), (reference, ratio)),
                }));
            }
        }
        findings
    }

    fn is_about(&self, planned: &Planned, metric: &Metric) -> bool {
        let has_size = self.message_bytes.is_none_or(|bytes| {
            ["/paced/size", "/ping-pong/size"]
                .iter()
                .any(|place| planned.work.pointer(place).and_then(serde_json::Value::as_u64) == Some(bytes))
        });
        let is_own = self.metric.is_none_or(|title| title == metric.title);
        has_size && is_own && metric.role != Role::Aside && self.suites.contains(&planned.suite.as_str())
    }

    fn who<'results>(&self, results: &'results Results) -> Vec<&'results str> {
        match self.who {
            Who::Subject => results.subject().into_iter().collect(),
            Who::Everybody => results.ours().collect(),
            Who::Only(only) => results.ours().filter(|name| *name == only).collect(),
        }
    }

    /// Who is held against whom, and the ratio. `None` where one of them does not take part or there is nothing to read off; who failed
    /// is not left out.
    fn finding<'results>(
        &self,
        results: &'results Results,
        who: &'results str,
        (workload, column): (usize, usize),
    ) -> Option<(&'results str, &'results str, Result<Estimate, NoRatio>)> {
        let planned = &results.plan.workloads[workload];
        let reference = match self.against {
            Against::Haproxy => results.reference(planned, column)?,
            Against::Direct => results.best(planned, &[DIRECT], column)?,
            Against::BestOf(names) => results.best(planned, names, column)?,
        };
        match results.pairs(planned, [who, reference], column) {
            Some(pairs) => Some((reference, who, Estimate::of(&pairs))),
            None if results.has_failed(planned, who) => Some((reference, who, Err(NoRatio::FewPairs(0)))),
            None => None,
        }
    }

    fn outcome(
        &self,
        results: &Results,
        (planned, column): (&Planned, usize),
        (reference, ratio): (&str, Result<Estimate, NoRatio>),
    ) -> Outcome {
        let better = planned.columns[column].better();
        let estimate = match ratio {
            Ok(estimate) => estimate,
            Err(reason) => return Outcome::Unknown(Some(reason)),
        };
        match self.demand {
            Demand::Level => level(estimate, better),
            Demand::Beyond { aim, least } => beyond(estimate, better, aim, least),
            Demand::MoreUnlessEndsLimit(factor) => {
                let median = |name| results.spread(planned, name, column).map(|spread| spread.median);
                let ends_reach =
                    median(DIRECT).zip(median(reference)).map(|(most, reference)| most / reference);
                if ends_reach.is_some_and(|most| most < factor) {
                    beyond(estimate, better, 1.0, None)
                } else {
                    beyond(estimate, better, factor, Some(1.0))
                }
            }
        }
    }
}

fn level(estimate: Estimate, better: Better) -> Outcome {
    match estimate.verdict(better) {
        Ok(Verdict::Better | Verdict::Level) => Outcome::Held,
        Ok(Verdict::Worse) => Outcome::Missed,
        Err(reason) => Outcome::Unknown(Some(reason)),
    }
}

fn beyond(estimate: Estimate, better: Better, aim: f64, least: Option<f64>) -> Outcome {
    let is_beyond = |bound| estimate.is_beyond(bound, better);
    match (is_beyond(aim), least.map(|least| (least, is_beyond(least)))) {
        (Some(true), _) => Outcome::Held,
        (_, Some((least, Some(true)))) => Outcome::LeastHeld { least, aim },
        (Some(false), _) => Outcome::Missed,
        (None, _) => Outcome::Unknown(None),
    }
}

impl Judgement<'_> {
    /// How many are held, held at least, missed, and neither for certain.
    pub fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for finding in &self.findings {
            counts[finding.outcome.index()] += 1;
        }
        counts
    }

    /// The finding with the ratio that is farthest to the worse side; `None` if there is no ratio.
    pub fn worst(&self) -> Option<&Finding<'_>> {
        let with_ratio = self.findings.iter().filter_map(|finding| {
            let median = finding.ratio.ok()?.spread.median;
            Some((finding, finding.metric.better().advantage(median)))
        });
        with_ratio.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(finding, _)| finding)
    }

    /// Those that a reader has to see one by one: all, or of a broad aim those that are missed.
    pub fn notable(&self) -> impl Iterator<Item = &Finding<'_>> {
        let is_notable = |finding: &&Finding| !self.aim.is_broad() || finding.outcome == Outcome::Missed;
        self.findings.iter().filter(is_notable)
    }
}

impl Outcome {
    /// What a reader sees first: whether it is held, held at least, missed, or neither for certain.
    pub const SIGNS: [&'static str; 4] = ["▲", "=", "▼", "?"];

    /// Its place in [`Self::SIGNS`] and in [`Judgement::counts`].
    pub fn index(self) -> usize {
        match self {
            Self::Held => 0,
            Self::LeastHeld { .. } => 1,
            Self::Missed => 2,
            Self::Unknown(_) => 3,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held => write!(formatter, "held"),
            Self::LeastHeld { least, aim } => write!(formatter, "{least} held, {aim} not"),
            Self::Missed => write!(formatter, "missed"),
            Self::Unknown(Some(reason)) => write!(formatter, "cannot be told ({reason})"),
            Self::Unknown(None) => write!(formatter, "cannot be told"),
        }
    }
}

#[cfg(test)]
mod tests;
