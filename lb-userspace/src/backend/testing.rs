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
        address: ([127, 0, 0, 1], 1).into(),
        weight,
        max_connections: NonZeroU32::new(max_connections),
        is_backup: false,
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
        connect_duration: Histogram::new([1.0]),
    };
    Backend::new(settings, metrics, Vec::new())
}
