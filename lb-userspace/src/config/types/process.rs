// SPDX-License-Identifier: MIT OR Apache-2.0
//! What concerns the process: `[global]`, `[admin]`, `[log]`.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::PathWish;

/// `[global]`: what concerns the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Global {
    /// `workers`: threads that accept and carry connections. Default: the cores this process may use.
    pub workers: NonZeroUsize,
    /// `max-connections`: open client connections over all frontends. `None`: as many as the file descriptor limit allows.
    pub max_connections: Option<NonZeroU32>,
    /// `pending-hello-memory`: bytes that connections waiting for their ClientHello may hold, kernel receive buffers counted.
    pub pending_hello_memory: u64,
    /// `sockmap-memory`: bytes that may wait inside the kernel on path `sockmap`. `None`: a quarter of what TCP may have on this host.
    pub sockmap_memory: Option<u64>,
    /// `sockmap-direction-memory`: bytes of one direction that may wait so.
    pub sockmap_direction_memory: u64,
    /// `packet-ports`: local ports of connections to servers on path `packet`. `None`: nothing is said, so `auto` leaves that path alone.
    pub packet_ports: Option<RangeInclusive<u16>>,
    /// `packet-interfaces`: where packets are translated; empty: at all interfaces but loopback.
    pub packet_interfaces: Vec<Arc<str>>,
    /// `packet-state`: where flows of path `packet` are kept for the next agent; `None`: nowhere.
    pub packet_state: Option<PathBuf>,
    /// `drain-timeout`: how long open connections may go on after SIGTERM.
    pub drain_timeout: Duration,
}

impl Global {
    /// `packet-ports` where nothing is said: above those that the kernel chooses from by default (ip_local_port_range, ip-sysctl.rst).
    pub const DEFAULT_PACKET_PORTS: RangeInclusive<u16> = 61_000..=65_535;

    /// Local ports of connections to servers on path `packet`.
    pub fn packet_ports(&self) -> RangeInclusive<u16> {
        self.packet_ports.clone().unwrap_or(Self::DEFAULT_PACKET_PORTS)
    }

    /// What `auto` stands for: who has set ports aside for path `packet` wants it wherever it is possible.
    pub fn auto(&self) -> PathWish {
        if self.packet_ports.is_some() { PathWish::Packet } else { PathWish::Auto }
    }
}

/// `[admin]`: the HTTP surface for metrics and health.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// `bind`: loopback unless there are users.
    pub bind: SocketAddr,
    /// `[[admin.user]]`: who may see more than `/healthz` and `/readyz`; empty: everybody who reaches `bind`.
    pub users: Vec<AdminUser>,
}

/// `[[admin.user]]`
#[derive(Clone, Debug, PartialEq)]
pub struct AdminUser {
    /// `name`: HTTP basic authentication's user.
    pub name: String,
    /// `password-hash`: an argon2id hash in PHC string format, as `lb hash-password` prints it.
    pub password_hash: String,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `format`: of the line a connection.
    pub format: LogFormat,
    /// `target`: where the line a connection goes.
    pub target: LogTarget,
    /// `level`: of the agent's own messages on stderr.
    pub level: LogLevel,
}

/// How the line a connection looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `json`: one object a line.
    Json,
    /// `tcplog`: HAProxy's `option tcplog` (configuration manual, section 8.2.2), followed by our fields.
    Tcplog,
}

/// Where the line a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// `stdout`
    Stdout,
    /// `off`: nowhere.
    Off,
    /// `file:/path`: appended to, re-opened at SIGHUP.
    File(PathBuf),
    /// `syslog:/dev/log`: a Unix datagram socket, RFC 3164 framing.
    SyslogUnix(PathBuf),
    /// `syslog:127.0.0.1:514`: UDP, RFC 5424 framing.
    SyslogUdp(SocketAddr),
}

impl std::fmt::Display for LogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Off => f.write_str("off"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::SyslogUnix(path) => write!(f, "syslog:{}", path.display()),
            Self::SyslogUdp(address) => write!(f, "syslog:{address}"),
        }
    }
}

/// The least severe of the agent's own messages that is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `error`
    Error,
    /// `warn`
    Warn,
    /// `info`
    Info,
    /// `debug`
    Debug,
    /// `trace`
    Trace,
}
