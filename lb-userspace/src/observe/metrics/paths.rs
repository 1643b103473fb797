// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics of paths as the process has them; what they carry is counted by frontend.

use std::time::Duration;

use lb_common::packet::flow::Side;
use lb_common::packet::reason::Untranslatable;
use lb_common::reason::{Availability, FallbackReason, PacketObstacle, PathKind};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::programs::PacketPrograms;
use super::register::{Counters, Gauges, Histograms, Registrar};
use crate::kernel::packet::Outcome;

const PATH_REASON: &[&str] = &["path", "reason"];

/// From this host itself (some 10 µs) and the same rack (0.1 ms) to a satellite (0.6 s), and what waits longer than any way takes.
const RTT_SECONDS: &[f64] = &[
    0.000_025, 0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5,
];

/// Flows that path `packet` did not take, by reason.
#[derive(Clone, Debug, Default)]
pub struct PacketRefusals {
    obstacles: [Counter; PacketObstacle::ALL.len()],
    terms: [Counter; Untranslatable::ALL.len()],
}

impl PacketRefusals {
    fn register(family: &Counters) -> Self {
        let of = |reason: &'static str| {
            let labels = vec![("path", PathKind::Packet.label().into()), ("reason", reason.into())];
            family.get_or_create_owned(&labels)
        };
        Self {
            obstacles: PacketObstacle::ALL.map(|obstacle| of(obstacle.label())),
            terms: Untranslatable::ALL.map(|reason| of(reason.label())),
        }
    }

    /// Counts one.
    pub fn note(&self, obstacle: PacketObstacle) {
        self.obstacles[obstacle.index()].inc();
    }

    /// Counts one whose connections cannot become one.
    pub fn note_terms(&self, reason: Untranslatable) {
        self.terms[reason.index()].inc();
    }
}

/// Resets to the ends of flows that the agent has cut, by what became of them.
#[derive(Clone, Debug, Default)]
pub struct PacketResets {
    sent: Counter,
    failed: Counter,
}

impl PacketResets {
    fn register(family: &Counters) -> Self {
        let of = |result: &'static str| family.get_or_create_owned(&vec![("result", result.into())]);
        Self { sent: of("sent"), failed: of("failed") }
    }

    /// Counts what became of some.
    pub fn note(&self, outcome: Outcome) {
        self.sent.inc_by(outcome.sent);
        self.failed.inc_by(outcome.failed);
    }
}

/// The shortest round trips of flows on path `packet`, by end.
#[derive(Clone, Debug)]
pub struct PacketRoundTrips([Histogram; Side::ALL.len()]);

impl PacketRoundTrips {
    fn register(family: &Histograms) -> Self {
        Self(Side::ALL.map(|side| family.get_or_create_owned(&vec![("leg", side.label().into())])))
    }

    /// Counts those of a flow that is over, to its client and to its server, as far as they were measured.
    pub fn observe(&self, shortest: [Option<Duration>; 2]) {
        for (histogram, shortest) in self.0.iter().zip(shortest) {
            if let Some(shortest) = shortest {
                histogram.observe(shortest.as_secs_f64());
            }
        }
    }
}

impl Default for PacketRoundTrips {
    fn default() -> Self {
        Self(Side::ALL.map(|_| Histogram::new(RTT_SECONDS.iter().copied())))
    }
}

/// Whether paths can carry flows, and what paths `packet` and `sockmap` do besides.
#[derive(Clone, Debug, Default)]
pub struct PathMetrics {
    /// `lb_path_available{path,reason}`: see [`Self::note`].
    available: Gauges,
    /// `lb_path_fallbacks_total{path,reason}` of path `sockmap`, by [`FallbackReason::index`].
    pub fallbacks: [Counter; FallbackReason::ALL.len()],
    /// `lb_path_fallbacks_total{path,reason}` of path `packet`.
    pub packet: PacketRefusals,
    /// `lb_packet_resets_total{result}`
    pub packet_resets: PacketResets,
    /// `lb_packet_places_taken`: slots that flows on path `packet` have.
    pub packet_places: Gauge,
    /// `lb_packet_ports_taken`: ports that connections to servers have.
    pub packet_ports: Gauge,
    /// What the programs of path `packet` count.
    pub packet_programs: PacketPrograms,
    /// `lb_packet_rtt_seconds{leg}`
    pub packet_round_trips: PacketRoundTrips,
    /// `lb_sockmap_memory_bytes`: that flows on path `sockmap` may hold inside the kernel.
    pub sockmap_memory: Gauge,
    /// `lb_sockmap_pauses_total`: times that a direction had to wait for its receiver.
    pub sockmap_pauses: Counter,
    /// `lb_sockmap_withdrawals_total`: times that user space moved on with a direction.
    pub sockmap_withdrawals: Counter,
}

impl PathMetrics {
    pub(super) fn register(to: &mut Registrar) -> Self {
        let available = to.gauge(
            "lb_path_available",
            PATH_REASON,
            "1 if a path can carry flows, else 0, with the reason",
        );
        let fallbacks: Counters = to.counter(
            "lb_path_fallbacks_total",
            PATH_REASON,
            "Flows that a path inside the kernel should have carried and did not take",
        );
        Self {
            available,
            fallbacks: FallbackReason::ALL.map(|reason| {
                let path = PathKind::Sockmap.label();
                let labels = vec![("path", path.into()), ("reason", reason.label().into())];
                fallbacks.get_or_create_owned(&labels)
            }),
            packet: PacketRefusals::register(&fallbacks),
            packet_resets: PacketResets::register(&to.counter(
                "lb_packet_resets_total",
                &["result"],
                "Resets to the ends of flows on path packet that lb has ended; each end gets several, for one may get lost",
            )),
            packet_places: to.gauge(
                "lb_packet_places_taken",
                &[],
                "Places for flows on path packet, of as many as there may be connections, that are taken: also by flows on their way there, and for seconds after the end",
            ),
            packet_ports: to.gauge(
                "lb_packet_ports_taken",
                &[],
                "Ports from packet-ports from which a connection or a flow leads to a server, all servers together",
            ),
            packet_programs: PacketPrograms::register(to),
            packet_round_trips: PacketRoundTrips::register(&to.histogram(
                "lb_packet_rtt_seconds",
                &["leg"],
                "Shortest round trip to the client and to the server that a flow on path packet has shown, counted at its end",
                RTT_SECONDS,
            )),
            sockmap_memory: to.gauge(
                "lb_sockmap_memory_bytes",
                &[],
                "Memory that flows on path sockmap may hold inside the kernel beyond socket buffers",
            ),
            sockmap_pauses: to.counter(
                "lb_sockmap_pauses_total",
                &[],
                "Times that a direction on path sockmap waited for its receiver to catch up",
            ),
            sockmap_withdrawals: to.counter(
                "lb_sockmap_withdrawals_total",
                &[],
                "Times that a direction on path sockmap was spliced from there on, until nothing moved for a second",
            ),
        }
    }

    /// Shows whether a path is available, and why not.
    pub fn note(&self, path: PathKind, availability: Availability) {
        let labels =
            |reason: Availability| vec![("path", path.label().into()), ("reason", reason.label().into())];
        for reason in Availability::ALL {
            self.available.remove(&labels(reason));
        }
        let is_available = availability == Availability::Available;
        self.available.get_or_create(&labels(availability)).set(is_available.into());
    }
}
