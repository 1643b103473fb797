// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where lb wins and where it loses, at once: every metric that counts, of every workload, the worst first.

use maud::{Markup, html};

use super::{anchor, class, ratio_text, sign};
use crate::markdown::{the_best, to_other};
use crate::results::{DIRECT, Metric, Planned, Results};
use crate::statistics::{Better, NoRatio, Ratio, Verdict};
use crate::suite::Role;

/// The advantage whose bar is as long as there is room.
const ADVANTAGE_MAX: f64 = 2.0;

/// Half of the width of the bars' drawing.
const BAR: f64 = 50.0;

/// One metric of one workload.
struct Row<'results> {
    planned: &'results Planned,
    metric: &'results Metric,
    place: (usize, usize),
    reference: &'results str,
    ratio: Result<Ratio, NoRatio>,
}

/// Rows by verdict: what lb does there, and a word for it.
const GROUPS: [(Option<Verdict>, &str, &str); 4] = [
    (Some(Verdict::Worse), "loses to", "worse"),
    (Some(Verdict::Better), "wins against", "better"),
    (Some(Verdict::Level), "is level with", "level"),
    (None, "", "without a ratio"),
];

/// lb as it is compared at a glance; nothing if lb or HAProxy did not take part.
pub(super) fn overview(results: &Results) -> Markup {
    let references = results.references();
    let (Some(subject), false) = (results.subject(), references.is_empty()) else {
        return html! { p.notice { "Without lb and HAProxy there is nothing to compare at a glance." } };
    };
    let rows = rows(results, subject);
    let others = results.peers().chain(direct(results));
    // With several references, each of them may not be the best one somewhere.
    let others: Vec<_> = others.filter(|name| references != [*name]).collect();
    html! {
        section {
            h2 { (subject) " beside " (the_best(&references)) ", at a glance" }
            p.counts { (counts(&rows)) }
            (table(results, (subject, &references), &rows, &others))
        }
    }
}

/// Each of the other paths of lb, folded, the summary saying how often it loses; nothing without HAProxy.
pub(super) fn other_paths(results: &Results) -> Markup {
    let references = results.references();
    if references.is_empty() {
        return html! {};
    }
    let direct: Vec<_> = direct(results).collect();
    html! {
        @for path in results.other_paths() {
            @let rows = rows(results, path);
            @if !rows.is_empty() {
                details {
                    summary { (path) " beside " (the_best(&references)) " " (counts(&rows)) }
                    (table(results, (path, &references), &rows, &direct))
                }
            }
        }
    }
}

/// Nobody, if it did not take part.
fn direct(results: &Results) -> impl Iterator<Item = &str> {
    results.plan.contestants.iter().map(String::as_str).filter(|name| *name == DIRECT)
}

/// How many rows have each verdict.
fn counts(rows: &[Row<'_>]) -> Markup {
    html! {
        @for (verdict, _, word) in GROUPS {
            @let count = rows.iter().filter(|row| row.verdict() == verdict).count();
            span.chip.(verdict.map_or("none", class)) { b { (count) } " " (word) }
            " "
        }
    }
}

/// Rows with a ratio in groups, and folded those without.
fn table(
    results: &Results,
    (subject, references): (&str, &[&str]),
    rows: &[Row<'_>],
    others: &[&str],
) -> Markup {
    let reference = the_best(references);
    let head = head([subject, &reference], others);
    html! {
        div.scroll { table.overview {
            (head)
            @for (verdict, words, _) in GROUPS.iter().filter(|(verdict, ..)| verdict.is_some()) {
                @let own: Vec<_> = rows.iter().filter(|row| row.verdict() == *verdict).collect();
                @if !own.is_empty() {
                    tbody {
                        tr.group { th colspan=(3 + others.len()) {
                            (verdict.map_or("?", sign)) " " (subject) " " (words) " " (reference) ": " (own.len())
                        } }
                        @for row in own { (row.show(results, subject, references[0], others)) }
                    }
                }
            }
        } }
        details {
            summary { "? Without a ratio, and why" }
            div.scroll { table.overview {
                (head)
                tbody { @for row in rows.iter().filter(|row| row.verdict().is_none()) {
                    (row.show(results, subject, references[0], others))
                } }
            } }
        }
    }
}

fn head([subject, reference]: [&str; 2], others: &[&str]) -> Markup {
    html! {
        thead { tr {
            th { "workload and metric" }
            th colspan="2" { (subject) " to " (reference) }
            @for other in others { th { "to " (other) } }
        } }
    }
}

/// Where both have values; the worst first, those without a ratio last.
fn rows<'results>(results: &'results Results, subject: &str) -> Vec<Row<'results>> {
    let mut rows = Vec::new();
    for (workload, planned) in results.plan.workloads.iter().enumerate() {
        for (column, metric) in planned.columns.iter().enumerate() {
            if metric.role == Role::Aside {
                continue;
            }
            let Some((reference, ratio)) = results.ratio_to_reference(planned, subject, column) else {
                continue;
            };
            rows.push(Row { planned, metric, place: (workload, column), reference, ratio });
        }
    }
    rows.sort_by(|one, other| one.advantage().total_cmp(&other.advantage()));
    rows
}

impl Row<'_> {
    fn verdict(&self) -> Option<Verdict> {
        self.ratio.as_ref().ok().map(|ratio| ratio.verdict)
    }

    fn advantage(&self) -> f64 {
        self.ratio.as_ref().map_or(f64::INFINITY, |ratio| ratio.advantage(self.metric.better()))
    }

    fn show(&self, results: &Results, subject: &str, usual: &str, others: &[&str]) -> Markup {
        html! {
            tr {
                th { a href=(format!("#{}", anchor(self.place))) { (self.planned.title) ": " (self.metric.title) } }
                td.picture { @if self.verdict().is_some() { (bar(self.advantage())) } }
                td.own { (ratio_text(Some(self.ratio))) (to_other(self.reference, usual)) }
                @for other in others {
                    td data-to=(other) { (short(results.ratio(self.planned, [subject, other], self.place.1))) }
                }
            }
        }
    }
}

/// A ratio without its range, for a reader in haste.
fn short(ratio: Option<Result<Ratio, NoRatio>>) -> Markup {
    match ratio {
        Some(Ok(Ratio { spread, verdict })) => {
            html! { span.(class(verdict)) { (sign(verdict)) " " (format!("{:.2}", spread.median)) } }
        }
        Some(Err(reason)) => html! { span.none title=(reason) { "?" } },
        None => html! { span.none { "–" } },
    }
}

/// To the right from the middle where lb is better, to the left where it is worse; logarithmic.
fn bar(advantage: f64) -> Markup {
    let length = (advantage.ln() / ADVANTAGE_MAX.ln()).clamp(-1.0, 1.0) * BAR;
    let side = if length < 0.0 { "worse" } else { "better" };
    html! {
        svg.bar viewBox=(format!("0 0 {} 12", 2.0 * BAR)) aria-hidden="true" {
            rect.(side) x=(format!("{:.1}", BAR + length.min(0.0))) y="2" width=(format!("{:.1}", length.abs())) height="8" {}
            line x1=(BAR) x2=(BAR) y1="0" y2="12" {}
        }
    }
}

/// Which way is better, in words.
pub(super) fn direction(better: Better) -> &'static str {
    match better {
        Better::High => "higher is better →",
        Better::Low => "← lower is better",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn the_worst_comes_first_and_what_cannot_be_compared_last() {
        let mut results = results(&[("lb-auto", &[2.0; 6]), ("haproxy", &[2.2; 6])]);
        // The cost is the inverse of the rate: as much worse; a second workload is better.
        let mut second = results.plan.workloads[0].clone();
        second.title = "better".to_owned();
        results.plan.workloads.push(second);
        for mut record in results.samples.clone() {
            record.workload = "better".to_owned();
            record.values[0] = Some(if record.contestant == "lb-auto" { 3.0 } else { 2.0 });
            record.values[1] = None;
            results.samples.push(record);
        }
        let rows = rows(&results, "lb-auto");
        let order: Vec<_> = rows.iter().map(|row| (row.place, row.verdict())).collect();
        let worse = Some(Verdict::Worse);
        assert_eq!(order[..2], [((0, 0), worse), ((0, 1), worse)]);
        assert_eq!(order[2], ((1, 0), Some(Verdict::Better)));
        assert!(order[3..].iter().all(|(_, verdict)| verdict.is_none()), "{order:?}");
        let page = overview(&results).into_string();
        assert!(page.contains("▼ lb-auto loses to haproxy: 2"), "{page}");
    }

    #[test]
    fn every_other_path_is_there_beside_the_best_haproxy() {
        let results = results(&[
            ("lb-auto", &[2.0; 6]),
            ("lb-sockmap", &[2.2; 6]),
            ("haproxy", &[2.0; 6]),
            ("haproxy-new", &[2.5; 6]),
        ]);
        let page = other_paths(&results).into_string();
        assert!(page.contains("lb-sockmap beside the best HAProxy"), "{page}");
        assert!(page.contains("▼ lb-sockmap loses to the best HAProxy: 2"), "{page}");
        assert!(page.contains("0.88–0.88</span> to haproxy-new"), "{page}");
        assert!(!page.contains("lb-auto") && !page.contains("to direct"), "{page}");
    }

    #[test]
    fn bars_go_to_the_side_of_the_winner_and_never_too_far() {
        let bar = |advantage| bar(advantage).into_string();
        assert!(bar(2.0).contains(r#"class="better" x="50.0" y="2" width="50.0""#), "{}", bar(2.0));
        assert!(bar(0.01).contains(r#"class="worse" x="0.0" y="2" width="50.0""#), "{}", bar(0.01));
        assert!(bar(1.0).contains(r#"width="0.0""#));
    }
}
