// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether aims are held: a row an aim, and folded under them a row a number.

use maud::{Markup, html};

use super::{anchor, programs};
use crate::markdown::{place, ratio};
use crate::programs::tally;
use crate::results::Results;
use crate::results::aims::{Finding, Judgement, Outcome, judge};

/// Looks of outcomes, by [`Outcome::index`].
const CLASSES: [&str; 4] = ["better", "level", "worse", "none"];

/// The tables; nothing if nothing was measured that an aim is about.
pub(super) fn aims(results: &Results) -> Markup {
    let judgements = judge(results);
    if judgements.is_empty() && tally(&results.program_times).is_none() {
        return html! {};
    }
    html! {
        section {
            h2 { "What lb aims at" }
            p.method {
                "In each number that an aim is about: ▲ it is held, = the least of it is held, ▼ it is missed, ? the spread says too \
                 little. Decisions have an aim of their own, under micro."
            }
            div.scroll { table.overview.aims {
                thead { tr { th { "aim" } th { "numbers" } th { "the worst ratio" } } }
                tbody { @for judgement in &judgements {
                    tr {
                        th { (judgement.aim.text) }
                        td { (signs(judgement.counts())) }
                        td.where { @if let Some(worst) = judgement.worst() { (number(judgement, worst)) } }
                    }
                } (programs::aim(&results.program_times)) }
            } }
            @if judgements.iter().any(|judgement| judgement.notable().next().is_some()) {
                details {
                    summary { "Each number that an aim is about" }
                    div.scroll { table.overview.aims { @for judgement in &judgements { (findings(judgement)) } } }
                }
            }
        }
    }
}

/// Signs with how often each is deserved.
pub(super) fn signs(counts: [usize; 4]) -> Markup {
    html! {
        @for (index, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            span.(CLASSES[index]) { (Outcome::SIGNS[index]) " " (count) } " "
        }
    }
}

/// One aim with its numbers, as a part of a table; nothing if none has to be seen.
fn findings(judgement: &Judgement<'_>) -> Markup {
    html! {
        @if judgement.notable().next().is_some() {
            tbody {
                tr.group { th colspan="2" { (judgement.aim.text) } }
                @for finding in judgement.notable() {
                    @let index = finding.outcome.index();
                    tr {
                        th.where { (number(judgement, finding)) }
                        td { span.(CLASSES[index]) { (Outcome::SIGNS[index]) " " (finding.outcome) } }
                    }
                }
            }
        }
    }
}

/// A ratio, and the figure with the samples.
fn number(judgement: &Judgement<'_>, finding: &Finding<'_>) -> Markup {
    html! {
        a href=(format!("#{}", anchor(finding.place))) { (place(judgement, finding)) }
        " " span.range { (ratio(finding)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[test]
    fn every_aim_is_a_row_and_leads_to_its_numbers() {
        let mut results = results(&[("lb-splice", &[2.0; 6]), ("haproxy", &[2.5; 6])]);
        results.plan.workloads[0].columns[0].title = "GB/CPU-second".to_owned();
        let page = aims(&results).into_string();
        for needle in [
            "bytes per CPU-second of lb-splice",
            r#"<span class="worse">▼ 1</span>"#,
            r##"<a href="#w0c0">download &lt;1&gt;</a>"##,
            "0.80 (0.80–0.80) to haproxy",
            r#"<span class="worse">▼ missed</span>"#,
        ] {
            assert!(page.contains(needle), "{needle}: {page}");
        }
        results.plan.workloads.clear();
        assert_eq!(aims(&results).into_string(), "");
    }
}
