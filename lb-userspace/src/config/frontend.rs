// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[frontend.NAME]`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use lb_common::reason::HelloReason;

use super::address::{self, Purpose};
use super::names::parse_own_name;
use super::problem::Place;
use super::reader::Reader;
use super::suggest::closest;
use super::value::Value;
use super::{
    BackendId, BackendNames, Frontend, Mode, PathChoice, Policy, TlsPassthrough, limits, overlaps, proxy,
    route, tcp,
};

/// The backends that frontends may name.
pub(super) struct Backends {
    pub(super) names: BackendNames,
    pub(super) used: RefCell<BTreeSet<BackendId>>,
}

/// Sockets that the file binds so far, and where it does.
pub(super) type Bound = Vec<(SocketAddr, Place)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    TlsPassthrough,
}

/// Reads one frontend.
pub(super) fn read(
    at: &Value<'_, '_>,
    name: &str,
    reader: Reader<'_, '_>,
    backends: &Backends,
    bound: &mut Bound,
) -> Option<Frontend> {
    let name = parse_own_name(at, name);
    let bind = reader.required(reader.own("bind"), "bind", "bind = \"0.0.0.0:443\"");
    let bind = bind.and_then(|value| addresses(&value, bound));
    let accept_proxy = proxy::accept(&reader);
    let mode = mode(&reader, backends);
    let max_connections = reader.optional_count(&limits::FRONTEND_MAX_CONNECTIONS);
    let backlog = reader.nonzero(&limits::BACKLOG);
    let mss = reader.optional_count(&limits::MSS);
    let keepalive = tcp::keepalive(&reader);
    let user_timeout = reader.duration_or_off(&limits::USER_TIMEOUT);
    let idle_timeout = reader.duration_or_off(&limits::FRONTEND_IDLE_TIMEOUT);
    let half_close_timeout = reader.duration_or_off(&limits::FRONTEND_HALF_CLOSE_TIMEOUT);
    let path = tcp::path(&reader);
    reader.finish();
    Some(Frontend {
        name: name?,
        bind: bind?,
        accept_proxy: accept_proxy?,
        mode: mode?,
        max_connections: max_connections?,
        backlog: backlog?,
        mss: mss?,
        keepalive: keepalive?,
        user_timeout: user_timeout?,
        idle_timeout: idle_timeout?,
        half_close_timeout: half_close_timeout?,
        path: path?.unwrap_or(PathChoice::DEFAULT),
    })
}

fn addresses(value: &Value<'_, '_>, bound: &mut Bound) -> Option<Vec<SocketAddr>> {
    let addresses: Vec<_> = value.list().iter().map(|entry| bind(entry, bound)).collect();
    addresses.into_iter().collect::<Option<Vec<_>>>().filter(|addresses| !addresses.is_empty())
}

/// Reads an address to listen on.
fn bind(value: &Value<'_, '_>, bound: &mut Bound) -> Option<SocketAddr> {
    let address = address::parse(value.string()?, Purpose::Bind).map_err(|text| value.error(text)).ok()?;
    take(value, address, bound).then_some(address)
}

/// Notes that an address is bound; `false` if another socket of the file excludes it.
pub(super) fn take(value: &Value<'_, '_>, address: SocketAddr, bound: &mut Bound) -> bool {
    if let Some((other, place)) = bound.iter().find(|(other, _)| address::clash(*other, address)) {
        value.error(if *other == address {
            format!("is bound in line {} already", place.line)
        } else {
            format!("cannot be bound together with \"{other}\" of line {}: one covers the other", place.line)
        });
        return false;
    }
    bound.push((address, value.place()));
    true
}

fn mode(reader: &Reader<'_, '_>, backends: &Backends) -> Option<Mode> {
    let kinds = [("tcp", Kind::Tcp), ("tls-passthrough", Kind::TlsPassthrough)];
    let kind = reader.required(reader.key("mode"), "mode", "mode = \"tls-passthrough\" or mode = \"tcp\"");
    let kind = kind.and_then(|value| value.one_of(&kinds));
    let default = reader.own("default-backend");
    if kind == Some(Kind::Tcp) && default.is_none() {
        let example = "default-backend = \"…\"; mode \"tcp\" has no other way to choose";
        reader.required(None, "default-backend", example);
    }
    let default = default.map(|value| backends.named(&value));
    // Read in either mode, so that mistakes inside are reported however the mode ends up.
    let settings = tls_passthrough(reader, backends, default.flatten());
    match kind? {
        Kind::Tcp => {
            refuse_tls_keys(reader);
            Some(Mode::Tcp { backend: default?? })
        }
        Kind::TlsPassthrough => {
            if matches!(default, Some(None)) {
                return None;
            }
            Some(Mode::TlsPassthrough(Box::new(settings?)))
        }
    }
}

/// The keys that mean something only where the ClientHello is read.
const TLS_KEYS: [&str; 4] = ["client-hello-timeout", "client-hello-max", "client-hello-wire-max", "route"];

fn refuse_tls_keys(reader: &Reader<'_, '_>) {
    let policies = HelloReason::ALL.into_iter().map(policy_key);
    for key in TLS_KEYS.into_iter().chain(policies) {
        if let Some(value) = reader.own(key) {
            value.error_with_others(
                "only for mode \"tls-passthrough\": mode \"tcp\" never looks at what the client sends, so there is no name to go by",
            );
        }
    }
}

fn tls_passthrough(
    reader: &Reader<'_, '_>,
    backends: &Backends,
    default: Option<BackendId>,
) -> Option<TlsPassthrough> {
    let client_hello_timeout = reader.duration(&limits::CLIENT_HELLO_TIMEOUT);
    let client_hello_max = reader.size(&limits::CLIENT_HELLO_MAX);
    let client_hello_wire_max = reader.size(&limits::CLIENT_HELLO_WIRE_MAX);
    if let (Some(max), Some(wire_max)) = (client_hello_max, client_hello_wire_max)
        && wire_max <= max
        && let Some(value) = reader.key("client-hello-wire-max").or_else(|| reader.key("client-hello-max"))
    {
        value.error_with_others(
            "client-hello-wire-max must be larger than client-hello-max: record headers come on top",
        );
    }
    let policies = HelloReason::ALL.map(|reason| policy(reader, reason, backends, default));
    let routes: Vec<_> =
        reader.tables("route").into_iter().map(|table| route::read(table, backends)).collect();
    let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
    overlaps::warn(reader.cx, &routes);
    let policies = policies.into_iter().collect::<Option<Vec<_>>>()?;
    Some(TlsPassthrough {
        client_hello_timeout: client_hello_timeout?,
        client_hello_max: usize::try_from(client_hello_max?).ok()?,
        client_hello_wire_max: usize::try_from(client_hello_wire_max?).ok()?,
        policies: policies.try_into().ok()?,
        routes: routes.into_iter().map(|read| read.route).collect(),
    })
}

/// The key of the policy for a reason.
pub(super) const fn policy_key(reason: HelloReason) -> &'static str {
    match reason {
        HelloReason::NoName => "on-no-name",
        HelloReason::UnknownName => "on-unknown-name",
        HelloReason::NotTls => "on-not-tls",
        HelloReason::Malformed => "on-malformed",
        HelloReason::TooLarge => "on-too-large",
        HelloReason::Timeout => "on-timeout",
    }
}

fn policy(
    reader: &Reader<'_, '_>,
    reason: HelloReason,
    backends: &Backends,
    default: Option<BackendId>,
) -> Option<Policy> {
    let Some(value) = reader.key(policy_key(reason)) else {
        let default = default.filter(|_| matches!(reason, HelloReason::NoName | HelloReason::UnknownName));
        return Some(default.map_or(Policy::Reject, Policy::Backend));
    };
    if value.get().as_str() == Some(Policy::REJECT) {
        return Some(Policy::Reject);
    }
    backends.named_or(&value, " or \"reject\"").map(Policy::Backend)
}

impl Backends {
    /// The backend that a value names.
    pub(super) fn named(&self, value: &Value<'_, '_>) -> Option<BackendId> {
        self.named_or(value, "")
    }

    fn named_or(&self, value: &Value<'_, '_>, or: &str) -> Option<BackendId> {
        let name = value.string()?;
        if let Some(id) = self.names.get(name) {
            self.used.borrow_mut().insert(*id);
            return Some(*id);
        }
        let words = self.names.keys().map(String::as_str);
        let hint = match closest(name, words.chain((!or.is_empty()).then_some(Policy::REJECT))) {
            Some(near) => format!("; did you mean \"{near}\"?"),
            None => String::new(),
        };
        value.error_with_others(format!("must be the name of a backend{or}; there is no such backend{hint}"));
        None
    }
}
