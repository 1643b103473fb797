// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a virtual machine reports, and whether that is all that it should.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::plan::Test;

/// Tests that tell what the verifier says, what names of programs begin with, and how many there are.
const PROGRAMS: [(&str, &str, usize); 2] = [
    ("kernel::tests::the_verifier_is_far_from_giving_up", "sockmap_", 2),
    ("kernel::packet::tests::the_verifier_is_far_from_giving_up", "packet_", 4),
];

/// Tests whose agents carry bytes by a path.
const CARRIERS: [(&str, &str); 2] = [("sockmap::", "sockmap"), ("packet::", "packet")];

/// What is known so far. The lines are those that lb-guest documents.
#[derive(Debug, Default)]
pub struct Results {
    /// The kernel's release.
    pub release: String,
    /// Tests that passed.
    pub passed: Vec<String>,
    /// Tests that failed, and why.
    pub failed: Vec<(String, String)>,
    /// Bytes that agents carried, by path.
    pub carried: BTreeMap<String, u64>,
    /// What the verifier said of each program.
    pub programs: BTreeMap<String, String>,
    /// How many tests it says that it ran, at its end.
    end: Option<usize>,
}

impl Results {
    /// Takes a line of the report and shows it to the person.
    pub fn hear(&mut self, line: &str) {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["kernel", release] => release.clone_into(&mut self.release),
            ["end", count] => self.end = count.parse().ok(),
            ["begin", ..] => return,
            ["note", _, _, text] => return self.note(text),
            ["passed", program, name, _] => self.passed.push(format!("{program} {name}")),
            ["failed", program, name, why] => self.failed.push((format!("{program} {name}"), why.to_owned())),
            _ => {}
        }
        println!("{line}");
    }

    /// `carried BYTES by PATH` or `program NAME …`; anything else is for the person.
    fn note(&mut self, text: &str) {
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["carried", bytes, "by", path] => {
                *self.carried.entry(path.to_owned()).or_default() += bytes.parse().unwrap_or(0);
            }
            ["program", name, ..] => {
                let (_, said) = text.split_once(": ").unwrap_or_default();
                self.programs.insert(name.trim_end_matches(':').to_owned(), said.to_owned());
            }
            _ => println!("{text}"),
        }
    }

    /// Whether every test ran and passed.
    ///
    /// # Errors
    /// Which did not.
    pub fn judge(&self, tests: &[Test]) -> Result<()> {
        let Some(end) = self.end else { bail!("the machine ended before its tests did") };
        if !self.failed.is_empty() {
            let names: Vec<&str> = self.failed.iter().map(|(name, _)| name.as_str()).collect();
            bail!("{} of {} tests failed: {}", names.len(), tests.len(), names.join(", "));
        }
        let is_missing = |test: &&Test| !self.passed.contains(&format!("{} {}", test.program, test.name));
        let missing: Vec<&str> = tests.iter().filter(is_missing).map(|test| test.name.as_str()).collect();
        ensure!(missing.is_empty(), "{} tests did not run: {}", missing.len(), missing.join(", "));
        ensure!(end == tests.len() && self.passed.len() == end, "{end} tests instead of {}", tests.len());
        self.judge_notes(tests)
    }

    /// Whether tests have said what they are to say besides: the verifier's statistics, and bytes by path.
    fn judge_notes(&self, tests: &[Test]) -> Result<()> {
        let ran = |name: &str| tests.iter().any(|test| test.name.starts_with(name));
        for (test, program, count) in PROGRAMS {
            let found = self.programs.keys().filter(|name| name.starts_with(program)).count();
            ensure!(
                !ran(test) || found >= count,
                "the verifier told of {found} programs {program}*, not {count}"
            );
        }
        for (carrying, path) in CARRIERS {
            let bytes = self.carried.get(path).copied().unwrap_or(0);
            ensure!(!ran(carrying) || bytes > 0, "no byte went by {path}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::Size;

    fn heard(lines: &[&str]) -> Results {
        let mut results = Results::default();
        lines.iter().for_each(|line| results.hear(line));
        results
    }

    #[track_caller]
    fn check(lines: &[&str], expected: Option<&str>) {
        let tests =
            ["a::x", "a::y"].map(|name| Test { program: "e2e", name: name.to_owned(), size: Size::Small });
        let error = heard(lines).judge(&tests).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), expected);
    }

    #[test]
    fn all_tests_must_have_run_and_passed() {
        let (x, y) = ("passed e2e a::x 1.0", "passed e2e a::y 2.0");
        check(&["kernel 6.1.0", x, y, "end 2"], None);
        check(&[x, y], Some("the machine ended before its tests did"));
        check(&[x, "end 1"], Some("1 tests did not run: a::y"));
        check(&[x, "failed e2e a::y 2.0 exit status: 101", "end 2"], Some("1 of 2 tests failed: e2e a::y"));
        check(&[x, x, y, "end 3"], Some("3 tests instead of 2"));
    }

    #[test]
    fn what_tests_say_must_be_there_where_they_ran() {
        let judged = |name: &str, notes: &[&str]| {
            let (tests, passed) = (
                [Test { program: "unit", name: name.to_owned(), size: Size::Small }],
                format!("passed unit {name} 1.0"),
            );
            let lines: Vec<_> = notes.iter().copied().chain([passed.as_str(), "end 1"]).collect();
            heard(&lines).judge(&tests).err().map(|error| error.to_string())
        };
        let (test, note) = (PROGRAMS[0].0, |name| format!("note unit x program sockmap_{name}: 1 verified"));
        let [one, other] = ["verdict", "filter"].map(note);
        assert_eq!(judged(test, &[&one, &other]), None);
        let told = "the verifier told of 1 programs sockmap_*, not 2";
        assert_eq!(judged(test, &[&one]).as_deref(), Some(told));
        assert_eq!(judged("packet::x", &["note unit packet::x carried 1 by packet"]), None);
        assert_eq!(
            judged("packet::x", &["note unit packet::x carried 0 by packet"]).as_deref(),
            Some("no byte went by packet")
        );
    }

    #[test]
    fn bytes_are_added_up_by_path_and_programs_kept_by_name() {
        let results = heard(&[
            "note e2e a::x carried 5 by sockmap",
            "note e2e a::y carried 6 by sockmap",
            "note e2e a::y carried 1 by copy",
            "note unit k::z program sockmap_verdict: 123 instructions verified",
        ]);
        assert_eq!(results.carried, BTreeMap::from([("copy".to_owned(), 1), ("sockmap".to_owned(), 11)]));
        assert_eq!(results.programs["sockmap_verdict"], "123 instructions verified");
    }
}
