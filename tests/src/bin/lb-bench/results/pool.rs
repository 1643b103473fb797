// SPDX-License-Identifier: MIT OR Apache-2.0
//! Percentiles of the times of all repeats together, where one sample has too few.

use serde::Deserialize as _;

use super::{Planned, Record, Results};
use crate::load::Tail;

impl Results {
    /// The percentile of a contestant's times in all repeats together, in microseconds; `None` if the column is none, a sample has not
    /// kept its longest times, or all together are too few.
    pub(super) fn pooled(&self, planned: &Planned, contestant: &str, column: usize) -> Option<f64> {
        let per_mille = planned.columns.get(column)?.pooled_per_mille?;
        let own = self
            .samples
            .iter()
            .filter(|record| record.workload == planned.title && record.contestant == contestant);
        let tails: Option<Vec<_>> = own.map(tail).collect();
        Tail::percentile(&tails?, per_mille)
    }
}

fn tail(record: &Record) -> Option<Tail> {
    Tail::deserialize(record.sample.get("outcome")?.get("tail")?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::results::tests::results;

    #[test]
    fn a_percentile_of_all_repeats_stands_in_for_that_of_each() {
        let mut results = results(&[("lb-auto", &[1.0; 4]), ("haproxy", &[1.0; 4])]);
        results.plan.workloads[0].columns[0].pooled_per_mille = Some(999);
        let own = results.samples.iter_mut().filter(|record| record.contestant == "lb-auto");
        for (index, record) in own.enumerate() {
            let longest_us: Vec<_> = (0..50).map(|rank| f64::from(1_000 - 4 * rank - index as i32)).collect();
            record.sample = json!({ "outcome": { "tail": { "count": 5_000, "longest_us": longest_us } } });
        }
        let planned = results.plan.workloads[0].clone();
        // Each has a value of its own still.
        assert_eq!(results.spread(&planned, "lb-auto", 0).unwrap().median, 1.0);
        for record in &mut results.samples {
            record.values[0] = None;
        }
        let spread = results.spread(&planned, "lb-auto", 0).unwrap();
        // Of 20,000, twenty lie beyond it.
        assert_eq!((spread.median, spread.min, spread.max), (980.0, 980.0, 980.0));
        assert_eq!(results.ratio(&planned, ["lb-auto", "haproxy"], 0), None, "one number has no pairs");
        assert_eq!(results.spread(&planned, "haproxy", 0), None, "no tail was kept");
        assert_eq!(results.spread(&planned, "lb-auto", 1).unwrap().median, 1.0);
        results.samples.remove(0);
        assert_eq!(results.spread(&planned, "lb-auto", 0), None, "15,000 are too few");
    }
}
