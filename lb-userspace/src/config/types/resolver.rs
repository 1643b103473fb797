// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that go by a name, and `[resolver]`, which says how names become addresses.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Where an entry `[[backend.NAME.server]]` has its server, or its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `address = "IP:port"`
    Ip(SocketAddr),
    /// `address = "name:port"`: every address of a host name, each a server.
    Host {
        /// Lower case, without a trailing dot; complete, no search list applies.
        name: Arc<str>,
        /// The port of all of them.
        port: u16,
        /// Which addresses.
        lookup: Lookup,
    },
    /// `srv`: the hosts, ports, weights and priorities of SRV records (RFC 2782).
    Service {
        /// As of hosts.
        name: Arc<str>,
        /// Which addresses of the hosts.
        lookup: Lookup,
    },
}

/// Which of a name's addresses become servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    /// `family`
    pub family: Family,
    /// `max-addresses`: more than that are left out.
    pub max_addresses: u32,
}

/// `family`: the address families that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `any`: A and AAAA records.
    Any,
    /// `ipv4`: A records.
    Ipv4,
    /// `ipv6`: AAAA records.
    Ipv6,
}

/// `[resolver]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// `servers`: DNS servers; empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// `timeout`: of one attempt.
    pub timeout: Duration,
    /// `attempts`: how often all servers are asked before a resolution has failed.
    pub attempts: NonZeroU32,
    /// `ttl-min`: an answer counts for so long at least.
    pub ttl_min: Duration,
    /// `ttl-max`: an answer counts for so long at most; not less than `ttl_min`.
    pub ttl_max: Duration,
    /// `hold-nx`: how long the last answer still counts when DNS says that there is none any more.
    pub hold_nx: Duration,
}

impl Address {
    /// The address, if it needs no resolution.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Host { .. } | Self::Service { .. } => None,
        }
    }

    /// How a name is to be looked up, if it is one.
    pub fn lookup(&self) -> Option<Lookup> {
        match self {
            Self::Ip(_) => None,
            Self::Host { lookup, .. } | Self::Service { lookup, .. } => Some(*lookup),
        }
    }

    /// How many servers it may stand for.
    pub fn servers_max(&self) -> u32 {
        self.lookup().map_or(1, |lookup| lookup.max_addresses)
    }
}

/// As the configuration has it; a service as its name alone.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host { name, port, .. } => write!(f, "{name}:{port}"),
            Self::Service { name, .. } => f.write_str(name),
        }
    }
}

/// What holds where the configuration is silent.
impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(1),
            attempts: NonZeroU32::MIN.saturating_add(2),
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_secs(300),
            hold_nx: Duration::from_secs(30),
        }
    }
}
