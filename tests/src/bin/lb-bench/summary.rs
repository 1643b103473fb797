// SPDX-License-Identifier: MIT OR Apache-2.0
//! What README shows: where lb wins, is level and loses, at one glance, and behind it a table a suite.

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result};

use crate::markdown::{escape, notices, sign};
use crate::results::{DIRECT, Metric, Planned, Results};
use crate::statistics::{NoRatio, Ratio, Verdict};

/// Columns of a workload that are shown: the first ones.
const COLUMNS: usize = 2;

/// How often lb wins and loses against somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    better: usize,
    level: usize,
    worse: usize,
    unknown: usize,
}

/// The block for README.
///
/// # Errors
/// Nothing of lb was measured.
pub fn summary(results: &Results) -> Result<String> {
    let subject = results.subject().context("lb did not take part")?;
    let mut text = String::new();
    head(&mut text, results)?;
    glance(&mut text, results, subject)?;
    losses(&mut text, results, subject)?;
    for suite in results.plan.workloads.chunk_by(|one, next| one.suite == next.suite) {
        details(&mut text, results, subject, suite)?;
    }
    Ok(text)
}

/// What the numbers depend on.
fn head(text: &mut String, results: &Results) -> fmt::Result {
    let environment = &results.plan.environment;
    let words = environment.arguments.split_whitespace().filter(|word| !word.starts_with("--update-readme"));
    let command = ["cargo xtask bench"].into_iter().chain(words).chain(["--update-readme"]);
    writeln!(
        text,
        "{}, `{}`, commit {}; {}, Linux {}, {} in every namespace. Medians of {} repeats in turn.\n",
        environment.date,
        command.collect::<Vec<_>>().join(" "),
        if environment.commit.is_empty() { "unknown" } else { &environment.commit },
        escape(&environment.machine),
        environment.kernel,
        environment.congestion_control,
        results.plan.repeats
    )?;
    let versions = environment.versions().into_iter();
    let versions: Vec<_> =
        versions.map(|(names, version)| format!("{names}: {}", escape(version.trim()))).collect();
    writeln!(text, "Versions: {}.\n", versions.join("; "))?;
    for notice in notices(results) {
        writeln!(text, "**{}**\n", escape(&notice))?;
    }
    Ok(())
}

/// A row a suite: how often lb wins and loses against everybody.
fn glance(text: &mut String, results: &Results, subject: &str) -> fmt::Result {
    let peers: Vec<_> = results.peers().collect();
    if peers.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "▲ {subject} is better, = no difference that matters, **▼ {subject} is worse**, ? the spread says too little; a number says \
         how often.\n\n| {subject} beside | {} |\n|---|{}",
        peers.join(" | "),
        "---|".repeat(peers.len())
    )?;
    for suite in results.plan.workloads.chunk_by(|one, next| one.suite == next.suite) {
        let cells = peers.iter().map(|peer| Tally::of(results, suite, [subject, peer]).to_string());
        writeln!(text, "| {} | {} |", escape(&suite[0].suite), cells.collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(text)
}

/// Everything in which lb loses to somebody, with the ratios.
fn losses(text: &mut String, results: &Results, subject: &str) -> fmt::Result {
    let mut lines = String::new();
    for (planned, column, metric) in rows(&results.plan.workloads) {
        let winners = results.peers().filter_map(|peer| {
            let Ratio { spread, verdict } = results.ratio(planned, [subject, peer], column)?.ok()?;
            let median = median(results, planned, peer, (column, metric));
            (verdict == Verdict::Worse).then(|| format!("{peer} {median} ({:.2})", spread.median))
        });
        let winners: Vec<_> = winners.collect();
        if !winners.is_empty() {
            let title = escape(&format!("{}: {}", planned.title, metric.title));
            let own = median(results, planned, subject, (column, metric));
            writeln!(lines, "- **▼ {title}: {own}; {}**", winners.join(", "))?;
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text, "Where {subject} loses, with the ratio to each that is better:\n\n{lines}")
}

/// The tables of one suite, folded: workloads that show the same metrics share one.
fn details(text: &mut String, results: &Results, subject: &str, suite: &[Planned]) -> fmt::Result {
    let tally = results.reference().map(|reference| Tally::of(results, suite, [subject, reference]));
    let tally = tally.map(|tally| format!(": {}", tally.to_string().replace("**", ""))).unwrap_or_default();
    writeln!(text, "<details><summary>{}{tally}</summary>\n", escape(&suite[0].suite))?;
    let has_values =
        |name: &&str| rows(suite).any(|(planned, column, _)| results.spread(planned, name, column).is_some());
    let direct = results.plan.contestants.iter().map(String::as_str).filter(|name| *name == DIRECT);
    let others: Vec<_> = results.peers().chain(direct).filter(has_values).collect();
    for group in suite.chunk_by(|one, next| shown(one).eq(shown(next))) {
        table(text, results, (subject, &others), group)?;
    }
    writeln!(text, "</details>")
}

/// A row a workload, a line of it a metric.
fn table(
    text: &mut String,
    results: &Results,
    (subject, others): (&str, &[&str]),
    group: &[Planned],
) -> fmt::Result {
    let titles: Vec<_> = shown(&group[0]).map(|metric| escape(&metric.title)).collect();
    let reference = results.reference().filter(|name| others.contains(name));
    let ratio_title = reference.map(|name| format!(" {subject} : {name} |")).unwrap_or_default();
    let names: Vec<_> = std::iter::once(&subject).chain(others).copied().collect();
    writeln!(text, "| {} | {} |{ratio_title}", titles.join("<br>"), names.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(names.len() + usize::from(reference.is_some())))?;
    for planned in group {
        write!(text, "| {} |", escape(&planned.title))?;
        for name in &names {
            let lines =
                shown(planned).enumerate().map(|place| value(results, planned, [subject, name], place));
            write!(text, " {} |", lines.collect::<Vec<_>>().join("<br>"))?;
        }
        if let Some(reference) = reference {
            let lines = (0..shown(planned).count())
                .map(|column| ratio_text(results.ratio(planned, [subject, reference], column)));
            write!(text, " {} |", lines.collect::<Vec<_>>().join("<br>"))?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

/// A median, and what lb is beside it.
fn value(
    results: &Results,
    planned: &Planned,
    [subject, name]: [&str; 2],
    place: (usize, &Metric),
) -> String {
    let median = median(results, planned, name, place);
    if [subject, DIRECT].contains(&name) {
        return median;
    }
    match results.ratio(planned, [subject, name], place.0) {
        Some(Ok(ratio)) if ratio.verdict == Verdict::Worse => format!("**{median} {}**", sign(ratio.verdict)),
        Some(Ok(ratio)) => format!("{median} {}", sign(ratio.verdict)),
        Some(Err(_)) => format!("{median} ?"),
        None => median,
    }
}

fn median(results: &Results, planned: &Planned, name: &str, (column, metric): (usize, &Metric)) -> String {
    let spread = results.spread(planned, name, column);
    spread.map_or_else(|| "–".to_owned(), |spread| metric.show(spread.median))
}

fn ratio_text(ratio: Option<Result<Ratio, NoRatio>>) -> String {
    match ratio {
        None => "–".to_owned(),
        Some(Err(reason)) => reason.to_string(),
        Some(Ok(Ratio { spread, verdict: Verdict::Worse })) => format!("**{:.2}**", spread.median),
        Some(Ok(Ratio { spread, .. })) => format!("{:.2}", spread.median),
    }
}

/// What is shown of a workload.
fn shown(planned: &Planned) -> impl Iterator<Item = &Metric> {
    planned.columns.iter().take(COLUMNS)
}

/// What is shown of several.
fn rows(workloads: &[Planned]) -> impl Iterator<Item = (&Planned, usize, &Metric)> {
    workloads
        .iter()
        .flat_map(|planned| shown(planned).enumerate().map(move |(column, metric)| (planned, column, metric)))
}

impl Tally {
    fn of(results: &Results, workloads: &[Planned], pair: [&str; 2]) -> Self {
        let mut tally = Self::default();
        for (planned, column, _) in rows(workloads) {
            match results.ratio(planned, pair, column) {
                Some(Ok(Ratio { verdict: Verdict::Better, .. })) => tally.better += 1,
                Some(Ok(Ratio { verdict: Verdict::Level, .. })) => tally.level += 1,
                Some(Ok(Ratio { verdict: Verdict::Worse, .. })) => tally.worse += 1,
                Some(Err(_)) => tally.unknown += 1,
                None => {}
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts =
            [("▲", self.better, ""), ("=", self.level, ""), ("▼", self.worse, "**"), ("?", self.unknown, "")];
        let parts = counts.iter().filter(|(_, count, _)| *count > 0);
        let parts: Vec<_> = parts.map(|(sign, count, mark)| format!("{mark}{sign} {count}{mark}")).collect();
        formatter.write_str(if parts.is_empty() { "–" } else { "" })?;
        formatter.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    const STEADY: [f64; 6] = [2.0; 6];

    #[test]
    fn a_glance_says_where_lb_loses() {
        let text = summary(&results(&[
            ("lb-auto", &STEADY),
            ("haproxy", &[2.5; 6]),
            ("nginx", &[1.5; 6]),
            (DIRECT, &[9.0; 6]),
        ]));
        let text = text.unwrap();
        for needle in [
            "| lb-auto beside | haproxy | nginx |",
            "| bulk | **▼ 2** | ▲ 2 |",
            "- **▼ download &lt;1>: Gb/s: 2.0; haproxy 2.5 (0.80)**",
            "<details><summary>bulk: ▼ 2</summary>",
            "| Gb/s<br>CPU, s/GB | lb-auto | haproxy | nginx | direct | lb-auto : haproxy |",
            "| download &lt;1> | 2.0<br>0.5 | **2.5 ▼**<br>**0.4 ▼** | 1.5 ▲<br>0.7 ▲ | 9.0<br>– | **0.80**<br>**1.25** |",
            "2030-01-02 03:04 UTC, `cargo xtask bench --quick <all> --update-readme`",
            "cubic in every namespace",
            "haproxy: HAProxy 1 &amp; 2 \\| 3",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }

    #[test]
    fn without_enough_pairs_nothing_is_claimed() {
        let text = summary(&results(&[("lb-auto", &[3.0]), ("haproxy", &[2.0])])).unwrap();
        assert!(text.contains("| bulk | ? 2 |"), "{text}");
        assert!(text.contains("| 3.0<br>0.3 | 2.0 ?<br>0.5 ? | 1 pair only<br>1 pair only |"), "{text}");
        assert!(!text.contains("loses"), "{text}");
        assert!(summary(&results(&[("haproxy", &[2.0])])).is_err());
    }

    #[test]
    fn without_peers_there_are_numbers_still() {
        let text = summary(&results(&[("lb-auto", &STEADY), (DIRECT, &STEADY)])).unwrap();
        assert!(text.contains("| download &lt;1> | 2.0<br>0.5 | 2.0<br>– |\n"), "{text}");
    }
}
