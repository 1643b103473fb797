// SPDX-License-Identifier: MIT OR Apache-2.0
//! The metric families of servers, and the handles of one server.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::ServerMetrics;
use super::register::{Counters, Labels, Registrar};
use crate::config;

const SERVER: &[&str] = &["backend", "server"];

/// Labelled by backend and server.
pub(super) struct ServerFamilies {
    connections: Counters,
    active: Family<Labels, Gauge>,
    connect_failures: Counters,
    sent_bytes: Counters,
    received_bytes: Counters,
    up: Family<Labels, Gauge>,
    addresses: Family<Labels, Gauge>,
    resolved: Family<Labels, Gauge<f64, AtomicU64>>,
    checks: Counters,
    check_failures: Counters,
    state_changes: Counters,
    check_duration: Family<Labels, Gauge<f64, AtomicU64>>,
    certificate_expiry: Family<Labels, Gauge<f64, AtomicU64>>,
}

impl ServerFamilies {
    /// Registers all of them, empty.
    pub(super) fn register(to: &mut Registrar) -> Self {
        Self {
            connections: to.counter("lb_server_connections_total", SERVER, "Connections established"),
            active: to.gauge("lb_server_connections_active", SERVER, "Connections open or being opened"),
            connect_failures: to.counter(
                "lb_server_connect_failures_total",
                SERVER,
                "Tries to connect that failed",
            ),
            sent_bytes: to.counter("lb_server_sent_bytes_total", SERVER, "Bytes delivered to the server"),
            received_bytes: to.counter(
                "lb_server_received_bytes_total",
                SERVER,
                "Bytes from the server, delivered to clients",
            ),
            up: to.gauge("lb_server_up", SERVER, "1 while the server, or one of the addresses that it stands for, is up, also with weight 0; else 0"),
            addresses: to.gauge(
                "lb_server_addresses",
                SERVER,
                "Servers that the entry stands for: one an address of its name, else 1",
            ),
            resolved: to.gauge(
                "lb_server_resolved_timestamp_seconds",
                SERVER,
                "When the entry's name was last resolved, since the Unix epoch; 0 before the first time",
            ),
            checks: to.counter("lb_server_checks_total", SERVER, "Health checks finished"),
            check_failures: to.counter("lb_server_check_failures_total", SERVER, "Health checks failed"),
            state_changes: to.counter("lb_server_state_changes_total", SERVER, "Changes between up and down"),
            check_duration: to.gauge(
                "lb_server_check_duration_seconds",
                SERVER,
                "Duration of the last health check",
            ),
            certificate_expiry: to.gauge(
                "lb_server_certificate_expiry_seconds",
                SERVER,
                "End of the certificate that the last check over TLS saw, since 1970, of several the first to end; NaN if there was none",
            ),
        }
    }

    /// The handles of one server of a backend.
    pub(super) fn handles(&self, backend: &Arc<str>, server: &config::Server) -> ServerMetrics {
        let labels: Labels = vec![("backend", backend.clone()), ("server", server.name.clone())];
        let has_name = server.address.lookup().is_some();
        ServerMetrics {
            connections: self.connections.get_or_create_owned(&labels),
            active: self.active.get_or_create_owned(&labels),
            connect_failures: self.connect_failures.get_or_create_owned(&labels),
            sent_bytes: self.sent_bytes.get_or_create_owned(&labels),
            received_bytes: self.received_bytes.get_or_create_owned(&labels),
            up: self.up.get_or_create_owned(&labels),
            addresses: self.addresses.get_or_create_owned(&labels),
            resolved: if has_name { self.resolved.get_or_create_owned(&labels) } else { Gauge::default() },
            checks: self.checks.get_or_create_owned(&labels),
            check_failures: self.check_failures.get_or_create_owned(&labels),
            state_changes: self.state_changes.get_or_create_owned(&labels),
            check_duration: self.check_duration.get_or_create_owned(&labels),
            certificate_expiry: {
                let expiry = self.certificate_expiry.get_or_create_owned(&labels);
                // No comparison with it holds, so that no alert mistakes it for a time.
                expiry.set(f64::NAN);
                expiry
            },
        }
    }
}
