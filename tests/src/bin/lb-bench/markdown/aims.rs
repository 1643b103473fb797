// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether aims are held, as tables in Markdown.

use super::programs::programs_aim;
use super::{counts_text, escape};
use crate::micro::{AIM_NS, Case};
use crate::results::Results;
use crate::results::aims::{Finding, Judgement, Outcome};
use crate::statistics::Estimate;

/// A row an aim: how often it is held, and the ratio that is nearest to a miss or farthest in it. `None` if nothing was measured that
/// an aim is about.
pub fn aims_table(results: &Results, judgements: &[Judgement<'_>]) -> Option<String> {
    let aims = judgements.iter().map(|judgement| {
        let worst = judgement.worst().map_or_else(
            || "–".to_owned(),
            |finding| format!("{}: {}", ratio(finding), escape(&place(judgement, finding))),
        );
        format!("| {} | {} | {worst} |\n", judgement.aim.text, counts_text(judgement.counts()))
    });
    let rows: String = aims.chain(programs_aim(&results.program_times)).chain(micro(results)).collect();
    let legend = "What lb aims at, in each number that an aim is about: ▲ it is held, = the least of it is held, **▼ it is missed**, \
                  ? the spread says too little.";
    (!rows.is_empty())
        .then(|| format!("{legend}\n\n| aim | numbers | the worst ratio |\n|---|---|---|\n{rows}"))
}

/// A row a number; of aims about very many numbers, those that are missed. Empty if there is none.
pub fn findings_table(judgements: &[Judgement<'_>]) -> String {
    let rows = judgements.iter().flat_map(|judgement| {
        judgement.notable().enumerate().map(move |(index, finding)| {
            // An aim is named once.
            let aim = if index == 0 { judgement.aim.text } else { "" };
            let place = escape(&place(judgement, finding));
            format!("| {aim} | {place} | {} | {} |\n", ratio(finding), outcome(finding.outcome))
        })
    });
    let rows: String = rows.collect();
    if rows.is_empty() {
        return rows;
    }
    format!("\n| aim | number | ratio | outcome |\n|---|---|---|---|\n{rows}")
}

/// The aim of the suite micro, if it has run.
fn micro(results: &Results) -> Option<String> {
    let cases: Vec<_> = results.micro.iter().flat_map(|micro| micro.shown()).collect();
    let cases: Vec<&Case> = cases.into_iter().filter(|(_, has_aim)| *has_aim).map(|(case, _)| case).collect();
    let held = cases.iter().filter(|case| case.is_below_aim()).count();
    let slowest = cases.iter().max_by(|one, other| {
        let time = |case: &Case| case.median_ns.unwrap_or(f64::INFINITY);
        time(one).total_cmp(&time(other))
    })?;
    let [time, _] = slowest.show();
    Some(format!(
        "| parsing a ClientHello, and finding the route of a name: below {:.0} µs each | {} | {time}: {} |\n",
        AIM_NS / 1e3,
        counts_text([held, 0, cases.len() - held, 0]),
        escape(&slowest.name)
    ))
}

/// Whose number it is and where, as far as the aim leaves that open.
pub fn place(judgement: &Judgement<'_>, finding: &Finding<'_>) -> String {
    let number = if judgement.aim.is_broad() { format!(": {}", finding.metric.title) } else { String::new() };
    let is_one = judgement.findings.iter().all(|other| other.who == finding.who);
    let who = if is_one { String::new() } else { format!("{}, ", finding.who) };
    format!("{who}{}{number}", finding.planned.title)
}

/// The ratio with its range and to whom it is.
pub fn ratio(finding: &Finding<'_>) -> String {
    match finding.ratio {
        Ok(Estimate { spread, .. }) => {
            let [median, min, max] =
                [spread.median, spread.min, spread.max].map(|ratio| format!("{ratio:.2}"));
            format!("{median} ({min}–{max}) to {}", finding.reference)
        }
        Err(_) => "–".to_owned(),
    }
}

fn outcome(outcome: Outcome) -> String {
    let text = format!("{} {outcome}", Outcome::SIGNS[outcome.index()]);
    if outcome == Outcome::Missed { format!("**{text}**") } else { text }
}
