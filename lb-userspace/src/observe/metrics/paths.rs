// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics of paths as the process has them; what they carry is counted by frontend.

use lb_common::packet::reason::Untranslatable;
use lb_common::reason::{Availability, FallbackReason, PacketObstacle, PathKind};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::programs::PacketPrograms;
use super::register::{Counters, Gauges, Registrar};
use crate::kernel::packet::Outcome;

const PATH_REASON: &[&str] = &["path", "reason"];

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
