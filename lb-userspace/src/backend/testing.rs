// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends for tests.

use std::num::NonZeroU32;
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::Backend;
use crate::config;
use crate::observe::metrics::BackendMetrics;

/// A server on loopback; `max_connections` of 0 is no limit.
pub(crate) fn server(name: &str, weight: u16, max_connections: u32) -> config::Server {
    config::Server {
        name: name.into(),
        address: config::Address::Ip(([127, 0, 0, 1], 1).into()),
        weight,
        max_connections: NonZeroU32::new(max_connections),
        is_backup: false,
        slow_start: None,
        shutdown_on_marked_down: false,
        shutdown_backups_on_marked_up: false,
        check_port: None,
        is_checked: true,
    }
}

/// A backup server of weight 1 without a limit.
pub(crate) fn backup(name: &str) -> config::Server {
    config::Server { is_backup: true, ..server(name, 1, 0) }
}

/// A backend `web` without checks, in round-robin.
pub(crate) fn settings(servers: Vec<config::Server>) -> config::Backend {
    config::Backend {
        name: "web".into(),
        balance: config::Balance::RoundRobin,
        servers,
        send_proxy: None,
        check: None,
        connect_timeout: Duration::from_secs(1),
        queue_timeout: Duration::from_secs(1),
        max_queue: 100,
        source: Vec::new(),
        source_interface: None,
        retries: 3,
        idle_timeout: None,
        half_close_timeout: None,
        keepalive: None,
        user_timeout: None,
        path: None,
    }
}

/// A backend whose counters belong to no registry.
pub(crate) fn backend(settings: config::Backend) -> Backend {
    let metrics = BackendMetrics {
        retries: Default::default(),
        redispatches: Default::default(),
        unavailable: Default::default(),
        source_ports_exhausted: Default::default(),
        queue_length: Default::default(),
        queue_duration: Histogram::new([1.0]),
        connect_duration: Histogram::new([1.0]),
    };
    Backend::new(settings, metrics, Vec::new())
}
