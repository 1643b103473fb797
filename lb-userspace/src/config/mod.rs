// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration as types that cannot be wrong. [`Config::parse`] is the only way to make one, and it reports every problem
//! of the text at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lb_common::reason::HelloReason;

mod address;
mod backend;
mod check;
mod context;
mod frontend;
pub mod limits;
mod load;
mod names;
pub mod needs;
mod overlaps;
mod problem;
mod process;
mod reader;
mod render;
mod root;
mod route;
mod source;
mod suggest;
mod syntax;
mod tcp;
pub mod units;
mod value;

pub use context::ReadFile;
pub use load::{LoadError, Loaded};
pub use names::parse_name;
pub use problem::{Place, Problem, Problems};

/// A whole valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What concerns the process.
    pub global: Global,
    /// The admin surface (metrics, health), if there is one.
    pub admin: Option<Admin>,
    /// Where the lines about connections and about the agent go.
    pub log: Log,
    /// At least one, in the order of the file.
    pub frontends: Vec<Frontend>,
    /// At least one, in the order of the file.
    pub backends: Vec<Backend>,
}

/// `[global]`: what concerns the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Global {
    /// `workers`: threads that accept and carry connections. Default: the cores this process may use.
    pub workers: NonZeroUsize,
    /// `max-connections`: open client connections over all frontends. `None`: as many as the file descriptor limit allows.
    pub max_connections: Option<NonZeroU32>,
    /// `pending-hello-memory`: bytes that connections waiting for their ClientHello may hold, kernel receive buffers counted.
    pub pending_hello_memory: u64,
    /// `drain-timeout`: how long open connections may go on after SIGTERM.
    pub drain_timeout: Duration,
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

/// `[frontend.NAME]`: where connections come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    /// The table's name.
    pub name: Arc<str>,
    /// `bind`: at least one address to listen on; port 0 asks the kernel for a free one.
    pub bind: Vec<SocketAddr>,
    /// `mode`, with what belongs to it.
    pub mode: Mode,
    /// `max-connections`: open client connections of this frontend.
    pub max_connections: Option<NonZeroU32>,
    /// `backlog`: connections that the kernel holds complete before accept; the kernel caps it at net.core.somaxconn.
    pub backlog: NonZeroU32,
    /// `keepalive` of the client's leg.
    pub keepalive: Option<Keepalive>,
    /// `user-timeout` of the client's leg: how long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7)).
    pub user_timeout: Option<Duration>,
    /// `path` and `path-required` for backends that do not say.
    pub path: PathChoice,
}

/// What a frontend does with the first bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// `tcp`: never looks at them.
    Tcp {
        /// `default-backend`
        backend: BackendId,
    },
    /// `tls-passthrough`: peeks at the ClientHello and routes by name; TLS stays end to end.
    TlsPassthrough(Box<TlsPassthrough>),
}

/// The settings of mode `tls-passthrough`.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsPassthrough {
    /// `client-hello-timeout`: from accept to a complete ClientHello.
    pub client_hello_timeout: Duration,
    /// `client-hello-max`: bytes of handshake message, header included; at most 16 KiB.
    pub client_hello_max: usize,
    /// `client-hello-wire-max`: bytes on the wire, record headers included.
    pub client_hello_wire_max: usize,
    /// `on-…`, by [`HelloReason::index`].
    pub policies: [Policy; HelloReason::ALL.len()],
    /// `[[frontend.NAME.route]]`, in the order of the file.
    pub routes: Vec<Route>,
}

impl TlsPassthrough {
    /// The policy for a reason.
    pub fn policy(&self, reason: HelloReason) -> Policy {
        self.policies[reason.index()]
    }
}

/// What happens to a connection whose first bytes do not name a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `reject`: closed, for TLS with an alert.
    Reject,
    /// A backend's name: goes there untouched.
    Backend(BackendId),
}

impl Policy {
    /// The word for [`Policy::Reject`]; no backend may be called so.
    pub const REJECT: &str = "reject";
}

/// The position of a backend in [`Config::backends`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub usize);

/// `[[frontend.NAME.route]]`: names (and ALPN protocols) that belong to a backend.
#[derive(Clone, Debug)]
pub struct Route {
    /// `sni` and the names of `sni-file`; empty only if `alpn` is not: then any name, or none, matches.
    pub names: Vec<NamePattern>,
    /// `alpn`: matches if the client offers one of these; empty: no condition.
    pub alpn: Vec<String>,
    /// `backend`
    pub backend: BackendId,
    /// The line of the configuration file that the route begins on, for messages.
    pub line: usize,
}

/// Where a route was written makes no difference to what it does.
impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        let Self { names, alpn, backend, line: _ } = self;
        (names, alpn, backend) == (&other.names, &other.alpn, &other.backend)
    }
}

/// A name as written in a route, normalised: lower case, no trailing dot.
#[derive(Clone, Debug)]
pub enum NamePattern {
    /// `www.example`
    Exact(String),
    /// `*.example`: any number of labels, at least one, before the suffix. Holds `.example`.
    Wildcard(String),
    /// `~regular expression` over the whole name, unanchored unless it says so.
    Regex(regex::Regex),
}

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

/// How a backend chooses among its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// `round-robin`: in turn, by weight, smoothly.
    RoundRobin,
    /// `least-connections`: fewest open connections for its weight.
    LeastConnections,
}

/// `[[backend.NAME.server]]`, the defaults of `[backend.NAME.server-defaults]` applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `name`, unique in the backend.
    pub name: Arc<str>,
    /// `address`
    pub address: SocketAddr,
    /// `weight`: 0 to 256, a share relative to the others; 0 takes no connections.
    pub weight: u16,
    /// `max-connections`
    pub max_connections: Option<NonZeroU32>,
    /// `backup`: used only while no other server is up.
    pub is_backup: bool,
    /// `check-port`: or else the check's port, or else the server's own.
    pub check_port: Option<u16>,
    /// `check = false` exempts the server: it counts as up.
    pub is_checked: bool,
}

/// `send-proxy`, `send-proxy-authority`, `send-proxy-crc32c`: a PROXY protocol version 2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendProxy {
    /// `send-proxy-authority`: adds PP2_TYPE_AUTHORITY with the peeked name.
    pub authority: bool,
    /// `send-proxy-crc32c`: adds PP2_TYPE_CRC32C.
    pub crc32c: bool,
}

/// `check`
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// `type`, with what belongs to it.
    pub probe: Probe,
    /// `port`: another than the server's.
    pub port: Option<u16>,
    /// `interval`: from the start of one check to the start of the next.
    pub interval: Duration,
    /// `timeout`: for a whole check.
    pub timeout: Duration,
    /// `rise`: successes in a row that bring a server up.
    pub rise: NonZeroU32,
    /// `fall`: failures in a row that take a server down.
    pub fall: NonZeroU32,
    /// `jitter`: percent of the interval, 0 to 50, by which each interval is randomly longer or shorter.
    pub jitter_percent: u8,
    /// `send-proxy`: a PROXY LOCAL header goes first. Default: as the backend's, unless the check has its own port.
    pub send_proxy: bool,
}

/// What a check does once connected.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// `tcp`: connecting is enough.
    Tcp,
    /// `http`: an HTTP/1.1 request whose status counts.
    Http {
        /// `method`: default GET.
        method: String,
        /// `path`: default /.
        path: String,
        /// `host`: the Host header; default: the server's address.
        host: Option<String>,
        /// `expect`: status codes as inclusive ranges; default 200–399.
        expect: Vec<(u16, u16)>,
    },
}

/// `keepalive`: TCP keepalive (tcp(7): TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `idle`: before the first probe.
    pub idle: Duration,
    /// `interval`: between probes.
    pub interval: Duration,
    /// `count`: probes without an answer before the connection is dead.
    pub count: u8,
}

/// `path` and `path-required`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathChoice {
    /// `path`
    pub path: PathWish,
    /// `path-required`: refuse a connection rather than fall back.
    pub is_required: bool,
}

/// `path`: how bytes should be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathWish {
    /// `auto`: the best that works here.
    Auto,
    /// `splice`
    Splice,
    /// `copy`
    Copy,
}

/// Names in a configuration, to their positions.
pub type BackendNames = BTreeMap<String, BackendId>;

#[cfg(test)]
mod tests;
