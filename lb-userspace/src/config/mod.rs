// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration as types that cannot be wrong. [`Config::parse`] is the only way to make one, and it reports every problem
//! of the text at once.

use std::collections::BTreeMap;

mod address;
mod backend;
mod balance;
mod check;
mod context;
mod frontend;
pub mod limits;
mod load;
mod names;
pub mod needs;
mod overlaps;
mod packet;
mod problem;
mod process;
mod proxy;
mod reader;
mod render;
mod resolver;
mod root;
mod route;
mod route_names;
mod source;
mod source_address;
mod suggest;
mod syntax;
mod tcp;
mod types;
pub mod units;
mod value;

pub use context::ReadFile;
pub use load::{LoadError, Loaded};
pub use names::parse_name;
pub use packet::PACKET_STATE;
pub use problem::{Place, Problem, Problems};
pub use types::{
    AcceptProxy, Address, Admin, AdminUser, Authorities, Backend, BackendId, Balance, BalanceFactor,
    BytePattern, Check, CheckTls, Family, Frontend, Global, HashOn, Keepalive, Log, LogFormat, LogLevel,
    LogTarget, Lookup, Mode, NamePattern, Observe, OnError, PathChoice, PathWish, Policy, Probe, Promotion,
    ProxyTlvs, ProxyVersion, Resolver, Route, ScriptStep, SendProxy, Server, TlsPassthrough,
};

/// A whole valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What concerns the process.
    pub global: Global,
    /// The admin surface (metrics, health), if there is one.
    pub admin: Option<Admin>,
    /// Where the lines about connections and about the agent go.
    pub log: Log,
    /// How servers' names become addresses.
    pub resolver: Resolver,
    /// At least one, in the order of the file.
    pub frontends: Vec<Frontend>,
    /// At least one, in the order of the file.
    pub backends: Vec<Backend>,
}

/// Names in a configuration, to their positions.
pub type BackendNames = BTreeMap<String, BackendId>;

#[cfg(test)]
mod tests;
