// SPDX-License-Identifier: MIT OR Apache-2.0
//! `check`: how a backend's servers are probed.

mod http;
mod pattern;
mod script;
mod tls;

use std::time::Duration;

use super::context::Depends;
use super::limits::Limit;
use super::reader::Reader;
use super::value::Value;
use super::{Check, Observe, OnError, Probe, ProxyVersion, Server, limits, proxy};

/// The values of `type`.
pub(super) const KINDS: [(&str, Kind); 5] = [
    ("tcp", Kind::Tcp),
    ("tls", Kind::Tls),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("script", Kind::Script),
];

/// The values of `verify`; true: the certificate must be valid.
pub(super) const VERIFY: [(&str, bool); 2] = [("required", true), ("none", false)];

/// The values of `observe`.
pub(super) const OBSERVE: [(&str, bool); 2] = [("off", false), ("connections", true)];

/// The values of `on-error`.
pub(super) const ON_ERROR: [(&str, OnError); 4] = [
    ("fast-interval", OnError::FastInterval),
    ("fail-check", OnError::FailCheck),
    ("sudden-death", OnError::SuddenDeath),
    ("mark-down", OnError::MarkDown),
];

/// `type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Tls,
    Http,
    Https,
    Script,
}

impl Kind {
    /// The type of a check.
    pub(super) fn of(check: &Check) -> Self {
        match (&check.probe, check.tls.is_some()) {
            (Probe::Script(_), _) => Self::Script,
            (Probe::Tcp, false) => Self::Tcp,
            (Probe::Tcp, true) => Self::Tls,
            (Probe::Http { .. }, false) => Self::Http,
            (Probe::Http { .. }, true) => Self::Https,
        }
    }
}

/// Reads `check` of a backend; `None` inside if there is none.
pub(super) fn read(
    backend: &Reader<'_, '_>,
    sent_proxy: Option<ProxyVersion>,
    servers: &[Server],
) -> Option<Option<Check>> {
    let Some(value) = backend.key("check") else { return Some(None) };
    if value.get().as_bool() == Some(false) {
        return Some(None);
    }
    if !value.get().is_table() {
        value.error(
            "must be false or a table such as { type = \"tcp\", interval = \"2s\", fall = 3, rise = 2 }",
        );
        return None;
    }
    table(value.table()?, sent_proxy, servers).map(Some)
}

fn table(reader: Reader<'_, '_>, sent_proxy: Option<ProxyVersion>, servers: &[Server]) -> Option<Check> {
    let kind = reader.required(reader.own("type"), "type", "type = \"tcp\" or type = \"http\"");
    let kind = kind.and_then(|value| value.one_of(&KINDS));
    let request = http::read(&reader, kind);
    let script = script::read(&reader, kind);
    let tls = tls::read(&reader, kind, request.as_ref());
    let port = reader.own("port").map(|value| port(&value));
    let interval = reader.duration(&limits::CHECK_INTERVAL);
    let fast_interval = other_interval(&reader, &limits::CHECK_FAST_INTERVAL, interval);
    let down_interval = other_interval(&reader, &limits::CHECK_DOWN_INTERVAL, interval);
    let timeout = timeout(&reader, interval);
    let rise = reader.nonzero(&limits::CHECK_RISE);
    let fall = reader.nonzero(&limits::CHECK_FALL);
    let jitter = reader.count(&limits::CHECK_JITTER);
    let send_proxy = send_proxy(&reader, sent_proxy, port.is_some(), servers);
    let observe = observe(&reader);
    reader.finish();
    let probe = match kind? {
        Kind::Tcp | Kind::Tls => Probe::Tcp,
        Kind::Http | Kind::Https => request?,
        Kind::Script => Probe::Script(script??),
    };
    Some(Check {
        probe,
        tls: tls?,
        port: match port {
            Some(port) => Some(port?),
            None => None,
        },
        interval: interval?,
        fast_interval: fast_interval?,
        down_interval: down_interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        jitter_percent: u8::try_from(jitter?).ok()?,
        send_proxy: send_proxy?,
        observe: observe?,
    })
}

/// Reads a port to connect to.
pub(super) fn port(value: &Value<'_, '_>) -> Option<u16> {
    let port = value.integer().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    if port.is_none() {
        value.error("must be a port between 1 and 65535");
    }
    port
}

/// An interval that is the other one unless it is set.
fn other_interval(
    reader: &Reader<'_, '_>,
    limit: &Limit<Duration>,
    interval: Option<Duration>,
) -> Option<Duration> {
    reader.own(limit.key).map_or(interval, |value| value.duration(limit))
}

fn timeout(reader: &Reader<'_, '_>, interval: Option<Duration>) -> Option<Duration> {
    let Some(value) = reader.own(limits::CHECK_TIMEOUT.key) else {
        return interval.map(|interval| interval.min(limits::CHECK_TIMEOUT_DEFAULT_MAX));
    };
    let timeout = value.duration(&limits::CHECK_TIMEOUT)?;
    if interval.is_some_and(|interval| timeout > interval) {
        value.warn("is longer than the interval: the next check waits for this one to end");
    }
    Some(timeout)
}

/// Servers that are checked on a port of their own may speak another protocol there, so the backend's header is no guide for them.
fn send_proxy(
    reader: &Reader<'_, '_>,
    sent_proxy: Option<ProxyVersion>,
    has_port: bool,
    servers: &[Server],
) -> Option<Option<ProxyVersion>> {
    if let Some(value) = reader.own("send-proxy") {
        return value.one_of(&proxy::SEND_PROXY);
    }
    let checked = || servers.iter().filter(|server| server.is_checked);
    let own_ports = checked().filter(|server| server.check_port.is_some()).count();
    if sent_proxy.is_some() && !has_port && own_ports > 0 && own_ports < checked().count() {
        reader.error(
            Depends::OnOthers,
            "send-proxy is needed here: some servers have a check-port and some have not, so \"v1\", \"v2\" or \"off\" cannot be inferred"
                .into(),
        );
    }
    Some(sent_proxy.filter(|_| !has_port && own_ports == 0))
}

/// Reads what traffic says about servers.
fn observe(reader: &Reader<'_, '_>) -> Option<Option<Observe>> {
    let is_on = reader.own("observe").map_or(Some(false), |value| value.one_of(&OBSERVE));
    for key in [limits::CHECK_ERROR_LIMIT.key, "on-error"] {
        if let (Some(value), Some(false)) = (reader.own(key), is_on) {
            value.error_with_others("needs observe = \"connections\" beside it: nothing is counted without");
        }
    }
    let error_limit = reader.nonzero(&limits::CHECK_ERROR_LIMIT);
    let on_error = reader.own("on-error").map_or(Some(OnError::FailCheck), |value| value.one_of(&ON_ERROR));
    let observe = Observe { error_limit: error_limit?, on_error: on_error? };
    Some(is_on?.then_some(observe))
}
