// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every metric. Handles are looked up once, when the configuration is applied; counting is an atomic add (a short lock for
//! histograms).
//!
//! Labels come from closed sets alone: names in the configuration, and the lists of [`lb_common::reason`]. What a client sends
//! never becomes a label.

mod exposition;
mod families;
mod paths;
mod process;
mod programs;
mod register;
mod server;

use std::fmt::Write;

use lb_common::reason::{Availability, CloseReason, HelloReason, PathKind, ProxyReason, ResolutionResult};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use self::exposition::Exposition;
pub use self::paths::{PacketRefusals, PacketResets, PacketRoundTrips, PathMetrics};
pub use self::programs::PacketPrograms;
pub use self::register::{Description, Kind};

use self::families::Families;
use self::register::Registrar;
use crate::config::Config;

/// All metrics of the process, by position in the configuration.
#[derive(Debug)]
pub struct Metrics {
    /// What concerns the process.
    pub process: ProcessMetrics,
    /// By position in [`Config::frontends`].
    pub frontends: Vec<FrontendMetrics>,
    /// By position in [`Config::backends`].
    pub backends: Vec<BackendMetrics>,
    /// By position in [`Config::backends`] and in its servers.
    pub servers: Vec<Vec<ServerMetrics>>,
    registry: Registry,
}

/// What concerns the process.
#[derive(Clone, Debug, Default)]
pub struct ProcessMetrics {
    /// `lb_pending_hello_memory_bytes`: held by connections that wait for their ClientHello.
    pub pending_hello_memory: Gauge,
    /// `lb_pipes`: pipes of path `splice`, idle and lent.
    pub pipes: Gauge,
    /// `lb_pipes_exhausted_total`: chunks that path `splice` copied because no pipe was free, or the user had no pages left for one.
    pub pipes_exhausted: Counter,
    /// Whether paths can carry flows, and what path `sockmap` does besides.
    pub paths: PathMetrics,
    /// `lb_accept_pauses_total`: times that accepting paused for want of file descriptors or memory.
    pub accept_pauses: Counter,
    /// `lb_log_lines_dropped_total`: lines that the log's target took too slowly.
    pub log_lines_dropped: Counter,
    /// `lb_worker_wakeups_total`: times that a worker woke up.
    pub worker_wakeups: Counter,
    /// `lb_resolutions_total{result}`, by [`ResolutionResult::index`].
    pub resolutions: [Counter; ResolutionResult::ALL.len()],
}

/// Counters of one frontend (label `frontend`).
#[derive(Clone, Debug)]
pub struct FrontendMetrics {
    /// `lb_frontend_connections_total`: accepted.
    pub connections: Counter,
    /// `lb_frontend_connections_active`: open now.
    pub active: Gauge,
    /// `lb_frontend_received_bytes_total`: from clients, delivered to servers.
    pub received_bytes: Counter,
    /// `lb_frontend_sent_bytes_total`: from servers, delivered to clients.
    pub sent_bytes: Counter,
    /// `lb_frontend_certificate_overlaps`: names in servers' certificates that lead to another backend.
    pub certificate_overlaps: Gauge,
    /// `lb_proxy_header_rejected_total{reason}`, by [`ProxyReason::index`].
    pub proxy_rejected: [Counter; ProxyReason::ALL.len()],
    /// `lb_client_hello_exceptions_total{reason}`, by [`HelloReason::index`], whatever the policy made of it.
    pub hello_exceptions: [Counter; HelloReason::ALL.len()],
    /// `lb_client_hello_ech_total`: ClientHellos with encrypted_client_hello.
    pub hello_ech: Counter,
    /// `lb_connections_closed_total{reason}`, by [`CloseReason::index`].
    pub closed: [Counter; CloseReason::ALL.len()],
    /// `lb_path_flows_total{path}`, by [`PathKind::index`]: flows that the path carried bytes of.
    pub path_flows: [Counter; PathKind::ALL.len()],
    /// `lb_path_bytes_total{path}`, by [`PathKind::index`]: bytes that really went that way, both directions.
    pub path_bytes: [Counter; PathKind::ALL.len()],
    /// `lb_client_hello_duration_seconds`: from accept to a complete ClientHello.
    pub hello_duration: Histogram,
    /// `lb_client_hello_size_bytes`: on the wire.
    pub hello_size: Histogram,
    /// `lb_session_duration_seconds`: from accept to the end.
    pub session_duration: Histogram,
    /// `lb_session_received_bytes`: from the client, a session.
    pub session_received: Histogram,
    /// `lb_session_sent_bytes`: to the client, a session.
    pub session_sent: Histogram,
}

/// Counters of one backend (label `backend`).
#[derive(Clone, Debug)]
pub struct BackendMetrics {
    /// `lb_backend_retries_total`: tries to connect after the first.
    pub retries: Counter,
    /// `lb_backend_redispatches_total`: tries on another server than the first.
    pub redispatches: Counter,
    /// `lb_backend_unavailable_total`: connections that got no place on a server, because none was up or all were full.
    pub unavailable: Counter,
    /// `lb_backend_source_ports_exhausted_total`: connects for which an address of ours had no port left towards the server.
    pub source_ports_exhausted: Counter,
    /// `lb_backend_queue_length`: connections that wait for a place on a server now.
    pub queue_length: Gauge,
    /// `lb_backend_queue_duration_seconds`: how long those waited that had to, whatever came of it.
    pub queue_duration: Histogram,
    /// `lb_backend_connect_duration_seconds`: of connects that succeeded.
    pub connect_duration: Histogram,
}

/// Counters of one server (labels `backend`, `server`).
#[derive(Clone, Debug, Default)]
pub struct ServerMetrics {
    /// `lb_server_connections_total`: established.
    pub connections: Counter,
    /// `lb_server_connections_active`: open or being opened now.
    pub active: Gauge,
    /// `lb_server_connect_failures_total`: tries that failed.
    pub connect_failures: Counter,
    /// `lb_server_sent_bytes_total`: delivered to the server.
    pub sent_bytes: Counter,
    /// `lb_server_received_bytes_total`: from the server, delivered to clients.
    pub received_bytes: Counter,
    /// `lb_server_up`: 1 while one of the entry's servers is up, or 0.
    pub up: Gauge,
    /// `lb_server_addresses`: servers that the entry stands for.
    pub addresses: Gauge,
    /// `lb_server_resolved_timestamp_seconds`: when the entry's name was last resolved; a series of entries with a name only.
    pub resolved: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// `lb_server_checks_total`: finished.
    pub checks: Counter,
    /// `lb_server_check_failures_total`
    pub check_failures: Counter,
    /// `lb_server_state_changes_total`
    pub state_changes: Counter,
    /// `lb_server_check_duration_seconds`: of the last check, in seconds.
    pub check_duration: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// `lb_server_certificate_expiry_seconds`: since 1970; NaN until a check has seen a certificate.
    pub certificate_expiry: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Metrics {
    /// Registers the metrics that a configuration calls for. Every series exists from the start, at 0, so that a rate over the
    /// first event is right.
    pub fn new(config: &Config) -> Self {
        let mut registrar = Registrar::default();
        let families = Families::register(&mut registrar);
        for path in PathKind::ALL {
            let is_inside = matches!(path, PathKind::Packet | PathKind::Sockmap);
            let at_first = if is_inside { Availability::NotConfigured } else { Availability::Available };
            families.process.paths.note(path, at_first);
        }
        Self {
            process: families.process.clone(),
            frontends: config.frontends.iter().map(|frontend| families.frontend(&frontend.name)).collect(),
            backends: config.backends.iter().map(|backend| families.backend(&backend.name)).collect(),
            servers: config
                .backends
                .iter()
                .map(|backend| {
                    backend
                        .servers
                        .iter()
                        .map(|server| families.server.handles(&backend.name, server))
                        .collect()
                })
                .collect(),
            registry: registrar.registry,
        }
    }

    /// All metrics as they are now, in the given format.
    pub fn encode(&self, exposition: Exposition) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        match exposition {
            Exposition::OpenMetrics => text,
            Exposition::PrometheusText => exposition::prometheus_text(&text),
        }
    }

    /// Every metric that a scrape can show, in the order of a scrape.
    pub fn descriptions() -> Vec<Description> {
        let mut registrar = Registrar::default();
        Families::register(&mut registrar);
        registrar.descriptions.extend(process::DESCRIPTIONS);
        registrar.descriptions
    }

    /// [`Self::descriptions`] as the Markdown table in README.
    pub fn markdown_table() -> String {
        let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for Description { name, kind, labels, help } in Self::descriptions() {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            writeln!(table, "| `{name}` | {} | {} | {help} |", kind.word(), labels.join(", "))
                .expect("writing to a String does not fail");
        }
        table
    }
}

#[cfg(test)]
mod tests;
