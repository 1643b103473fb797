// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[backend.NAME]` and its servers.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Address, Check, Keepalive, PathChoice, SendProxy};

/// `[backend.NAME]`: servers that give the same answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The table's name.
    pub name: Arc<str>,
    /// `balance`
    pub balance: Balance,
    /// `[[backend.NAME.server]]`: at least one.
    pub servers: Vec<Server>,
    /// `send-proxy`: the header in front of the client's bytes.
    pub send_proxy: Option<SendProxy>,
    /// `check`: how servers are probed; `None`: they count as up.
    pub check: Option<Check>,
    /// `connect-timeout`: for one try.
    pub connect_timeout: Duration,
    /// `queue-timeout`: how long a connection may wait for a place on a server while all are full. Default: `connect-timeout`, as
    /// HAProxy's `timeout queue`.
    pub queue_timeout: Duration,
    /// `max-queue`: connections that may wait so; 0: none.
    pub max_queue: usize,
    /// `source`: addresses of this host that connections to servers come from, in turn; empty: what the route says. Servers of a
    /// family that none of them is of are reached as if it were empty.
    pub source: Vec<IpAddr>,
    /// `source-interface`: the interface that they leave by.
    pub source_interface: Option<Arc<str>>,
    /// `retries`: further tries, on another server where there is one, before the first byte went to a server.
    pub retries: u32,
    /// `idle-timeout`: no byte either way; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// `half-close-timeout`: no byte while one direction has ended; `None`: as `idle-timeout`.
    pub half_close_timeout: Option<Duration>,
    /// `keepalive` of the server's leg.
    pub keepalive: Option<Keepalive>,
    /// `user-timeout` of the server's leg (TCP_USER_TIMEOUT, tcp(7)).
    pub user_timeout: Option<Duration>,
    /// `path`, `path-required`; `None`: the frontend's.
    pub path: Option<PathChoice>,
}

impl Backend {
    /// Whether servers want to know which protocol the client offers first.
    pub fn sends_alpn(&self) -> bool {
        self.send_proxy.is_some_and(|settings| settings.tlvs().alpn)
    }
}

/// How a backend chooses among its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// `round-robin`: in turn, by weight, smoothly.
    RoundRobin,
    /// `least-connections`: fewest open connections for its weight.
    LeastConnections,
    /// `random`: of two drawn by weight, the one with fewer open connections for its weight.
    Random,
    /// `source`: the same client address has the same server; a change of the set moves only what it must.
    Source {
        /// `hash-balance-factor`
        bound: Option<BalanceFactor>,
    },
    /// `maglev`: the same key has the same server on every node that has these servers, in shares that are as good as exact.
    Maglev {
        /// `hash-on`
        on: HashOn,
        /// `hash-balance-factor`
        bound: Option<BalanceFactor>,
    },
}

/// `hash-on`: what keeps to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// `source`: the client's address, of IPv6 the first 64 bits.
    Source,
    /// `sni`: the name in the ClientHello; the client's address where there is none.
    Sni,
}

/// `hash-balance-factor`: the connections that a server may have, in percent of its share of all that there are; above 100. A key
/// whose server has more goes to the next in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceFactor(u16);

impl BalanceFactor {
    /// From percent; `None` unless above 100. At 100 or less, not even an even spread would be within the bound.
    pub const fn new(percent: u16) -> Option<Self> {
        if percent > 100 { Some(Self(percent)) } else { None }
    }

    /// In percent.
    pub fn percent(self) -> u16 {
        self.0
    }
}

/// `[[backend.NAME.server]]`, the defaults of `[backend.NAME.server-defaults]` applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `name`, unique in the backend.
    pub name: Arc<str>,
    /// `address` or `srv`
    pub address: Address,
    /// `weight`: 0 to 256, a share relative to the others, of each server if it stands for several; 0 takes no connections. 1 with
    /// `srv`, where the records say it.
    pub weight: u16,
    /// `max-connections`
    pub max_connections: Option<NonZeroU32>,
    /// `backup`: used only while no other server is up.
    pub is_backup: bool,
    /// `slow-start`: how long weight and `max-connections` take to grow back once the server is up again; `None`: they are back
    /// at once.
    pub slow_start: Option<Duration>,
    /// `on-marked-down = "shutdown-sessions"`: once it is down, its sessions end.
    pub shutdown_on_marked_down: bool,
    /// `on-marked-up = "shutdown-backup-sessions"`: once it is up, sessions on backup servers end.
    pub shutdown_backups_on_marked_up: bool,
    /// `check-port`: or else the check's port, or else the server's own.
    pub check_port: Option<u16>,
    /// `check = false` exempts the server: it counts as up.
    pub is_checked: bool,
}
