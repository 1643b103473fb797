// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long BPF programs ran, as a table in Markdown.

use super::{counts_text, escape};
use crate::programs::{AIM_TEXT, COLUMNS, ProgramTimes, tally};

/// What stands above the table, wherever it is.
pub const TITLE: &str = "packet: time in BPF programs";

/// A row a sample; empty if there is none.
pub fn programs_table(times: &[ProgramTimes]) -> String {
    if times.is_empty() {
        return String::new();
    }
    let titles: Vec<_> = COLUMNS.iter().map(|column| column.title).collect();
    let row = |times: &ProgramTimes| {
        let cells: Vec<_> = COLUMNS.iter().map(|column| column.show(times)).collect();
        format!("| {} | {} |\n", escape(&times.place()), cells.join(" | "))
    };
    let rows: String = times.iter().map(row).collect();
    format!("| {TITLE} | {} |\n|---|{}\n{rows}", titles.join(" | "), "---:|".repeat(COLUMNS.len()))
}

/// The row of their aim, if there is a sample that it is for.
pub fn programs_aim(times: &[ProgramTimes]) -> Option<String> {
    let (counts, worst) = tally(times)?;
    let seconds = worst.seconds_per_gigabyte()?;
    Some(format!("| {AIM_TEXT} | {} | {seconds:.4}: {} |\n", counts_text(counts), escape(&worst.place())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::tests::times;

    #[test]
    fn each_sample_is_a_row_and_the_aim_names_the_worst() {
        let all = [times(600), times(900)];
        let table = programs_table(&all);
        for row in [
            "| packet: time in BPF programs | coming in, ns/packet | going out, ns/packet | packets/GB |",
            "| lb-packet: download &lt;1> | 550 | 50 | 25000 | 0.0150 | – | – |",
            "| lb-packet: download &lt;1> | 850 | 50 | 25000 | 0.0225 | – | – |",
        ] {
            assert!(table.contains(row), "{row}: {table}");
        }
        let aim = "| time in the BPF programs of path packet: at most 0.02 CPU-seconds per GB | ▲ 1 **▼ 1** | \
                   0.0225: lb-packet: download &lt;1> |\n";
        assert_eq!(programs_aim(&all).as_deref(), Some(aim));
        assert_eq!((programs_table(&[]), programs_aim(&[])), (String::new(), None));
    }
}
