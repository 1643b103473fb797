// SPDX-License-Identifier: MIT OR Apache-2.0
//! One metric of one workload: a row a contestant, the best first.
//!
//! Drawings are as wide as their cell (`preserveAspectRatio="none"`); strokes keep their width all the same, and a dot is the round cap
//! of a line without length, so nothing is distorted. Text is outside of them.

use maud::{Markup, html};

use super::overview::direction;
use super::{anchor, family, ratio_text};
use crate::results::{DIRECT, Metric, Planned, Results, is_lb};
use crate::statistics::{Better, Spread};

/// Width of a drawing in its own units.
const WIDTH: f64 = 1000.0;

/// Marks that an axis has, about.
const MARKS: f64 = 4.0;

/// One contestant.
struct Row<'results> {
    name: &'results str,
    values: Vec<f64>,
    spread: Spread,
}

/// The figure; nothing where nobody has values.
pub(super) fn figure(results: &Results, planned: &Planned, place: (usize, usize)) -> Markup {
    let column = place.1;
    let Some(metric) = planned.columns.get(column) else { return html! {} };
    let rows = rows(results, planned, (column, metric));
    let Some(axis) = Axis::new(rows.iter().flat_map(|row| [row.spread.min, row.spread.max])) else {
        return html! {};
    };
    let against = [
        results.reference(planned, column),
        Some(DIRECT).filter(|name| results.plan.contestants.iter().any(|own| own == name)),
    ];
    html! {
        figure id=(anchor(place)) {
            figcaption { b { (metric.title) } " " span.range { (planned.title) ", " (direction(metric.better())) } }
            table.plot {
                thead { tr {
                    th {} th { (axis.labels()) } th { "median (range)" }
                    @for other in against.into_iter().flatten() { th { "to " (other) } }
                } }
                tbody {
                    @for row in &rows {
                        tr.lb-row[is_lb(row.name)] {
                            th.(family(row.name)) { (row.name) }
                            td.strip.(family(row.name)) { (strip(&axis, row, metric)) }
                            td.median { b { (metric.show(row.spread.median)) } " " span.range {
                                (metric.show(row.spread.min)) "–" (metric.show(row.spread.max))
                            } }
                            @for other in against.into_iter().flatten() {
                                td.ratio data-to=(other) {
                                    @if other != row.name { (ratio_text(results.ratio(planned, [row.name, other], column))) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Those with values, the best first.
fn rows<'results>(
    results: &'results Results,
    planned: &Planned,
    (column, metric): (usize, &Metric),
) -> Vec<Row<'results>> {
    let rows = results.plan.contestants.iter().filter_map(|name| {
        let values: Vec<f64> = results.series(planned, name, column).into_values().collect();
        let spread = results.spread(planned, name, column)?;
        Some(Row { name, values, spread })
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|one, other| one.spread.median.total_cmp(&other.spread.median));
    if metric.better() == Better::High {
        rows.reverse();
    }
    rows
}

/// Samples, range and median of one contestant.
fn strip(axis: &Axis, row: &Row<'_>, metric: &Metric) -> Markup {
    let Spread { median, min, max } = row.spread;
    let x = |value| format!("{:.1}", axis.place(value));
    let label = format!("{}: median {}", row.name, metric.show_spread(row.spread));
    html! {
        svg viewBox=(format!("0 0 {WIDTH} 20")) preserveAspectRatio="none" role="img" aria-label=(label) {
            path.mark d=(uprights(axis, axis.marks(), [0, 20])) {}
            line.reach x1=(x(min)) x2=(x(max)) y1="10" y2="10" {}
            path.sample d=(uprights(axis, row.values.iter().copied(), [3, 17])) {}
            line.dot x1=(x(median)) x2=(x(median)) y1="10" y2="10" {}
        }
    }
}

/// Upright lines as the data of a path.
fn uprights(axis: &Axis, values: impl Iterator<Item = f64>, [top, bottom]: [u32; 2]) -> String {
    values.map(|value| format!("M{:.1} {top}V{bottom}", axis.place(value))).collect()
}

/// From values to places; zero is always on it, so that lengths can be compared.
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let width = high - low;
        if width <= 0.0 {
            return None;
        }
        // Room at the ends for half a dot.
        Some(Self { low: low - 0.02 * width, high: high + 0.02 * width, step: step(width / MARKS) })
    }

    fn place(&self, value: f64) -> f64 {
        WIDTH * (value - self.low) / (self.high - self.low)
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        let (first, last) = ((self.low / self.step).ceil() as i64, (self.high / self.step).floor() as i64);
        (first..=last).map(|index| index as f64 * self.step)
    }

    fn labels(&self) -> Markup {
        let digits = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        html! {
            div.axis {
                @for mark in self.marks() {
                    span style=(format!("left:{:.1}%", 100.0 * self.place(mark) / WIDTH)) { (format!("{mark:.digits$}")) }
                }
            }
        }
    }
}

/// The next greater of 1, 2 and 5 times a power of ten.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::results;

    #[track_caller]
    fn check(values: &[f64], expected: Option<&[f64]>) {
        let marks = Axis::new(values.iter().copied()).map(|axis| axis.marks().collect::<Vec<_>>());
        assert_eq!(marks.as_deref(), expected);
    }

    #[test]
    fn axes_have_round_marks_and_zero() {
        check(&[12_000.0, 14_000.0], Some(&[0.0, 5_000.0, 10_000.0]));
        check(&[1.0, 4.0], Some(&[0.0, 1.0, 2.0, 3.0, 4.0]));
        check(&[-3.0, 1.0], Some(&[-3.0, -2.0, -1.0, 0.0, 1.0]));
        check(&[0.0, 0.0], None);
        check(&[f64::INFINITY], None);
        check(&[], None);
    }

    #[test]
    fn the_best_row_comes_first() {
        let results = results(&[("haproxy", &[2.0]), ("lb-auto", &[3.0]), ("nginx", &[4.0])]);
        let planned = &results.plan.workloads[0];
        let order = |column: usize| -> Vec<&str> {
            let metric = &planned.columns[column];
            rows(&results, planned, (column, metric)).iter().map(|row| row.name).collect()
        };
        // A rate, and its inverse.
        assert_eq!(
            (order(0), order(1)),
            (vec!["nginx", "lb-auto", "haproxy"], vec!["nginx", "lb-auto", "haproxy"])
        );
        assert_eq!(order(2), Vec::<&str>::new());
    }

    #[test]
    fn every_sample_is_a_tick_within_the_drawing() {
        let results = results(&[("lb-auto", &[1.0, 2.0, 3.0])]);
        let figure = figure(&results, &results.plan.workloads[0], (0, 0)).into_string();
        assert!(figure.contains(r#"aria-label="lb-auto: median 2.0 (1.0–3.0)""#), "{figure}");
        let axis = Axis::new([1.0, 3.0].into_iter()).unwrap();
        assert_eq!(uprights(&axis, [0.0, 3.0].into_iter(), [3, 17]), "M19.2 3V17M980.8 3V17");
        assert_eq!(figure.matches("3V17").count(), 3, "{figure}");
    }
}
