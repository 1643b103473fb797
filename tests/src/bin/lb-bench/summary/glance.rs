// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a reader in haste sees: whether aims are held, where lb wins and loses, and in what it loses.

use std::fmt::{self, Write as _};

use super::{counted, median};
use crate::markdown::{aims_table, counts_text, escape, findings_table, the_best};
use crate::results::aims::judge;
use crate::results::{Metric, Planned, Results};
use crate::statistics::{NoRatio, Ratio, Verdict};

/// How often lb wins and loses against somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    better: usize,
    level: usize,
    worse: usize,
    unknown: usize,
}

/// All of it.
pub(super) fn glance(text: &mut String, results: &Results, subject: &str) -> fmt::Result {
    aims(text, results)?;
    let [peers, other_paths]: [Vec<_>; 2] = [results.peers().collect(), results.other_paths().collect()];
    if peers.is_empty() && other_paths.is_empty() {
        return Ok(());
    }
    let references = results.references();
    let best = the_best(&references);
    legend(text, subject, Some(&*best).filter(|_| !references.is_empty() && !other_paths.is_empty()))?;
    if !peers.is_empty() {
        let beside_peers = |suite: &[Planned], peer: &str| {
            Tally::of(suite, |planned, column| results.ratio(planned, [subject, peer], column))
        };
        tallies(text, results, (&format!("{subject} beside"), &peers), beside_peers)?;
        losses(text, results, subject)?;
    }
    if references.is_empty() || other_paths.is_empty() {
        return Ok(());
    }
    let beside_the_best = |suite: &[Planned], path: &str| {
        Tally::of(suite, |planned, column| Some(results.ratio_to_reference(planned, path, column)?.1))
    };
    tallies(text, results, (&format!("beside {best}"), &other_paths), beside_the_best)?;
    losses_of_paths(text, results, (&best, &other_paths))
}

/// What marks say; where other paths of lb have marks of their own, beside whom.
fn legend(text: &mut String, subject: &str, best: Option<&str>) -> fmt::Result {
    let of_paths = best.map(|best| {
        format!(
            " In the column of another path of lb, a mark says what that path is beside {best}, or, where none took part, what \
             {subject} is beside that path."
        )
    });
    writeln!(
        text,
        "▲ {subject} is better, = no difference that matters, **▼ {subject} is worse**, ? the spread says too little; a number says \
         how often, over all that was measured, also what the tables below leave out.{}\n",
        of_paths.unwrap_or_default()
    )
}

/// What lb aims at, and each number that an aim is about, folded.
fn aims(text: &mut String, results: &Results) -> fmt::Result {
    let judgements = judge(results);
    let Some(table) = aims_table(results, &judgements) else { return Ok(()) };
    writeln!(text, "{table}")?;
    let findings = findings_table(&judgements);
    if findings.is_empty() {
        return Ok(());
    }
    writeln!(text, "<details><summary>each number that an aim is about</summary>\n{findings}\n</details>\n")
}

/// A row a suite in which something can be compared, a column a name.
fn tallies(
    text: &mut String,
    results: &Results,
    (title, names): (&str, &[&str]),
    tally: impl Fn(&[Planned], &str) -> Tally,
) -> fmt::Result {
    writeln!(text, "| {title} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()))?;
    for suite in results.plan.workloads.chunk_by(|one, next| one.suite == next.suite) {
        let tallies: Vec<_> = names.iter().map(|name| tally(suite, name)).collect();
        if tallies.iter().all(|tally| *tally == Tally::default()) {
            continue;
        }
        let cells: Vec<_> = tallies.iter().map(Tally::to_string).collect();
        writeln!(text, "| {} | {} |", escape(&suite[0].suite), cells.join(" | "))?;
    }
    writeln!(text)
}

/// Everything in which lb loses to somebody, with the ratios, by workload.
fn losses(text: &mut String, results: &Results, subject: &str) -> fmt::Result {
    let peers: Vec<_> = results.peers().collect();
    let lines = losses_of(results, subject, |_, _| peers.clone());
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(text, "Where {subject} loses, with the ratio to each that is better:\n\n{}", lines.concat())
}

/// The same for the other paths of lb beside the best HAProxy, folded.
fn losses_of_paths(text: &mut String, results: &Results, (best, paths): (&str, &[&str])) -> fmt::Result {
    let reference =
        |planned: &Planned, column: usize| results.reference(planned, column).into_iter().collect();
    for path in paths {
        let lines = losses_of(results, path, reference);
        if !lines.is_empty() {
            writeln!(
                text,
                "<details><summary>Where {path} loses to {best}: workloads: {}</summary>\n\n{}\n</details>",
                lines.len(),
                lines.concat()
            )?;
        }
    }
    writeln!(text)
}

/// A line a workload in which a contestant loses to one of those whom it is held against there.
fn losses_of<'results>(
    results: &'results Results,
    name: &str,
    against: impl Fn(&'results Planned, usize) -> Vec<&'results str>,
) -> Vec<String> {
    let line = |planned: &'results Planned| {
        let lost = counted(planned)
            .filter_map(|place| loss(results, planned, (name, &against(planned, place.0)), place));
        let lost: Vec<_> = lost.collect();
        (!lost.is_empty()).then(|| format!("- **▼ {}**: {}\n", escape(&planned.title), lost.join(" · ")))
    };
    results.plan.workloads.iter().filter_map(line).collect()
}

/// A column in which a contestant loses to somebody.
fn loss(
    results: &Results,
    planned: &Planned,
    (name, against): (&str, &[&str]),
    place: (usize, &Metric),
) -> Option<String> {
    let winners = against.iter().filter_map(|peer| {
        let Ratio { spread, verdict } = results.ratio(planned, [name, peer], place.0)?.ok()?;
        let median = median(results, planned, peer, place);
        (verdict == Verdict::Worse).then(|| format!("{peer} {median} ({:.2})", spread.median))
    });
    let winners: Vec<_> = winners.collect();
    let own = median(results, planned, name, place);
    (!winners.is_empty()).then(|| format!("{}: {own}; {}", escape(&place.1.title), winners.join(", ")))
}

impl Tally {
    pub(super) fn of(
        workloads: &[Planned],
        ratio: impl Fn(&Planned, usize) -> Option<Result<Ratio, NoRatio>>,
    ) -> Self {
        let mut tally = Self::default();
        for planned in workloads {
            for (column, _) in counted(planned) {
                match ratio(planned, column) {
                    Some(Ok(Ratio { verdict: Verdict::Better, .. })) => tally.better += 1,
                    Some(Ok(Ratio { verdict: Verdict::Level, .. })) => tally.level += 1,
                    Some(Ok(Ratio { verdict: Verdict::Worse, .. })) => tally.worse += 1,
                    Some(Err(_)) => tally.unknown += 1,
                    None => {}
                }
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&counts_text([self.better, self.level, self.worse, self.unknown]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary;
    use crate::results::tests::results;

    #[test]
    fn where_another_path_loses_to_the_best_haproxy_it_is_said() {
        // lb-auto wins against both; lb-sockmap wins against one of them.
        let text = summary(&results(&[
            ("lb-auto", &[3.0; 6]),
            ("lb-sockmap", &[2.2; 6]),
            ("lb-copy", &[2.6; 6]),
            ("haproxy", &[2.0; 6]),
            ("haproxy-new", &[2.5; 6]),
        ]));
        let text = text.unwrap();
        for needle in [
            "| beside the best HAProxy | lb-sockmap | lb-copy |\n|---|---|---|\n| bulk | **▼ 2** | ▲ 2 |\n",
            "<details><summary>Where lb-sockmap loses to the best HAProxy: workloads: 1</summary>\n\n- **▼ download &lt;1>**: \
             Gb/s: 2.2; haproxy-new 2.5 (0.88) · CPU, s/GB: 0.5; haproxy-new 0.4 (1.14)\n",
            "| 3.0<br>0.3 | **2.2 ▼**<br>**0.5 ▼** | 2.6 ▲<br>0.4 ▲ | 2.0 ▲<br>0.5 ▲ | 2.5 ▲<br>0.4 ▲ |",
            "In the column of another path of lb, a mark says what that path is beside the best HAProxy, or",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
        assert!(!text.contains("lb-auto loses") && !text.contains("Where lb-copy loses"), "{text}");
    }

    #[test]
    fn without_haproxy_marks_say_what_lb_is_beside_its_other_paths() {
        let text = summary(&results(&[("lb-auto", &[2.0; 6]), ("lb-copy", &[1.0; 6]), ("nginx", &[1.0; 6])]));
        let text = text.unwrap();
        assert!(text.contains("| 2.0<br>0.5 | 1.0 ▲<br>1.0 ▲ | 1.0 ▲<br>1.0 ▲ |"), "{text}");
        assert!(!text.contains("another path") && !text.contains("HAProxy is"), "{text}");
    }

    #[test]
    fn aims_come_before_all_else() {
        let mut results = results(&[
            ("lb-auto", &[3.0; 6]),
            ("lb-splice", &[2.2; 6]),
            ("lb-sockmap", &[2.0; 6]),
            ("haproxy", &[2.5; 6]),
        ]);
        results.plan.workloads[0].columns[0].title = "GB/CPU-second".to_owned();
        results.micro = Some(crate::micro::tests::micro());
        let text = summary(&results).unwrap();
        for needle in [
            "| bytes per CPU-second of lb-splice: level with the best HAProxy at least | **▼ 1** | \
             0.88 (0.88–0.88) to haproxy: download &lt;1> |\n",
            "| all that counts of lb-auto: not worse than the better of lb-splice and lb-sockmap | ▲ 2 | ",
            "each | ▲ 1 | 100 ns: route/exact-among-10 |\n",
            "| download &lt;1> | 0.88 (0.88–0.88) to haproxy | **▼ missed** |\n",
        ] {
            assert!(text.contains(needle), "{needle}: {text}");
        }
        let place = |needle| text.find(needle).unwrap();
        assert!(place("| aim | numbers |") < place("| lb-auto beside |"), "{text}");
        assert!(place("<details><summary>each number") < place("| lb-auto beside |"), "{text}");
    }
}
