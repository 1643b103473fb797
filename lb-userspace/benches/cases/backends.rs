// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends to measure.

use std::num::NonZeroU16;
use std::time::Duration;

use lb::backend::Backend;
use lb::balance::{Member, Places, identity};
use lb::config::{self, Balance, BalanceFactor, HashOn, Server};
use lb::observe::metrics::BackendMetrics;
use prometheus_client::metrics::histogram::Histogram;

/// Servers without connections and limits.
pub struct Idle;

impl Places for Idle {
    fn load(&self, _index: usize) -> u32 {
        0
    }

    fn limit(&self, _index: usize) -> u32 {
        u32::MAX
    }

    fn take(&self, _index: usize) -> bool {
        true
    }

    fn take_at(&self, _index: usize, _load: u32) -> bool {
        true
    }
}

/// The server at a position.
pub fn member(index: usize, weight: NonZeroU16) -> Member {
    Member { index, weight, identity: identity(&format!("server-{index}"), None) }
}

/// A backend of so many servers.
pub fn backend_of(balance: &str, servers: usize) -> Backend {
    let metrics = BackendMetrics {
        source_ports_exhausted: Default::default(),
        queue_length: Default::default(),
        queue_duration: Histogram::new([1.0]),
        retries: Default::default(),
        redispatches: Default::default(),
        unavailable: Default::default(),
        connect_duration: Histogram::new([1.0]),
    };
    Backend::new(settings(balance, servers), metrics, Vec::new())
}

/// The way of choosing that a case is named after.
pub fn balance_of(name: &str) -> Balance {
    let on = HashOn::Source;
    match name {
        "round-robin" => Balance::RoundRobin,
        "random" => Balance::Random,
        "source" => Balance::Source { bound: None },
        "maglev" => Balance::Maglev { on, bound: None },
        "maglev-bounded" => Balance::Maglev { on, bound: BalanceFactor::new(125) },
        _ => Balance::LeastConnections,
    }
}

fn settings(balance: &str, servers: usize) -> config::Backend {
    let server = |number| Server {
        name: format!("server-{number}").into(),
        address: config::Address::Ip(([127, 0, 0, 1], 443).into()),
        weight: 1,
        max_connections: None,
        is_backup: false,
        slow_start: None,
        shutdown_on_marked_down: false,
        shutdown_backups_on_marked_up: false,
        check_port: None,
        is_checked: false,
    };
    config::Backend {
        name: "web".into(),
        balance: balance_of(balance),
        servers: (0..servers).map(server).collect(),
        send_proxy: None,
        check: None,
        connect_timeout: Duration::from_secs(1),
        queue_timeout: Duration::from_secs(5),
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
