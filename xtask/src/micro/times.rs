// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long the cases take: criterion measures, and this reads what it wrote.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::repository::{cargo, execute, root};

/// Nanoseconds of one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time {
    /// The one in the middle.
    pub median: f64,
    /// The best sample: what others on the machine disturbed least.
    pub fastest: f64,
}

/// How much time is spent on times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// As the suite itself has it.
    Full,
    /// As little as criterion admits.
    Little,
}

/// Has criterion measure all cases.
///
/// # Errors
///
/// The build or the run fails, or criterion wrote something else than expected.
pub(super) fn measure(effort: Effort) -> Result<BTreeMap<String, Time>> {
    let home = root().join("target/bench/micro");
    if home.exists() {
        std::fs::remove_dir_all(&home)?;
    }
    let mut command = cargo("bench");
    command.args(["--locked", "--package=lb-userspace", "--bench=micro"]);
    if effort == Effort::Little {
        command.args(["--", "--warm-up-time=0.02", "--measurement-time=0.05", "--sample-size=10"]);
    }
    execute(command.env("CRITERION_HOME", &home))?;
    let mut times = BTreeMap::new();
    for entry in std::fs::read_dir(&home)? {
        // Criterion's files of a benchmark's last run; the folder `report` has none.
        let folder = entry?.path().join("new");
        let read = |name: &str| std::fs::read_to_string(folder.join(name));
        let (Ok(benchmark), Ok(sample)) = (read("benchmark.json"), read("sample.json")) else { continue };
        let benchmark: Value = serde_json::from_str(&benchmark)?;
        let name = benchmark["full_id"].as_str().context("a benchmark has an id")?.to_owned();
        times.insert(name, time(&serde_json::from_str(&sample)?).context("a sample has times")?);
    }
    Ok(times)
}

/// The time of a criterion sample: lists of rounds (`iters`) and of nanoseconds for so many (`times`).
fn time(sample: &Value) -> Option<Time> {
    let list = |key: &str| sample[key].as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let mut each: Vec<f64> =
        list("times")?.iter().zip(list("iters")?).map(|(time, rounds)| time / rounds).collect();
    each.sort_by(f64::total_cmp);
    Some(Time { median: *each.get(each.len() / 2)?, fastest: *each.first()? })
}

/// A time for people.
pub(super) fn duration(nanoseconds: f64) -> String {
    if nanoseconds < 1000.0 {
        format!("{nanoseconds:.1} ns")
    } else {
        format!("{:.2} µs", nanoseconds / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_times_of_one_round() {
        let sample = serde_json::json!({"iters": [1.0, 2.0, 4.0], "times": [30.0, 40.0, 100.0]});
        assert_eq!(time(&sample), Some(Time { median: 25.0, fastest: 20.0 }));
    }

    #[test]
    fn short_times_are_in_nanoseconds() {
        assert_eq!((duration(999.94), duration(1500.0)), ("999.9 ns".to_owned(), "1.50 µs".to_owned()));
    }
}
