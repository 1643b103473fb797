// SPDX-License-Identifier: MIT OR Apache-2.0
//! `check`: how a backend's servers are probed.

use std::time::Duration;

use super::context::Depends;
use super::reader::Reader;
use super::value::Value;
use super::{Check, Probe, Server, backend, limits};

/// Status codes that count as success where the configuration does not say.
pub(super) const EXPECT_DEFAULT: (u16, u16) = (200, 399);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
}

/// Reads `check` of a backend; `None` inside if there is none.
pub(super) fn read(backend: &Reader<'_, '_>, sends_proxy: bool, servers: &[Server]) -> Option<Option<Check>> {
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
    table(value.table()?, sends_proxy, servers).map(Some)
}

fn table(reader: Reader<'_, '_>, sends_proxy: bool, servers: &[Server]) -> Option<Check> {
    let kind = reader.required(reader.own("type"), "type", "type = \"tcp\" or type = \"http\"");
    let kind = kind.and_then(|value| value.one_of(&[("tcp", Kind::Tcp), ("http", Kind::Http)]));
    let probe = probe(&reader, kind);
    let port = reader.own("port").map(|value| port(&value));
    let interval = reader.duration(&limits::CHECK_INTERVAL);
    let timeout = timeout(&reader, interval);
    let rise = reader.nonzero(&limits::CHECK_RISE);
    let fall = reader.nonzero(&limits::CHECK_FALL);
    let jitter = reader.count(&limits::CHECK_JITTER);
    let send_proxy = send_proxy(&reader, sends_proxy, port.is_some(), servers);
    reader.finish();
    Some(Check {
        probe: probe?,
        port: match port {
            Some(port) => Some(port?),
            None => None,
        },
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        jitter_percent: u8::try_from(jitter?).ok()?,
        send_proxy: send_proxy?,
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
    sends_proxy: bool,
    has_port: bool,
    servers: &[Server],
) -> Option<bool> {
    if let Some(value) = reader.own("send-proxy") {
        return value.one_of(&backend::SEND_PROXY);
    }
    let checked = || servers.iter().filter(|server| server.is_checked);
    let own_ports = checked().filter(|server| server.check_port.is_some()).count();
    if sends_proxy && !has_port && own_ports > 0 && own_ports < checked().count() {
        reader.error(
            Depends::OnOthers,
            "send-proxy is needed here: some servers have a check-port and some have not, so \"v2\" or \"off\" cannot be inferred"
                .into(),
        );
    }
    Some(sends_proxy && !has_port && own_ports == 0)
}

fn probe(reader: &Reader<'_, '_>, kind: Option<Kind>) -> Option<Probe> {
    let field = |key: &'static str| {
        let value = reader.own(key);
        if let (Some(value), Some(Kind::Tcp)) = (&value, kind) {
            value.error_with_others("only for type \"http\": type \"tcp\" sends nothing");
        }
        value
    };
    let method = field("method").map_or(Some("GET".into()), |value| method(&value));
    let path = field("path").map_or(Some("/".into()), |value| path(&value));
    let host = match field("host") {
        Some(value) => host(&value).map(Some),
        None => Some(None),
    };
    let expect = field("expect").map_or(Some(vec![EXPECT_DEFAULT]), |value| expect(&value));
    match kind? {
        Kind::Tcp => Some(Probe::Tcp),
        Kind::Http => Some(Probe::Http { method: method?, path: path?, host: host?, expect: expect? }),
    }
}

/// A method is a token and case-sensitive (RFC 9110 sections 5.6.2 and 9.1).
fn method(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(is_token) {
        value.error("must be an HTTP method such as \"GET\"");
        return None;
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        value.error(format!("methods are case-sensitive: write \"{}\"", text.to_ascii_uppercase()));
        return None;
    }
    if text == "CONNECT" {
        value.error("CONNECT opens a tunnel and has no path");
        return None;
    }
    Some(text.into())
}

/// The request target in origin form (RFC 9112 section 3.2.1).
fn path(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    if !text.starts_with('/') {
        value.error("must begin with \"/\"");
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        value.error("must be visible ASCII without \"#\": percent-encode the rest (RFC 3986 section 2.1)");
        return None;
    }
    Some(text.into())
}

fn host(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    // What RFC 3986 section 3.2 allows in host and port; a full grammar would refuse what servers accept.
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]:".contains(&b);
    if text.is_empty() || !text.bytes().all(is_allowed) {
        value.error("must be a host name, and a port if it is not 80");
        return None;
    }
    Some(text.into())
}

/// Reads `200`, `"200-399"`, or an array of those.
fn expect(value: &Value<'_, '_>) -> Option<Vec<(u16, u16)>> {
    let ranges: Vec<_> = value.list().iter().map(status_range).collect();
    ranges.into_iter().collect::<Option<Vec<_>>>().filter(|ranges| !ranges.is_empty())
}

fn status_range(value: &Value<'_, '_>) -> Option<(u16, u16)> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let range = match value.get().as_str() {
        Some(text) => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            status(from.trim()).zip(status(to.trim())).filter(|(from, to)| from <= to)
        }
        None => value.integer().and_then(|code| status(&code.to_string())).map(|code| (code, code)),
    };
    if range.is_none() {
        value.error("must be a status between 100 and 599, such as 200, or a range, such as \"200-399\"");
    }
    range
}
