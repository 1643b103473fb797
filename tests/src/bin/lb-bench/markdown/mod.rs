// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results as Markdown: a document with everything. What README shows is [`crate::summary`].

mod aims;
mod programs;

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result, ensure};

use crate::micro::{AIM_NS, Case};
use crate::programs::METHOD as PROGRAMS_METHOD;
use crate::results::aims::judge;
use crate::results::{Planned, Results};
use crate::statistics::{self, NoRatio, Ratio, STOLEN_MAX, Spread, Verdict};

pub use aims::{aims_table, findings_table, place, ratio};
pub use programs::{TITLE as PROGRAMS_TITLE, programs_table};

/// What is before and behind the tables in README, by congestion control.
const PLACES: [(&str, [&str; 2]); 2] = [
    ("cubic", ["<!-- bench:begin -->", "<!-- bench:end -->"]),
    ("bbr", ["<!-- bench-bbr:begin -->", "<!-- bench-bbr:end -->"]),
];

/// A path's share of the bytes in one workload is named where it is this much less than in all of the suite.
const SHARE_NOTABLE: f64 = 0.05;

/// Everything.
///
/// # Errors
/// Never: text takes all that is written into it.
pub fn report(results: &Results) -> Result<String, fmt::Error> {
    let environment = &results.plan.environment;
    let mut text = String::from("# lb beside its peers\n\n");
    for (name, fact) in environment.facts() {
        writeln!(text, "- {name}: {}", escape(&fact))?;
    }
    for (name, version) in environment.versions() {
        writeln!(text, "- {name}: {}", escape(version))?;
    }
    for (name, missing) in &environment.missing {
        let [reason, install] = [&missing.reason, &missing.install].map(|text| escape(text));
        writeln!(text, "- **missing: {name}** ({reason}); to install it: {install}")?;
    }
    for notice in notices(results) {
        writeln!(text, "- **{}**", escape(&notice))?;
    }
    writeln!(
        text,
        "- {} repeats; median (least–greatest)\n- order: {}\n- {} Their configurations are beside this file.\n- {}",
        results.plan.repeats,
        order(results),
        results.plan.environment.settings,
        statistics::rule()
    )?;
    if let Some(who) = the_best_haproxy(results) {
        writeln!(text, "- {who}")?;
    }
    let judgements = judge(results);
    if let Some(aims) = aims_table(results, &judgements) {
        writeln!(text, "\n## Aims\n\n{aims}{}", findings_table(&judgements))?;
    }
    let workloads = &results.plan.workloads;
    for (index, planned) in workloads.iter().enumerate() {
        if index == 0 || workloads[index - 1].suite != planned.suite {
            writeln!(text, "\n## {}\n\n{}", escape(&planned.suite), escape(&planned.method))?;
        }
        table(&mut text, results, planned)?;
    }
    if !results.program_times.is_empty() {
        let table = programs_table(&results.program_times);
        writeln!(text, "\n## {PROGRAMS_TITLE}\n\n{PROGRAMS_METHOD}\n\n{table}")?;
    }
    if let Some(micro) = &results.micro {
        text.push_str("\n## micro\n");
        micro_table(&mut text, micro.cases.iter().map(|case| (case, case.has_aim())))?;
    }
    Ok(text)
}

/// How the order of turns came about.
pub fn order(results: &Results) -> String {
    format!("drawn anew for each repeat of each workload, from seed {}", results.plan.seed)
}

/// By which paths lb carried the bytes of these workloads, by its own counters; `None` if there was nothing to count. Where the path
/// of most bytes had clearly less in one of the workloads, that is said, too.
pub fn paths_taken(results: &Results, workloads: &[Planned], name: &str) -> Option<String> {
    let shares = results.paths_taken(workloads, name);
    let &(path, share) = shares.first()?;
    let percent = |(path, share): &(&str, f64)| format!("{path} {:.1} %", 100.0 * share);
    let all: Vec<_> = shares.iter().map(percent).collect();
    let least = least_share(results, workloads, [name, path]);
    let least = least.filter(|(_, least)| share - least > SHARE_NOTABLE);
    let exception = least
        .map(|(planned, least)| format!(" (in {}: {})", escape(&planned.title), percent(&(path, least))));
    Some(format!("Bytes of {name} went by {}{}.", all.join(", "), exception.unwrap_or_default()))
}

/// The workload in which a path carried the least share of a contestant's bytes.
fn least_share<'a>(
    results: &Results,
    workloads: &'a [Planned],
    [name, path]: [&str; 2],
) -> Option<(&'a Planned, f64)> {
    let shares = workloads.iter().filter_map(|planned| {
        let shares = results.paths_taken(std::slice::from_ref(planned), name);
        let own = shares.iter().find(|(own, _)| *own == path).map_or(0.0, |(_, share)| *share);
        (!shares.is_empty()).then_some((planned, own))
    });
    shares.min_by(|one, other| one.1.total_cmp(&other.1))
}

/// Times and counts of decisions, each with whether the aim is for it.
pub fn micro_table<'a>(text: &mut String, cases: impl Iterator<Item = (&'a Case, bool)>) -> fmt::Result {
    writeln!(
        text,
        "\nAims: parsing a ClientHello and finding the route of a name, below {:.0} µs each.\n\n\
         | decision | time | instructions | aim |\n|---|---:|---:|---|",
        AIM_NS / 1e3
    )?;
    for (case, has_aim) in cases {
        let [time, instructions] = case.show();
        let aim = match (has_aim, case.is_below_aim()) {
            (false, _) => "",
            (true, true) => "▲ held",
            (true, false) => "**▼ missed**",
        };
        writeln!(text, "| {} | {time} | {instructions} | {aim} |", escape(&case.name))?;
    }
    Ok(())
}

/// What a reader must know before the numbers.
pub fn notices(results: &Results) -> Vec<String> {
    let mut notices = Vec::new();
    let is_small = |word: &str| ["--quick", "--ci"].contains(&word);
    if results.plan.environment.arguments.split_whitespace().any(is_small) {
        notices.push("A quick run: it shows that everything works; the numbers mean nothing.".to_owned());
    }
    if results.missing() > 0 {
        let why = if results.failures.is_empty() { "Cut short" } else { "Cut short, or somebody failed" };
        notices.push(format!("{why}: samples are missing, {} of them.", results.missing()));
    }
    for (contestant, workload, count, reason) in results.failed() {
        // The rest is on the page and in the logs.
        let reason = reason.split("; its log ends").next().unwrap_or_default();
        notices.push(format!("Failed: {contestant} in {workload} (samples: {count}): {reason}"));
    }
    for date in &results.resumed {
        notices.push(format!("Cut short and resumed at {date}."));
    }
    let disturbed = results.plan.workloads.iter().filter_map(|planned| {
        let count = results.disturbed(planned);
        (count > 0).then(|| format!("{} (samples: {count})", planned.title))
    });
    let disturbed: Vec<_> = disturbed.collect();
    if !disturbed.is_empty() {
        notices.push(format!(
            "More than {:.0} % of the cores' time was stolen in: {}. These samples count for no ratio.",
            100.0 * STOLEN_MAX,
            disturbed.join("; ")
        ));
    }
    notices
}

fn table(text: &mut String, results: &Results, planned: &Planned) -> fmt::Result {
    let titles: Vec<_> = planned.columns.iter().map(|metric| escape(&metric.title)).collect();
    writeln!(text, "\n| {} | {} |", escape(&planned.title), titles.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(planned.columns.len()))?;
    for contestant in results.plan.contestants.iter().filter(|name| !planned.absent.contains_key(*name)) {
        let cells = planned.columns.iter().enumerate().map(|(column, metric)| {
            let spread = results.spread(planned, contestant, column);
            spread.map_or_else(|| blank(results, planned, contestant), |spread| metric.show_spread(spread))
        });
        writeln!(text, "| {contestant} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    let references = results.references();
    if let Some(usual) = references.first() {
        for name in results.ours().filter(|name| !planned.absent.contains_key(*name)) {
            let cells = (0..planned.columns.len())
                .map(|column| ratio_cell(results.ratio_to_reference(planned, name, column), usual));
            let cells: Vec<_> = cells.collect();
            writeln!(text, "| {name} : {} | {} |", the_best(&references), cells.join(" | "))?;
        }
    }
    let workload = std::slice::from_ref(planned);
    for taken in results.ours().filter_map(|name| paths_taken(results, workload, name)) {
        writeln!(text, "\n{taken}")?;
    }
    for (reason, names) in planned.absences(&results.plan.contestants) {
        writeln!(text, "\nNot here: {} ({}).", names.join(", "), escape(reason))?;
    }
    Ok(())
}

/// What stands where there is no number.
pub fn blank(results: &Results, planned: &Planned, name: &str) -> String {
    let has_samples =
        results.samples.iter().any(|record| record.contestant == name && record.workload == planned.title);
    if results.has_failed(planned, name) && !has_samples { "failed".to_owned() } else { "–".to_owned() }
}

/// Those that lb is measured by, in words.
pub fn the_best(references: &[&str]) -> String {
    match references {
        [one] => (*one).to_owned(),
        _ => "the best HAProxy".to_owned(),
    }
}

/// Who is meant by that; `None` if there is no choice.
pub fn the_best_haproxy(results: &Results) -> Option<String> {
    let references = results.references();
    let usual = references.first()?;
    (references.len() > 1).then(|| {
        format!(
            "The best HAProxy is in each number the one with the best median of {}; a ratio names it where it is not {usual}.",
            references.join(", ")
        )
    })
}

/// What follows a ratio if it is not to the usual reference, which is the first.
pub fn to_other(reference: &str, usual: &str) -> String {
    if reference == usual { String::new() } else { format!(" to {reference}") }
}

/// How often better or held, level or held at least, worse or missed, and unknown.
pub fn counts_text(counts: [usize; 4]) -> String {
    let marks = [("▲", ""), ("=", ""), ("▼", "**"), ("?", "")];
    let all = marks.into_iter().zip(counts).filter(|(_, count)| *count > 0);
    let all: Vec<_> = all.map(|((sign, mark), count)| format!("{mark}{sign} {count}{mark}")).collect();
    if all.is_empty() { "–".to_owned() } else { all.join(" ") }
}

/// The sign that a reader sees first.
pub fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "▲",
        Verdict::Level => "=",
        Verdict::Worse => "▼",
    }
}

fn ratio_cell(ratio: Option<(&str, Result<Ratio, NoRatio>)>, usual: &str) -> String {
    match ratio {
        None => "–".to_owned(),
        Some((_, Err(reason))) => reason.to_string(),
        Some((reference, Ok(Ratio { spread, verdict }))) => {
            let Spread { median, min, max } = spread;
            let other = to_other(reference, usual);
            let text = format!("{} {median:.2} ({min:.2}–{max:.2}){other}", sign(verdict));
            if verdict == Verdict::Worse { format!("**{text}**") } else { text }
        }
    }
}

/// Text that means nothing to Markdown, on one line.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' => escaped.extend(['\\', character]),
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            _ if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A document with a table in its place, instead of the one that is there.
///
/// # Errors
/// There is no place for such a table, or more than one.
pub fn embed(document: &str, congestion_control: &str, block: &str) -> Result<String> {
    let place = PLACES.into_iter().find(|(name, _)| *name == congestion_control);
    let (_, [begin, end]) = place.with_context(|| format!("no place for {congestion_control}"))?;
    let is_once = |marker| document.matches(marker).count() == 1;
    ensure!(is_once(begin) && is_once(end), "{begin} and {end} must be there once each");
    let (before, rest) = document.split_once(begin).context("no beginning")?;
    let (_, after) = rest.split_once(end).context("the end is before the beginning")?;
    Ok(format!("{before}{begin}\n{}\n{end}{after}", block.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    const STEADY: [f64; 6] = [2.0, 2.0, 2.0, 2.0, 2.0, 2.0];

    #[test]
    fn the_document_names_what_a_reader_must_know() {
        let mut results = results(&[("lb-auto", &STEADY), ("haproxy", &STEADY), ("sozu", &[])]);
        results.samples.truncate(11);
        results.samples[0].paths.insert("splice".to_owned(), 9);
        results.failures.push(crate::results::Failure {
            workload: "download <1>".to_owned(),
            contestant: "sozu".to_owned(),
            repeat: 0,
            reason: "it *ended*".to_owned(),
        });
        results.micro = Some(crate::micro::tests::micro());
        results.samples[0].stolen_share = 0.1;
        let install = "apt-get install nginx-light".to_owned();
        let missing = crate::environment::Missing { reason: "no | nginx".to_owned(), install };
        results.plan.environment.missing.insert("nginx".to_owned(), missing);
        let text = report(&results).unwrap();
        for needle in [
            "A quick run",
            "samples are missing, 7 of them.",
            "More than 2 % of the cores' time was stolen in: download &lt;1> (samples: 1). These samples count for no ratio.",
            "- **missing: nginx** (no \\| nginx); to install it: apt-get install nginx-light",
            "- haproxy: HAProxy 1 &amp; 2 \\| 3",
            "| lb-auto | 2.0 (2.0–2.0) | 0.5 (0.5–0.5) | – |",
            "| sozu | failed | failed | failed |",
            "Failed: sozu in download &lt;1> (samples: 1): it \\*ended\\*",
            "Bytes of lb-auto went by splice 100.0 %.",
            "| log/&lt;json> | 1.50 µs | 512 |  |",
            "| route/exact-among-10 | 100 ns | 512 | ▲ held |",
            "from seed 7",
            "fewer than 6 pairs",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }

    #[test]
    fn every_path_has_ratios_and_aims_are_told() {
        let mut results = results(&[
            ("lb-auto", &[3.0; 6]),
            ("lb-packet", &[2.0; 6]),
            ("haproxy", &[2.5; 6]),
            ("haproxy-new", &[1.0; 6]),
        ]);
        results.plan.workloads[0].columns[0].title = "GB/CPU-second".to_owned();
        let text = report(&results).unwrap();
        for needle in [
            "| lb-auto : the best HAProxy | ▲ 1.20 (1.20–1.20) |",
            "| lb-packet : the best HAProxy | **▼ 0.80 (0.80–0.80)** |",
            "- The best HAProxy is in each number",
            "## Aims\n\nWhat lb aims at",
            "| bytes per CPU-second of lb-packet: 3 times the best HAProxy's, 2.5 times at least | download &lt;1> | \
             0.80 (0.80–0.80) to haproxy | **▼ missed** |",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }

    #[test]
    fn a_path_that_one_workload_did_not_take_is_named() {
        let mut results = results(&[("lb-packet", &[1.0; 2])]);
        let mut second = results.plan.workloads[0].clone();
        second.title = "short".to_owned();
        results.plan.workloads.push(second);
        results.samples[0].paths = [("packet".to_owned(), 900), ("copy".to_owned(), 10)].into();
        results.samples[1].workload = "short".to_owned();
        results.samples[1].paths = [("copy".to_owned(), 90)].into();
        let taken = |workloads: &[Planned]| paths_taken(&results, workloads, "lb-packet").unwrap();
        let both = "Bytes of lb-packet went by packet 90.0 %, copy 10.0 % (in short: packet 0.0 %).";
        assert_eq!(taken(&results.plan.workloads), both);
        assert_eq!(taken(&results.plan.workloads[1..]), "Bytes of lb-packet went by copy 100.0 %.");
        assert_eq!(paths_taken(&results, &results.plan.workloads, "lb-copy"), None);
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        for (control, [begin, end]) in PLACES {
            let document = format!("a\n{begin}\nold\n{end}\nb c\n");
            let expected = format!("a\n{begin}\nnew\n{end}\nb c\n");
            assert_eq!(embed(&document, control, "new\n\n").unwrap(), expected);
            assert_eq!(embed(&expected, control, "new").unwrap(), expected);
            for broken in ["", begin, end, &format!("{end}{begin}"), &format!("{document}{begin}")] {
                assert!(embed(broken, control, "new").is_err(), "{broken}");
            }
            assert!(embed(&document, "vegas", "new").is_err());
        }
    }
}
