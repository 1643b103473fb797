// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long BPF programs ran, as a table of the page.

use maud::{Markup, html};

use super::aims::signs;
use crate::programs::{AIM_TEXT, COLUMNS, METHOD, ProgramTimes, tally};

/// Where the page has it.
const ANCHOR: &str = "programs";

/// A row a sample; nothing if there is none.
pub(super) fn programs(times: &[ProgramTimes]) -> Markup {
    html! {
        @if !times.is_empty() {
            section {
                h2 id=(ANCHOR) { (crate::markdown::PROGRAMS_TITLE) }
                p.method { (METHOD) }
                div.scroll { table.overview {
                    thead { tr { th { "workload" } @for column in &COLUMNS { th { (column.title) } } } }
                    tbody { @for times in times {
                        tr { th { (times.place()) } @for column in &COLUMNS { td { (column.show(times)) } } }
                    } }
                } }
            }
        }
    }
}

/// The row of their aim; nothing if there is no sample that it is for.
pub(super) fn aim(times: &[ProgramTimes]) -> Markup {
    html! {
        @if let Some((counts, worst)) = tally(times) {
            tr {
                th { (AIM_TEXT) }
                td { (signs(counts)) }
                td.where {
                    a href=(format!("#{ANCHOR}")) { (worst.place()) }
                    " " span.range { (format!("{:.4}", worst.seconds_per_gigabyte().unwrap_or_default())) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::tests::times;

    #[test]
    fn the_aim_leads_to_the_table() {
        let all = [times(600), times(900)];
        let [table, aim] = [programs(&all), aim(&all)].map(Markup::into_string);
        for needle in [r#"<h2 id="programs">"#, "<th>lb-packet: download &lt;1&gt;</th>", "<td>0.0225</td>"] {
            assert!(table.contains(needle), "{needle}: {table}");
        }
        for needle in [r##"<a href="#programs">lb-packet"##, r#"<span class="worse">▼ 1</span>"#, "0.0225"]
        {
            assert!(aim.contains(needle), "{needle}: {aim}");
        }
        assert_eq!(programs(&[]).into_string(), "");
    }
}
