// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stages of a long verb: each runs whatever became of the others, and at the end a person sees all outcomes and times.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What became of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything in it passed.
    Passed,
    /// It could not run here, and why.
    NotRun(String),
    /// Something in it failed; what it printed says more.
    Failed(String),
}

/// The stages so far.
#[derive(Debug, Default)]
pub struct Report {
    stages: Vec<(String, Duration, Outcome)>,
}

impl Report {
    /// Runs one stage, times it and keeps its outcome.
    pub fn stage(&mut self, name: &str, stage: impl FnOnce() -> Result<Outcome>) {
        println!("==> {name}");
        let start = Instant::now();
        let outcome = stage().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        if let Outcome::Failed(reason) = &outcome {
            eprintln!("error: {name}: {reason}");
        }
        self.stages.push((name.to_owned(), start.elapsed(), outcome));
    }

    /// Prints every stage and turns the whole into one result.
    ///
    /// # Errors
    ///
    /// A stage failed; or, in continuous integration, could not run.
    pub fn finish(self, is_ci: bool) -> Result<()> {
        print!("{}", self.summary());
        let bad = |outcome: &Outcome| match outcome {
            Outcome::Passed => false,
            Outcome::NotRun(_) => is_ci,
            Outcome::Failed(_) => true,
        };
        let count = self.stages.iter().filter(|(_, _, outcome)| bad(outcome)).count();
        if count > 0 {
            bail!("{count} of {} stages did not pass", self.stages.len());
        }
        Ok(())
    }

    /// One line a stage.
    fn summary(&self) -> String {
        let mut text = String::from("\nstages:\n");
        for (name, time, outcome) in &self.stages {
            let seconds = time.as_secs_f64();
            let _ = match outcome {
                Outcome::Passed => writeln!(text, "  passed   {seconds:7.1} s  {name}"),
                Outcome::NotRun(reason) => writeln!(text, "  not run             {name}: {reason}"),
                Outcome::Failed(reason) => writeln!(text, "  FAILED   {seconds:7.1} s  {name}: {reason}"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn report(outcome: Outcome) -> Report {
        let mut report = Report::default();
        report.stage("first", || Ok(Outcome::Passed));
        report.stage("second", || Ok(outcome));
        report
    }

    #[test]
    fn only_failures_fail_and_in_ci_also_what_could_not_run() {
        let missing = || Outcome::NotRun("not root".to_owned());
        assert!(report(Outcome::Passed).finish(true).is_ok());
        assert!(report(missing()).finish(false).is_ok());
        assert!(report(missing()).finish(true).is_err());
        assert!(report(Outcome::Failed(String::new())).finish(false).is_err());
    }

    #[test]
    fn a_stage_that_ends_in_an_error_is_a_failure_and_the_next_still_runs() {
        let mut report = Report::default();
        report.stage("broken", || Err(anyhow!("no compiler")));
        report.stage("whole", || Ok(Outcome::Passed));
        let summary = report.summary();
        assert!(summary.contains("FAILED") && summary.contains("broken: no compiler"), "{summary}");
        assert!(summary.contains("passed"), "{summary}");
    }
}
