// SPDX-License-Identifier: MIT OR Apache-2.0
//! What README shows: whether aims are held, where lb wins, is level and loses, at one glance, and behind it a table a suite.

use std::fmt::{self, Write as _};

use anyhow::{Context as _, Result};

use crate::markdown::{
    PROGRAMS_TITLE, blank, escape, micro_table, notices, order, paths_taken, programs_table, sign, the_best,
    the_best_haproxy, to_other,
};
use crate::micro::{AIM_NS, Micro};
use crate::programs::{AIM, METHOD, ProgramTimes, tally};
use crate::results::{DIRECT, Metric, Planned, Results, is_lb};
use crate::statistics::{NoRatio, Ratio, Verdict};
use crate::suite::Role;
use glance::Tally;

mod glance;

/// The block for README.
///
/// # Errors
/// Nothing of lb was measured.
pub fn summary(results: &Results) -> Result<String> {
    let subject = results.subject().context("lb did not take part")?;
    let mut text = String::new();
    head(&mut text, results)?;
    glance::glance(&mut text, results, subject)?;
    for suite in results.plan.workloads.chunk_by(|one, next| one.suite == next.suite) {
        details(&mut text, results, subject, suite)?;
    }
    if !results.program_times.is_empty() {
        programs(&mut text, &results.program_times)?;
    }
    if let Some(micro) = &results.micro {
        decisions(&mut text, micro)?;
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
        "{}, `{}`, commit {}; {}, Linux {}, {} in every namespace. Medians of {} repeats in turn, \
         order {}.\n",
        environment.date,
        command.collect::<Vec<_>>().join(" "),
        if environment.commit.is_empty() { "unknown" } else { &environment.commit },
        escape(&environment.machine),
        environment.kernel,
        environment.congestion_control,
        results.plan.repeats,
        order(results)
    )?;
    let versions = environment.versions().into_iter();
    let versions: Vec<_> =
        versions.map(|(names, version)| format!("{names}: {}", escape(version.trim()))).collect();
    writeln!(text, "Versions: {}.\n", versions.join("; "))?;
    if let Some(who) = the_best_haproxy(results) {
        writeln!(text, "{who}\n")?;
    }
    for (name, missing) in &environment.missing {
        writeln!(text, "**Missing: {name} ({}).**\n", escape(&missing.reason))?;
    }
    for notice in notices(results) {
        writeln!(text, "**{}**\n", escape(&notice))?;
    }
    Ok(())
}

/// The tables of one suite, folded: workloads that show the same metrics share one.
fn details(text: &mut String, results: &Results, subject: &str, suite: &[Planned]) -> fmt::Result {
    let has_values = |name: &&str| {
        let mut places = suite.iter().flat_map(|planned| shown(planned).map(move |place| (planned, place.0)));
        places.any(|(planned, column)| results.spread(planned, name, column).is_some())
            || suite.iter().any(|planned| blank(results, planned, name) == "failed")
    };
    let references: Vec<_> = results.references().into_iter().filter(|name| has_values(name)).collect();
    let tally = (!references.is_empty()).then(|| {
        let tally = Tally::of(suite, |planned, column| {
            results.ratio_to_reference(planned, subject, column).map(|(_, ratio)| ratio)
        });
        format!(": {} beside {}", tally.to_string().replace("**", ""), the_best(&references))
    });
    let name = escape(&suite[0].suite);
    writeln!(text, "<details><summary>{name}{}</summary>\n", tally.unwrap_or_default())?;
    let direct = results.plan.contestants.iter().map(String::as_str).filter(|name| *name == DIRECT);
    let others = results.other_paths().chain(results.peers()).chain(direct);
    let others: Vec<_> = others.filter(has_values).collect();
    let shows_the_same =
        |one: &Planned, next: &Planned| shown(one).map(|place| place.1).eq(shown(next).map(|place| place.1));
    for group in suite.chunk_by(shows_the_same) {
        table(text, results, (subject, &others), group)?;
    }
    for taken in results.ours().filter_map(|name| paths_taken(results, suite, name)) {
        writeln!(text, "- {taken}")?;
    }
    writeln!(text, "\n</details>")
}

/// A row a workload, a line of it a metric.
fn table(
    text: &mut String,
    results: &Results,
    (subject, others): (&str, &[&str]),
    group: &[Planned],
) -> fmt::Result {
    let titles: Vec<_> = shown(&group[0]).map(|(_, metric)| escape(&metric.title)).collect();
    let references: Vec<_> = results.references().into_iter().filter(|name| others.contains(name)).collect();
    let ratio_title = match references.is_empty() {
        true => String::new(),
        false => format!(" {subject} : {} |", the_best(&references)),
    };
    let names: Vec<_> = std::iter::once(&subject).chain(others).copied().collect();
    writeln!(text, "| {} | {} |{ratio_title}", titles.join("<br>"), names.join(" | "))?;
    writeln!(text, "|---|{}", "---:|".repeat(names.len() + usize::from(!references.is_empty())))?;
    for planned in group {
        write!(text, "| {} |", escape(&planned.title))?;
        for name in &names {
            let lines = shown(planned).map(|place| value(results, planned, [subject, name], place));
            write!(text, " {} |", lines.collect::<Vec<_>>().join("<br>"))?;
        }
        if let Some(usual) = references.first() {
            let lines = shown(planned)
                .map(|(column, _)| ratio_text(results.ratio_to_reference(planned, subject, column), usual));
            write!(text, " {} |", lines.collect::<Vec<_>>().join("<br>"))?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

/// How long BPF programs ran, folded.
fn programs(text: &mut String, times: &[ProgramTimes]) -> fmt::Result {
    let counts = tally(times).map(|([held, .., missed, unknown], _)| (held, held + missed + unknown));
    let aim = counts.map(|(held, all)| format!(": {held} of {all} hold the aim of {AIM} s/GB"));
    let (aim, table) = (aim.unwrap_or_default(), programs_table(times));
    writeln!(text, "<details><summary>{PROGRAMS_TITLE}{aim}</summary>\n\n{METHOD}\n\n{table}\n</details>")
}

/// What decisions take by themselves, folded.
fn decisions(text: &mut String, micro: &Micro) -> fmt::Result {
    let aims: Vec<_> = micro.shown().filter(|(_, has_aim)| *has_aim).map(|(case, _)| case).collect();
    let held = aims.iter().filter(|case| case.is_below_aim()).count();
    writeln!(
        text,
        "<details><summary>micro: {held} of {} decisions with the aim of {:.0} µs hold it</summary>",
        aims.len(),
        AIM_NS / 1e3
    )?;
    micro_table(text, micro.shown())?;
    writeln!(text, "\n</details>")
}

/// A median, and what lb is beside it; in the column of another path of lb, what that path is beside the best HAProxy, if there is one.
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
    let to_reference = || results.ratio_to_reference(planned, name, place.0).map(|(_, ratio)| ratio);
    let ratio = Some(name).filter(|name| is_lb(name)).and_then(|_| to_reference());
    let ratio = ratio.or_else(|| results.ratio(planned, [subject, name], place.0));
    match ratio {
        Some(Ok(ratio)) if ratio.verdict == Verdict::Worse => format!("**{median} {}**", sign(ratio.verdict)),
        Some(Ok(ratio)) => format!("{median} {}", sign(ratio.verdict)),
        Some(Err(_)) => format!("{median} ?"),
        None => median,
    }
}

fn median(results: &Results, planned: &Planned, name: &str, (column, metric): (usize, &Metric)) -> String {
    let spread = results.spread(planned, name, column);
    spread.map_or_else(|| blank(results, planned, name), |spread| metric.show(spread.median))
}

fn ratio_text(ratio: Option<(&str, Result<Ratio, NoRatio>)>, usual: &str) -> String {
    match ratio {
        None => "–".to_owned(),
        Some((_, Err(reason))) => reason.to_string(),
        Some((reference, Ok(Ratio { spread, verdict }))) => {
            let text = format!("{:.2}{}", spread.median, to_other(reference, usual));
            if verdict == Verdict::Worse { format!("**{text}**") } else { text }
        }
    }
}

/// What tables show of a workload: columns with their places.
fn shown(planned: &Planned) -> impl Iterator<Item = (usize, &Metric)> {
    planned.columns.iter().enumerate().filter(|(_, metric)| metric.role == Role::Shown)
}

/// What counts for wins and losses.
fn counted(planned: &Planned) -> impl Iterator<Item = (usize, &Metric)> {
    planned.columns.iter().enumerate().filter(|(_, metric)| metric.role != Role::Aside)
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
            "| bulk | **▼ 2** ? 1 | ▲ 2 ? 1 |",
            "- **▼ download &lt;1>**: Gb/s: 2.0; haproxy 2.5 (0.80) · CPU, s/GB: 0.5; haproxy 0.4 (1.25)\n",
            "<details><summary>bulk: ▼ 2 ? 1 beside haproxy</summary>",
            "| Gb/s<br>CPU, s/GB | lb-auto | haproxy | nginx | direct | lb-auto : haproxy |",
            "| download &lt;1> | 2.0<br>0.5 | **2.5 ▼**<br>**0.4 ▼** | 1.5 ▲<br>0.7 ▲ | 9.0<br>– | **0.80**<br>**1.25** |",
            "order drawn anew for each repeat of each workload, from seed 7.",
            "2030-01-02 03:04 UTC, `cargo xtask bench --quick <all> --update-readme`",
            "cubic in every namespace",
            "haproxy: HAProxy 1 &amp; 2 \\| 3",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }

    #[test]
    fn what_is_not_shown_counts_and_what_is_aside_does_not() {
        let mut results = results(&[("lb-auto", &STEADY), ("haproxy", &[2.5; 6])]);
        let columns = &mut results.plan.workloads[0].columns;
        (columns[0].role, columns[1].role) = (Role::Counted, Role::Aside);
        let text = summary(&results).unwrap();
        assert!(text.contains("| bulk | **▼ 1** |"), "{text}");
        assert!(text.contains("- **▼ download &lt;1>**: Gb/s: 2.0; haproxy 2.5 (0.80)\n"), "{text}");
    }

    #[test]
    fn every_path_and_the_best_haproxy_are_there() {
        let mut results = results(&[
            ("lb-auto", &STEADY),
            ("lb-copy", &[1.0; 6]),
            ("haproxy", &[2.5; 6]),
            ("haproxy-splice", &[4.0; 6]),
        ]);
        results.samples[0].paths.insert("splice".to_owned(), 1);
        let of_copy = results.samples.iter_mut().find(|record| record.contestant == "lb-copy").unwrap();
        of_copy.paths.insert("copy".to_owned(), 1);
        let missing = crate::environment::Missing { reason: "no nginx".to_owned(), install: String::new() };
        results.plan.environment.missing.insert("nginx".to_owned(), missing);
        let text = summary(&results).unwrap();
        for needle in [
            "| lb-auto beside | haproxy | haproxy-splice |",
            "| lb-auto | lb-copy | haproxy | haproxy-splice | lb-auto : the best HAProxy |",
            "| **0.50 to haproxy-splice**<br>**2.00 to haproxy-splice** |",
            "**Missing: nginx (no nginx).**",
            "- Bytes of lb-auto went by splice 100.0 %.\n- Bytes of lb-copy went by copy 100.0 %.\n",
            "The best HAProxy is in each number the one with the best median of haproxy, haproxy-splice;",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
    }

    #[test]
    fn who_failed_is_named_with_the_reason() {
        let mut results = results(&[("lb-auto", &STEADY), ("sozu", &[])]);
        results.failures.push(crate::results::Failure {
            workload: "download <1>".to_owned(),
            contestant: "sozu".to_owned(),
            repeat: 3,
            reason: "it ended".to_owned(),
        });
        results.micro = Some(crate::micro::tests::micro());
        results.program_times = [600, 900].map(crate::programs::tests::times).to_vec();
        let text = summary(&results).unwrap();
        assert!(text.contains("packet: time in BPF programs: 1 of 2 hold the aim of 0.02 s/GB"), "{text}");
        assert!(text.contains("| lb-packet: download &lt;1> | 850 | 50 |"), "{text}");
        assert!(text.contains("**Failed: sozu in download &lt;1> (samples: 1): it ended**"), "{text}");
        assert!(text.contains("| 2.0<br>0.5 | failed<br>failed |"), "{text}");
        assert!(text.contains("micro: 1 of 1 decisions with the aim of 1 µs hold it"), "{text}");
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
