// SPDX-License-Identifier: MIT OR Apache-2.0
//! Samples on disk the moment they are taken, so that a run that is cut short can go on: a file of JSON lines, the plan first.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::environment::now;
use crate::programs::ProgramTimes;
use crate::results::{Failure, Plan, Record};

/// Its name in the output directory.
pub const FILE: &str = "samples.jsonl";

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// What is to be done; the first line.
    Plan(Box<Plan>),
    /// When a run went on.
    Resumed(String),
    /// A sample.
    Sample(Record),
    /// A sample that could not be taken.
    Failed(Failure),
    /// How long programs ran.
    Programs(ProgramTimes),
}

/// The file, open for more samples.
pub struct Journal {
    file: File,
    /// What is to be done, as of the first start.
    pub plan: Plan,
    /// When the run went on after it had been cut short.
    pub resumed: Vec<String>,
    /// So far.
    pub samples: Vec<Record>,
    /// Samples that could not be taken, and have not been since.
    pub failures: Vec<Failure>,
    /// How long programs ran, so far.
    pub program_times: Vec<ProgramTimes>,
}

impl Journal {
    /// Starts a run in a directory that holds none.
    ///
    /// # Errors
    /// It holds one, or it cannot be written.
    pub fn create(directory: &Path, plan: Plan) -> Result<Self> {
        ensure_free(directory)?;
        let path = directory.join(FILE);
        let file = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        let mut journal = Self::empty(file, plan);
        journal.write(&Line::Plan(Box::new(journal.plan.clone())))?;
        Ok(journal)
    }

    /// Goes on with the run in a directory.
    ///
    /// # Errors
    /// There is none, or it had another plan: its samples could not be compared with more of them. The message says what differs.
    pub fn resume(directory: &Path, plan: &Plan) -> Result<Self> {
        let path = directory.join(FILE);
        let text = fs::read(&path).with_context(|| format!("cannot resume: no {}", path.display()))?;
        // Whoever is killed while writing leaves half of a line.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&text[..whole])?;
        let mut journal = Self::parse(text, OpenOptions::new().append(true).open(&path)?)
            .with_context(|| format!("cannot resume: {}", path.display()))?;
        let differences = differences(&journal.plan, plan);
        ensure!(differences.is_empty(), "cannot resume {}: {}", directory.display(), differences.join("; "));
        journal.file.set_len(whole as u64)?;
        journal.resumed.push(now());
        journal.write(&Line::Resumed(now()))?;
        Ok(journal)
    }

    fn parse(text: &str, file: File) -> Result<Self> {
        let mut lines = text.lines().enumerate().map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("line {} is not one of ours", index + 1))
        });
        let Some(Line::Plan(plan)) = lines.next().transpose()? else { bail!("the first line is no plan") };
        let mut journal = Self::empty(file, *plan);
        for line in lines {
            match line? {
                Line::Plan(_) => bail!("a second plan"),
                Line::Resumed(date) => journal.resumed.push(date),
                Line::Sample(record) => journal.take(record),
                Line::Failed(failure) => journal.miss(failure),
                Line::Programs(times) => journal.take_program_times(times),
            }
        }
        Ok(journal)
    }

    fn empty(file: File, plan: Plan) -> Self {
        Self {
            file,
            plan,
            resumed: Vec::new(),
            samples: Vec::new(),
            failures: Vec::new(),
            program_times: Vec::new(),
        }
    }

    /// Whether a sample has been taken.
    pub fn has(&self, workload: &str, contestant: &str, repeat: u32) -> bool {
        self.samples.iter().any(|record| {
            record.repeat == repeat && record.workload == workload && record.contestant == contestant
        })
    }

    /// Keeps a sample.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, record: Record) -> Result<()> {
        self.write(&Line::Sample(record.clone()))?;
        self.take(record);
        Ok(())
    }

    /// Keeps that a sample could not be taken.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn fail(&mut self, failure: Failure) -> Result<()> {
        self.write(&Line::Failed(failure.clone()))?;
        self.miss(failure);
        Ok(())
    }

    /// Whether the programs of a contestant have been timed in a workload.
    pub fn has_program_times(&self, workload: &str, contestant: &str) -> bool {
        self.program_times.iter().any(|times| times.workload == workload && times.contestant == contestant)
    }

    /// Keeps how long programs ran.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add_program_times(&mut self, times: ProgramTimes) -> Result<()> {
        self.write(&Line::Programs(times.clone()))?;
        self.take_program_times(times);
        Ok(())
    }

    fn take_program_times(&mut self, times: ProgramTimes) {
        self.forgive(&times.workload, &times.contestant, self.plan.repeats);
        self.program_times.push(times);
    }

    fn take(&mut self, record: Record) {
        self.forgive(&record.workload, &record.contestant, record.repeat);
        self.samples.push(record);
    }

    fn miss(&mut self, failure: Failure) {
        self.forgive(&failure.workload, &failure.contestant, failure.repeat);
        self.failures.push(failure);
    }

    fn forgive(&mut self, workload: &str, contestant: &str, repeat: u32) {
        self.failures.retain(|failure| {
            failure.repeat != repeat || failure.workload != workload || failure.contestant != contestant
        });
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {FILE}"))
    }
}

/// Makes sure that no run would be overwritten.
///
/// # Errors
/// There is one in this directory.
pub fn ensure_free(directory: &Path) -> Result<()> {
    let shown = directory.display();
    ensure!(
        !directory.join(FILE).exists(),
        "{shown} holds the samples of another run: `--resume {shown}` goes on with it; otherwise name another --output"
    );
    Ok(())
}

/// Why samples of one plan say nothing about the other, in words.
fn differences(old: &Plan, new: &Plan) -> Vec<String> {
    let mut differences = old.environment.differences(&new.environment);
    if old.format != new.format {
        differences.push("another version of the bench wrote it".to_owned());
    }
    if old.contestants != new.contestants {
        let [old, new] = [old, new].map(|plan| plan.contestants.join(","));
        differences.push(format!("those who take part: {old} became {new}"));
    }
    if old.repeats != new.repeats {
        differences.push(format!("repeats: {} became {}", old.repeats, new.repeats));
    }
    if old.workloads != new.workloads {
        differences.push("other suites, or the same with other sizes".to_owned());
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    /// A journal with all samples of two repeats but the last.
    fn cut_short(directory: &Path) -> (Plan, Vec<Record>) {
        let mut results = results(&[("lb-auto", &[1.0, 2.0]), ("haproxy", &[3.0, 4.0])]);
        results.samples.pop();
        let mut journal = Journal::create(directory, results.plan.clone()).unwrap();
        for record in &results.samples {
            journal.add(record.clone()).unwrap();
        }
        (results.plan, results.samples)
    }

    #[test]
    fn a_run_goes_on_where_it_was_cut_short() {
        let directory = tempfile::tempdir().unwrap();
        let (plan, samples) = cut_short(directory.path());
        let mut torn = OpenOptions::new().append(true).open(directory.path().join(FILE)).unwrap();
        torn.write_all(b"{\"sample\":{\"workl").unwrap();
        let mut journal = Journal::resume(directory.path(), &plan).unwrap();
        assert_eq!(journal.samples, samples);
        assert!(journal.has("download <1>", "lb-auto", 1) && !journal.has("download <1>", "haproxy", 1));
        journal.add(Record { repeat: 1, ..samples[2].clone() }).unwrap();
        let journal = Journal::resume(directory.path(), &plan).unwrap();
        assert!(journal.has("download <1>", "haproxy", 1));
        assert_eq!(journal.resumed.len(), 2);
    }

    /// serde_json rounds to a neighbour now and then unless told not to.
    #[test]
    fn numbers_come_back_to_the_last_bit() {
        for divisor in 1..20_000 {
            let value = 20_000.0 / (f64::from(divisor) * 0.001_234_567);
            let text = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::from_str::<f64>(&text).unwrap().to_bits(), value.to_bits(), "{text}");
        }
    }

    #[test]
    fn another_plan_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let (plan, _) = cut_short(directory.path());
        let mut other = plan.clone();
        other.repeats = 3;
        other.workloads.clear();
        other.environment.digests.clear();
        let Err(error) = Journal::resume(directory.path(), &other) else { panic!("resumed") };
        let error = format!("{error:#}");
        for reason in ["repeats: 2 became 3", "other suites", "digest of lb"] {
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_failure_is_kept_until_the_sample_has_been_taken() {
        let directory = tempfile::tempdir().unwrap();
        let (plan, samples) = cut_short(directory.path());
        let failure = Failure {
            workload: "download <1>".to_owned(),
            contestant: "haproxy".to_owned(),
            repeat: 1,
            reason: "it ended".to_owned(),
        };
        let mut journal = Journal::resume(directory.path(), &plan).unwrap();
        journal.fail(Failure { reason: "earlier".to_owned(), ..failure.clone() }).unwrap();
        journal.fail(failure.clone()).unwrap();
        let mut journal = Journal::resume(directory.path(), &plan).unwrap();
        assert_eq!(journal.failures, [failure]);
        assert!(!journal.has("download <1>", "haproxy", 1));
        journal.add(Record { repeat: 1, ..samples[2].clone() }).unwrap();
        assert_eq!(Journal::resume(directory.path(), &plan).unwrap().failures, []);
    }

    #[test]
    fn how_long_programs_ran_is_asked_once_and_forgives_only_its_own_failure() {
        let directory = tempfile::tempdir().unwrap();
        let (plan, _) = cut_short(directory.path());
        let times = crate::programs::tests::times(600);
        let failure = |repeat| Failure {
            workload: times.workload.clone(),
            contestant: times.contestant.clone(),
            repeat,
            reason: "it ended".to_owned(),
        };
        let mut journal = Journal::resume(directory.path(), &plan).unwrap();
        assert!(!journal.has_program_times("download <1>", "lb-packet"));
        for repeat in [plan.repeats - 1, plan.repeats] {
            journal.fail(failure(repeat)).unwrap();
        }
        journal.add_program_times(times.clone()).unwrap();
        let journal = Journal::resume(directory.path(), &plan).unwrap();
        assert!(journal.has_program_times("download <1>", "lb-packet"));
        assert!(!journal.has_program_times("download <1>", "lb-packet-late"));
        assert_eq!((journal.program_times, journal.failures), (vec![times.clone()], vec![failure(1)]));
    }

    #[test]
    fn samples_are_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let (plan, samples) = cut_short(directory.path());
        assert!(Journal::create(directory.path(), plan.clone()).is_err());
        assert_eq!(Journal::resume(directory.path(), &plan).unwrap().samples, samples);
    }

    #[test]
    fn without_a_run_there_is_nothing_to_resume() {
        let directory = tempfile::tempdir().unwrap();
        let plan = results(&[]).plan;
        assert!(Journal::resume(directory.path(), &plan).is_err());
        fs::write(directory.path().join(FILE), "{}\n").unwrap();
        assert!(Journal::resume(directory.path(), &plan).is_err());
    }
}
