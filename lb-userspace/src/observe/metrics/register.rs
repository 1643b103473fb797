// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registration: puts a metric into the registry and into the list of descriptions in one step, so that they cannot differ.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

/// What a metric is, as the table in README says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// The name in the Prometheus text format, `_total` and `_info` included; of a histogram without `_bucket`, `_sum`, `_count`.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// Its labels, in the order of the scrape; `le` of histograms left out.
    pub labels: &'static [&'static str],
    /// What it says, in one line, without a full stop.
    pub help: &'static str,
}

/// The kinds of metrics, by their words in the Prometheus text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

impl Kind {
    /// The word on a `# TYPE` line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names and values of the labels of one series.
pub(super) type Labels = Vec<(&'static str, Arc<str>)>;

/// Counters that differ in their labels.
pub(super) type Counters = Family<Labels, Counter>;

/// Gauges that differ in their labels.
pub(super) type Gauges = Family<Labels, Gauge>;

/// Histograms that differ in their labels.
pub(super) type Histograms = Family<Labels, Histogram, Buckets>;

/// The upper bounds of a histogram's buckets, ascending, without infinity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// A registry, and what is in it.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    /// For encoding.
    pub(super) registry: Registry,
    /// For the table.
    pub(super) descriptions: Vec<Description>,
}

impl Registrar {
    /// Registers a metric or a family of them under the name that the Prometheus text format shows.
    pub(super) fn add<M: Metric>(&mut self, description: Description, metric: M) {
        let (stem, unit) = openmetrics_name(description.name);
        match unit {
            Some(unit) => self.registry.register_with_unit(stem, description.help, unit, metric),
            None => self.registry.register(stem, description.help, metric),
        }
        self.descriptions.push(description);
    }

    /// Registers a counter, or counters by label.
    pub(super) fn counter<M: Metric + Clone + Default>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> M {
        let metric = M::default();
        self.add(Description { name, kind: Kind::Counter, labels, help }, metric.clone());
        metric
    }

    /// Registers a gauge, or gauges by label.
    pub(super) fn gauge<M: Metric + Clone + Default>(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> M {
        let metric = M::default();
        self.add(Description { name, kind: Kind::Gauge, labels, help }, metric.clone());
        metric
    }

    /// Registers histograms by label.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        buckets: &'static [f64],
    ) -> Histograms {
        let family = Family::new_with_constructor(Buckets(buckets));
        self.add(Description { name, kind: Kind::Histogram, labels, help }, family.clone());
        family
    }
}

/// The name and unit to register so that OpenMetrics shows them: the crate appends the unit, `_total` and `_info` itself
/// (OpenMetrics 1.0, sections "Unit", "Counter" and "Info").
pub(super) fn openmetrics_name(name: &'static str) -> (&'static str, Option<Unit>) {
    let stem = name.strip_suffix("_total").or_else(|| name.strip_suffix("_info")).unwrap_or(name);
    if let Some(stem) = stem.strip_suffix("_seconds") {
        return (stem, Some(Unit::Seconds));
    }
    if let Some(stem) = stem.strip_suffix("_bytes") {
        return (stem, Some(Unit::Bytes));
    }
    (stem, None)
}
