// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types of a valid configuration, a file for each table.

mod backend;
mod check;
mod frontend;
mod process;
mod proxy;
mod resolver;
mod tcp;

pub use backend::{Backend, Balance, BalanceFactor, HashOn, Server};
pub use check::{Authorities, BytePattern, Check, CheckTls, Observe, OnError, Probe, ScriptStep};
pub use frontend::{BackendId, Frontend, Mode, NamePattern, Policy, Route, TlsPassthrough};
pub use process::{Admin, AdminUser, Global, Log, LogFormat, LogLevel, LogTarget};
pub use proxy::{AcceptProxy, ProxyTlvs, ProxyVersion, SendProxy};
pub use resolver::{Address, Family, Lookup, Resolver};
pub use tcp::{Keepalive, PathChoice, PathWish, Promotion};
