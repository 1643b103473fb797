// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[frontend.NAME]` and its routes.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use lb_common::reason::HelloReason;

use super::{AcceptProxy, Keepalive, PathChoice};

/// `[frontend.NAME]`: where connections come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    /// The table's name.
    pub name: Arc<str>,
    /// `bind`: at least one address to listen on; port 0 asks the kernel for a free one.
    pub bind: Vec<SocketAddr>,
    /// `accept-proxy-from`: whose connections begin with a PROXY header; `None`: nobody's.
    pub accept_proxy: Option<AcceptProxy>,
    /// `mode`, with what belongs to it.
    pub mode: Mode,
    /// `max-connections`: open client connections of this frontend.
    pub max_connections: Option<NonZeroU32>,
    /// `backlog`: connections that the kernel holds complete before accept; the kernel caps it at net.core.somaxconn.
    pub backlog: NonZeroU32,
    /// `mss`: the largest segment that clients are told of, in bytes of payload and options; `None`: what the interfaces take.
    pub mss: Option<NonZeroU32>,
    /// `keepalive` of the client's leg.
    pub keepalive: Option<Keepalive>,
    /// `user-timeout` of the client's leg: how long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7)).
    pub user_timeout: Option<Duration>,
    /// `idle-timeout`: no byte either way; the shorter of this and the backend's counts. `None`: the backend's alone.
    pub idle_timeout: Option<Duration>,
    /// `half-close-timeout`: no byte while one direction has ended, likewise.
    pub half_close_timeout: Option<Duration>,
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

    /// The backend, if there is one.
    pub fn backend(self) -> Option<BackendId> {
        match self {
            Self::Reject => None,
            Self::Backend(backend) => Some(backend),
        }
    }
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
