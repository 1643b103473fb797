// SPDX-License-Identifier: MIT OR Apache-2.0
//! Findings for people, and for machines.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::findings::{Finding, Verdict};

/// One line a finding under its heading, what to change below it, and the sum of it all last.
pub(super) fn text(findings: &[Finding], config: Option<&Path>) -> String {
    let mut text = String::new();
    for (index, finding) in findings.iter().enumerate() {
        if index == 0 || findings[index - 1].section != finding.section {
            let gap = if index == 0 { "" } else { "\n" };
            writeln!(text, "{gap}{}", finding.section).expect("a String takes all text");
        }
        let width = width(findings, finding.section);
        let took = finding.took.map_or(String::new(), |took| format!(" ({:.1} ms)", milliseconds(took)));
        let Finding { subject, text: found, .. } = finding;
        let label = finding.verdict.label();
        writeln!(text, "  {label:<5} {subject:<width$}  {found}{took}").expect("a String takes all text");
        if let Some(cure) = finding.cure.as_ref().filter(|_| finding.verdict == Verdict::Lacking) {
            writeln!(text, "        change: {cure}").expect("a String takes all text");
        }
    }
    text + "\n" + &sum(findings, config)
}

/// The longest subject of a section.
fn width(findings: &[Finding], section: &str) -> usize {
    let subjects = findings.iter().filter(|finding| finding.section == section);
    subjects.map(|finding| finding.subject.len()).max().unwrap_or(0)
}

fn sum(findings: &[Finding], config: Option<&Path>) -> String {
    let whose = match config {
        Some(file) => format!("that {} asks for", file.display()),
        None => "that lb can use".into(),
    };
    match findings.iter().filter(|finding| finding.verdict == Verdict::Lacking).count() {
        0 => format!("Everything {whose} is available."),
        1 => format!("One thing {whose} is not available."),
        count => format!("{count} things {whose} are not available."),
    }
}

/// One object, for scripts.
pub(super) fn json(findings: &[Finding]) -> Value {
    let list = findings.iter().map(|finding| {
        json!({
            "section": finding.section,
            "subject": finding.subject,
            "verdict": finding.verdict.label(),
            "text": finding.text,
            "change": finding.cure,
            "milliseconds": finding.took.map(milliseconds),
        })
    });
    json!({ "available": super::findings::is_complete(findings), "findings": list.collect::<Value>() })
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

impl Verdict {
    fn label(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Lacking => "lacks",
        }
    }
}
