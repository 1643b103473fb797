// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a virtual machine reports, and whether that is all that it should.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::plan::Test;

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
