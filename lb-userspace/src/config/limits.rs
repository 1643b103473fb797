// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every number of the configuration with its range and default. `config/lb.toml` repeats this as a table; a test compares.

use std::time::Duration;

use super::Promotion;
use super::units::{Bytes, format_duration, format_size};

/// The range and the default of one key.
#[derive(Clone, Copy, Debug)]
pub struct Limit<T> {
    /// The table that the key stands in; `NAME` is the user's.
    pub table: &'static str,
    /// The key.
    pub key: &'static str,
    /// What holds where the key is absent; `None`: see the key's description.
    pub default: Option<T>,
    /// The least value allowed.
    pub min: T,
    /// The greatest value allowed.
    pub max: T,
}

/// A value that a person can read.
pub trait Shown {
    /// The value as the configuration would write it, without quotes.
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        format_duration(*self)
    }
}

impl Shown for Bytes {
    fn shown(&self) -> String {
        format_size(*self)
    }
}

impl Shown for u64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl<T: Shown> Limit<T> {
    /// Table, key, default (`-`: none), least and greatest, as the table in `config/lb.toml` has them.
    pub fn row(&self) -> [String; 5] {
        let default = self.default.as_ref().map_or_else(|| "-".into(), Shown::shown);
        [self.table.into(), self.key.into(), default, self.min.shown(), self.max.shown()]
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;
const CONNECTIONS_MAX: u64 = 10_000_000;

/// Defines the limits and the list of their rows in one go, so that none can be left out.
macro_rules! limits {
    ($($(#[$meta:meta])* $name:ident: $type:ty = $table:literal $key:literal, $default:expr, $min:expr, $max:expr;)+) => {
        $(
            $(#[$meta])*
            pub const $name: Limit<$type> =
                Limit { table: $table, key: $key, default: $default, min: $min, max: $max };
        )+

        /// Every limit as a row of text, see [`Limit::row`].
        pub fn rows() -> Vec<[String; 5]> {
            vec![$($name.row()),+]
        }
    };
}

limits! {
    /// Threads; the default is the cores that the process may use.
    WORKERS: u64 = "global" "workers", None, 1, 1_024;
    /// Connections of the process; the default is what the file descriptors allow.
    GLOBAL_MAX_CONNECTIONS: u64 = "global" "max-connections", None, 1, CONNECTIONS_MAX;
    /// Memory of connections whose ClientHello is not complete.
    PENDING_HELLO_MEMORY: Bytes = "global" "pending-hello-memory", Some(Bytes(512 << 20)), Bytes(1 << 20), Bytes(1 << 40);
    /// What waits inside the kernel on path `sockmap`, all flows together; the default is a quarter of what TCP may have.
    SOCKMAP_MEMORY: Bytes = "global" "sockmap-memory", None, Bytes(1 << 20), Bytes(1 << 40);
    /// The same of one direction; the program counts with 31 bits.
    SOCKMAP_DIRECTION_MEMORY: Bytes = "global" "sockmap-direction-memory", Some(Bytes(16 << 20)), Bytes(256 << 10), Bytes(1 << 30);
    /// How long connections may go on after SIGTERM.
    DRAIN_TIMEOUT: Duration = "global" "drain-timeout", Some(secs(30)), ms(0), secs(7 * DAY);
    /// Connections of one frontend; the default is no limit but the process'.
    FRONTEND_MAX_CONNECTIONS: u64 = "frontend.NAME" "max-connections", None, 1, CONNECTIONS_MAX;
    /// The listening socket's queue; the kernel caps it at net.core.somaxconn (listen(2)).
    BACKLOG: u64 = "frontend.NAME" "backlog", Some(4_096), 1, 1 << 20;
    /// The largest segment that clients are told of (TCP_MAXSEG, tcp(7)), which takes no other (net/ipv4/tcp.c: TCP_MIN_MSS, MAX_TCP_WINDOW). The default is
    /// what the way takes; where flows may take path `packet`, what the narrowest of `packet-interfaces` does.
    MSS: u64 = "frontend.NAME" "mss", None, 88, 32_767;
    /// From accept to a complete ClientHello.
    CLIENT_HELLO_TIMEOUT: Duration = "frontend.NAME" "client-hello-timeout", Some(secs(5)), ms(10), secs(60);
    /// Handshake message; the least is above any ClientHello that a TLS 1.2 client sends for a short name.
    CLIENT_HELLO_MAX: Bytes = "frontend.NAME" "client-hello-max", Some(Bytes(lb_common::limits::CLIENT_HELLO_MAX as u64)), Bytes(512), Bytes(lb_common::limits::CLIENT_HELLO_MAX as u64);
    /// The same with record headers; records of one byte make six of each.
    CLIENT_HELLO_WIRE_MAX: Bytes = "frontend.NAME" "client-hello-wire-max", Some(Bytes(64 << 10)), Bytes(512), Bytes(1 << 20);
    /// No byte either way, for connections of one frontend; off by default: the backend's counts alone.
    FRONTEND_IDLE_TIMEOUT: Duration = "frontend.NAME" "idle-timeout", None, ms(10), secs(30 * DAY);
    /// No byte while one direction has ended, likewise.
    FRONTEND_HALF_CLOSE_TIMEOUT: Duration = "frontend.NAME" "half-close-timeout", None, ms(10), secs(30 * DAY);
    /// From accept to the end of a PROXY header; at least 3s "to cover a TCP retransmit" are recommended (PROXY protocol, section 2).
    PROXY_HEADER_TIMEOUT: Duration = "frontend.NAME" "proxy-header-timeout", Some(secs(5)), ms(10), secs(60);
    /// The least holds every header without TLVs, the most is what the length of version 2 can say.
    PROXY_HEADER_MAX: Bytes = "frontend.NAME" "proxy-header-max", Some(Bytes(4 << 10)), Bytes(232), Bytes(16 + 65_535);
    /// TCP_USER_TIMEOUT (tcp(7)) of either leg. Off by default: it overrides the count of keepalive probes, and ends connections
    /// whose reader only pauses.
    USER_TIMEOUT: Duration = "*" "user-timeout", None, ms(100), secs(DAY);
    /// Bytes of both directions after which a flow goes inside the kernel; 0: at once.
    PROMOTE_AFTER_BYTES: Bytes = "*" "promote-after-bytes", Some(Bytes(Promotion::DEFAULT.after_bytes)), Bytes(0), Bytes(1 << 40);
    /// Age at which it does with its next byte; 0: at once.
    PROMOTE_AFTER: Duration = "*" "promote-after", Some(Promotion::DEFAULT.after), ms(0), secs(DAY);
    /// TCP_KEEPIDLE; the kernel's most is MAX_TCP_KEEPIDLE (include/net/tcp.h).
    KEEPALIVE_IDLE: Duration = "*.keepalive" "idle", Some(secs(60)), secs(1), secs(32_767);
    /// TCP_KEEPINTVL; the kernel's most is MAX_TCP_KEEPINTVL (include/net/tcp.h).
    KEEPALIVE_INTERVAL: Duration = "*.keepalive" "interval", Some(secs(10)), secs(1), secs(32_767);
    /// TCP_KEEPCNT; the kernel's most is MAX_TCP_KEEPCNT (include/net/tcp.h).
    KEEPALIVE_COUNT: u64 = "*.keepalive" "count", Some(3), 1, 127;
    /// Percent of its share of all connections that a server may have; 0: no bound.
    HASH_BALANCE_FACTOR: u64 = "backend.NAME" "hash-balance-factor", Some(0), 0, 10_000;
    /// One try to connect.
    CONNECT_TIMEOUT: Duration = "backend.NAME" "connect-timeout", Some(secs(5)), ms(10), secs(300);
    /// Waiting for a place on a server; the default is `connect-timeout`.
    QUEUE_TIMEOUT: Duration = "backend.NAME" "queue-timeout", None, ms(10), secs(HOUR);
    /// Connections that wait so.
    MAX_QUEUE: u64 = "backend.NAME" "max-queue", Some(10_000), 0, CONNECTIONS_MAX;
    /// Tries after the first.
    RETRIES: u64 = "backend.NAME" "retries", Some(3), 0, 100;
    /// No byte either way.
    IDLE_TIMEOUT: Duration = "backend.NAME" "idle-timeout", Some(secs(HOUR)), ms(10), secs(30 * DAY);
    /// No byte while one direction has ended.
    HALF_CLOSE_TIMEOUT: Duration = "backend.NAME" "half-close-timeout", Some(secs(30)), ms(10), secs(30 * DAY);
    /// A server's share.
    WEIGHT: u64 = "server" "weight", Some(1), 0, 256;
    /// Connections of one server; the default is no limit.
    SERVER_MAX_CONNECTIONS: u64 = "server" "max-connections", None, 1, CONNECTIONS_MAX;
    /// Addresses of one name; more are left out.
    MAX_ADDRESSES: u64 = "server" "max-addresses", Some(128), 1, 1_024;
    /// One question to the DNS servers, TCP after a truncated answer included.
    RESOLVER_TIMEOUT: Duration = "resolver" "timeout", Some(secs(1)), ms(50), secs(30);
    /// Questions before a resolution has failed.
    RESOLVER_ATTEMPTS: u64 = "resolver" "attempts", Some(3), 1, 10;
    /// Shortest time between two resolutions of a name.
    TTL_MIN: Duration = "resolver" "ttl-min", Some(secs(5)), ms(100), secs(HOUR);
    /// Longest time between two resolutions of a name.
    TTL_MAX: Duration = "resolver" "ttl-max", Some(secs(300)), secs(1), secs(DAY);
    /// How long the addresses of a name stay that DNS has no answer for any more.
    HOLD_NX: Duration = "resolver" "hold-nx", Some(secs(30)), ms(0), secs(DAY);
    /// Growth of a server's share after it was down; off by default.
    SLOW_START: Duration = "server" "slow-start", None, ms(100), secs(HOUR);
    /// From check to check.
    CHECK_INTERVAL: Duration = "backend.NAME.check" "interval", Some(secs(2)), ms(100), secs(HOUR);
    /// From check to check while a change of state is under way; the default is the interval.
    CHECK_FAST_INTERVAL: Duration = "backend.NAME.check" "fast-interval", None, ms(100), secs(HOUR);
    /// From check to check of a server that is down; the default is the interval.
    CHECK_DOWN_INTERVAL: Duration = "backend.NAME.check" "down-interval", None, ms(100), secs(HOUR);
    /// A whole check; the default is the interval, at most 2s.
    CHECK_TIMEOUT: Duration = "backend.NAME.check" "timeout", None, ms(10), secs(300);
    /// Successes that bring a server up.
    CHECK_RISE: u64 = "backend.NAME.check" "rise", Some(2), 1, 100;
    /// Failures that take it down.
    CHECK_FALL: u64 = "backend.NAME.check" "fall", Some(3), 1, 100;
    /// Percent of the interval.
    CHECK_JITTER: u64 = "backend.NAME.check" "jitter", Some(10), 0, 50;
    /// Failures of traffic in a row.
    CHECK_ERROR_LIMIT: u64 = "backend.NAME.check" "error-limit", Some(10), 1, 10_000;
}

/// Longest time a check may take where the configuration does not say.
pub const CHECK_TIMEOUT_DEFAULT_MAX: Duration = secs(2);

/// Most entries of `resolver.servers`.
pub const RESOLVER_SERVERS_MAX: usize = 8;

/// Most steps of a check's script.
pub const CHECK_SCRIPT_STEPS_MAX: usize = 32;

/// Most bytes that one step of a check's script sends or expects, and of a regular expression.
pub const CHECK_BYTES_MAX: usize = 4 << 10;

/// Most headers that a check's request adds.
pub const CHECK_HEADERS_MAX: usize = 32;

/// Longest name of a frontend, backend or server, in bytes; names are labels of metrics.
pub const NAME_MAX: usize = 64;

/// Largest file that is read, in bytes; about 600,000 names.
pub const FILE_MAX: u64 = 16 << 20;
