// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a connection would go, and why.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use lb_common::reason::HelloReason;

use crate::config::{
    AcceptProxy, Address, Backend, BackendId, Balance, Config, Frontend, HashOn, Mode, NamePattern, Policy,
    ProxyTlvs, ProxyVersion, Route, SendProxy, Server, TlsPassthrough, units::format_duration,
};
use crate::prelude::hello::AlpnList;
use crate::route::{MatchKind, Router};

/// A client as the command line describes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// The frontend; `None`: each.
    pub(super) frontend: Option<&'a str>,
    /// The server name in the ClientHello, normalised.
    pub(super) name: Option<&'a str>,
    /// The protocols it offers.
    pub(super) alpn: &'a [String],
    /// Its address.
    pub(super) from: Option<IpAddr>,
}

impl Question<'_> {
    fn is_asked(&self) -> bool {
        self.frontend.is_some() || self.name.is_some() || !self.alpn.is_empty() || self.from.is_some()
    }
}

impl fmt::Display for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Where a connection goes: ")?;
        match self.name {
            Some(name) => write!(f, "name {name}")?,
            None => f.write_str("no name")?,
        }
        match self.alpn {
            [] => f.write_str(", no ALPN")?,
            alpn => write!(f, ", ALPN {}", alpn.join(","))?,
        }
        self.from.map_or(Ok(()), |from| write!(f, ", from {from}"))
    }
}

/// Lines that say where such a client goes; `None` if nothing was asked.
///
/// # Errors
/// There is no such frontend.
pub(super) fn answer(config: &Config, question: &Question<'_>) -> Result<Option<Vec<String>>, String> {
    if let Some(name) = question.frontend
        && !config.frontends.iter().any(|frontend| &*frontend.name == name)
    {
        let names: Vec<&str> = config.frontends.iter().map(|frontend| &*frontend.name).collect();
        return Err(format!("there is no frontend {name:?}: choose from {}", names.join(", ")));
    }
    if !question.is_asked() {
        return Ok(None);
    }
    let asked = |frontend: &&Frontend| question.frontend.is_none_or(|name| &*frontend.name == name);
    Ok(Some(
        config
            .frontends
            .iter()
            .filter(asked)
            .flat_map(|frontend| at_frontend(config, frontend, question))
            .collect(),
    ))
}

fn at_frontend(config: &Config, frontend: &Frontend, question: &Question<'_>) -> Vec<String> {
    let bind: Vec<String> = frontend.bind.iter().map(ToString::to_string).collect();
    let title = format!("frontend {} ({})", frontend.name, bind.join(", "));
    if let Some(from) = question.from
        && !frontend.bind.iter().any(|bind| is_reachable(config, *bind, from))
    {
        return vec![format!("{title}: cannot be reached from {from}")];
    }
    let header = frontend.accept_proxy.as_ref().and_then(|accept| expected_header(accept, question));
    let (why, backend) = match &frontend.mode {
        Mode::Tcp { backend } => ("mode \"tcp\" does not look at the first bytes".into(), Some(*backend)),
        Mode::TlsPassthrough(settings) => decide(settings, question),
    };
    let mut lines = vec![format!("{title}: {why}")];
    lines.extend(header);
    match backend.and_then(|BackendId(id)| config.backends.get(id)) {
        Some(backend) => {
            lines.extend(at_backend(backend, question).into_iter().map(|line| format!("  {line}")))
        }
        None => lines.push("  -> closed, with a TLS alert".into()),
    }
    lines
}

/// What a frontend that reads PROXY headers expects of the client; `None`: nothing.
fn expected_header(accept: &AcceptProxy, question: &Question<'_>) -> Option<String> {
    let within = format!("a PROXY header must come first, within {}", format_duration(accept.timeout));
    match question.from {
        None => Some(format!("  from accept-proxy-from: {within}")),
        Some(from) if accept.is_from(from) => {
            Some(format!("  {from} is in accept-proxy-from: {within}; the client is who it says"))
        }
        Some(_) => None,
    }
}

/// Whether a client can reach a listening socket: in its own address family, or in IPv4 on an IPv6 socket that takes both; and a
/// loopback address from this host only.
fn is_reachable(config: &Config, bind: SocketAddr, from: IpAddr) -> bool {
    let is_family = bind.is_ipv4() == from.is_ipv4()
        || (from.is_ipv4() && bind.ip().is_unspecified() && !config.is_v6_only(bind));
    is_family && (!bind.ip().is_loopback() || from.is_loopback())
}

fn decide(settings: &TlsPassthrough, question: &Question<'_>) -> (String, Option<BackendId>) {
    let alpn: Vec<&str> = question.alpn.iter().map(String::as_str).collect();
    if let Some(matched) = Router::new(settings).route(question.name, &AlpnList::from_names(&alpn)) {
        let route = &settings.routes[matched.route];
        return (
            format!("route of line {}, {}", route.line, pattern(route, matched.kind, question)),
            Some(matched.backend),
        );
    }
    let reason = if question.name.is_some() { HelloReason::UnknownName } else { HelloReason::NoName };
    let no_route = format!("no route matches, so on-{reason} decides");
    match settings.policy(reason) {
        Policy::Reject => (format!("{no_route}: reject"), None),
        Policy::Backend(backend) => (no_route, Some(backend)),
    }
}

/// What of a route matched.
fn pattern(route: &Route, kind: MatchKind, question: &Question<'_>) -> String {
    let name = question.name.unwrap_or_default();
    let mut matching = route.names.iter().filter(|pattern| pattern.matches(name));
    let length = |pattern: &&NamePattern| match pattern {
        NamePattern::Wildcard(suffix) => Some(suffix.len()),
        NamePattern::Exact(_) | NamePattern::Regex(_) => None,
    };
    let quoted =
        |pattern: Option<&NamePattern>| pattern.map(|pattern| format!("\"{pattern}\"")).unwrap_or_default();
    let names = match kind {
        MatchKind::Exact => "the name itself".into(),
        MatchKind::Wildcard => quoted(matching.max_by_key(length)),
        MatchKind::Regex => quoted(matching.next()),
        MatchKind::Default => "any name".into(),
    };
    match &route.alpn[..] {
        [] => names,
        alpn => format!("{names} with ALPN {}", alpn.join(" or ")),
    }
}

fn at_backend(backend: &Backend, question: &Question<'_>) -> Vec<String> {
    let balance = balance_text(backend.balance);
    let (backups, active): (Vec<&Server>, Vec<&Server>) =
        backend.servers.iter().partition(|server| server.is_backup);
    let mut lines =
        vec![format!("-> backend {}, {balance} over {} servers", backend.name, active.len().max(1))];
    if active.len() <= 1 {
        lines = vec![format!("-> backend {}", backend.name)];
    }
    lines.extend(active.iter().map(|server| format!("   {}", describe(server, ""))));
    lines.extend(backups.iter().map(|server| format!("   {}", describe(server, ", backup"))));
    lines.extend(backend.send_proxy.map(|header| format!("   {}", describe_header(header, question))));
    lines
}

/// What the header towards the server says.
fn describe_header(header: SendProxy, question: &Question<'_>) -> String {
    let from = question.from.map_or("the client's address".into(), |from| from.to_string());
    let version = match header.version() {
        ProxyVersion::V1 => "v1",
        ProxyVersion::V2 => "v2",
    };
    let ProxyTlvs { authority, alpn, unique_id, crc32c: _ } = header.tlvs();
    let authority =
        question.name.filter(|_| authority).map_or(String::new(), |name| format!(", authority {name}"));
    let alpn =
        question.alpn.first().filter(|_| alpn).map_or(String::new(), |first| format!(", ALPN {first}"));
    let unique_id = if unique_id { ", a unique id" } else { "" };
    format!("PROXY {version} header: source {from}{authority}{alpn}{unique_id}")
}

/// How a backend chooses, in words.
fn balance_text(balance: Balance) -> String {
    let (word, bound) = match balance {
        Balance::RoundRobin => ("round-robin", None),
        Balance::LeastConnections => ("least-connections", None),
        Balance::Random => ("random", None),
        Balance::Source { bound } => ("source", bound),
        Balance::Maglev { on: HashOn::Source, bound } => ("maglev by the client's address", bound),
        Balance::Maglev { on: HashOn::Sni, bound } => ("maglev by the server name", bound),
    };
    let bound = bound.map_or(String::new(), |bound| format!(" (at most {} % of its share)", bound.percent()));
    format!("{word}{bound}")
}

fn describe(server: &Server, role: &str) -> String {
    let limit = server.max_connections.map_or(String::new(), |max| format!(", at most {max} connections"));
    let (address, weight) = (&server.address, server.weight);
    let place = match address {
        Address::Ip(_) => format!("{address}, weight {weight}"),
        Address::Host { .. } => format!("{address} (each of its addresses), weight {weight}"),
        Address::Service { .. } => format!("{address} (its SRV records)"),
    };
    format!("server {} {place}{limit}{role}", server.name)
}
