// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs of path `packet` count, read from their map at each scrape.

use std::sync::{Arc, OnceLock};

use lb_common::packet::reason::Untranslatable;
use lb_common::packet::record::Counter;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::register::{Description, Kind, Registrar, openmetrics_name};
use crate::kernel::packet::{Counters, Counts};

const PACKETS: Description = Description {
    name: "lb_packet_packets_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Packets of flows on path packet, or on their way to it, by what the programs made of them; over restarts, the self-test's included",
};

const DROPPED: Description = Description {
    name: "lb_packet_dropped_total",
    kind: Kind::Counter,
    labels: &["reason"],
    help: "Packets of flows on path packet that were dropped because they cannot be translated, by why; over restarts",
};

/// `lb_packet_packets_total{result}` and `lb_packet_dropped_total{reason}`: all 0 until there are programs.
#[derive(Clone, Debug, Default)]
pub struct PacketPrograms(Arc<OnceLock<Counters>>);

impl PacketPrograms {
    pub(super) fn register(to: &mut Registrar) -> Self {
        let programs = Self::default();
        to.registry.register_collector(Box::new(programs.clone()));
        to.descriptions.extend([PACKETS, DROPPED]);
        programs
    }

    /// There are programs, which count here.
    pub fn count_by(&self, counters: Counters) {
        // One agent has them once.
        let _ = self.0.set(counters);
    }
}

impl Collector for PacketPrograms {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        // What cannot be read is left out, for a 0 would be a lie.
        let Ok(counts) = self.0.get().map_or(Ok(Counts::NONE), Counters::read) else { return Ok(()) };
        let packets = Counter::ALL.iter().map(|counter| (counter.label(), counts.of(*counter)));
        put(&mut encoder, PACKETS, packets)?;
        let dropped = Untranslatable::ALL.iter().map(|reason| (reason.label(), counts.refused(*reason)));
        put(&mut encoder, DROPPED, dropped)
    }
}

/// A family of counters, by the values of its one label.
fn put(
    encoder: &mut DescriptorEncoder,
    description: Description,
    series: impl Iterator<Item = (&'static str, u64)>,
) -> Result<(), std::fmt::Error> {
    let (name, unit) = openmetrics_name(description.name);
    // As the registry ends help texts.
    let help = format!("{}.", description.help);
    let mut family = encoder.encode_descriptor(name, &help, unit.as_ref(), MetricType::Counter)?;
    for (value, count) in series {
        let labels = [(description.labels[0], value)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
