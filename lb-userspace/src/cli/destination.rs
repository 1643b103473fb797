// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a connection would go, and why.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use lb_common::reason::HelloReason;

use crate::config::{
    Backend, BackendId, Balance, Config, Frontend, Mode, NamePattern, Policy, Route, Server, TlsPassthrough,
};
use crate::prelude::hello::AlpnList;
use crate::route::Router;

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
    let (why, backend) = match &frontend.mode {
        Mode::Tcp { backend } => ("mode \"tcp\" does not look at the first bytes".into(), Some(*backend)),
        Mode::TlsPassthrough(settings) => decide(settings, question),
    };
    let mut lines = vec![format!("{title}: {why}")];
    match backend.and_then(|BackendId(id)| config.backends.get(id)) {
        Some(backend) => {
            lines.extend(at_backend(backend, question).into_iter().map(|line| format!("  {line}")))
        }
        None => lines.push("  -> closed, with a TLS alert".into()),
    }
    lines
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
            format!("route of line {}, {}", route.line, pattern(route, question)),
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

/// What of a route matched: the order of precedence holds inside of it too.
fn pattern(route: &Route, question: &Question<'_>) -> String {
    let name = question.name.unwrap_or_default();
    let rank = |pattern: &&NamePattern| match pattern {
        NamePattern::Exact(_) => (2, 0),
        NamePattern::Wildcard(suffix) => (1, suffix.len()),
        NamePattern::Regex(_) => (0, 0),
    };
    let names = match route.names.iter().filter(|pattern| pattern.matches(name)).max_by_key(rank) {
        Some(NamePattern::Exact(_)) => "the name itself".into(),
        Some(pattern) => format!("\"{pattern}\""),
        None => "any name".into(),
    };
    match &route.alpn[..] {
        [] => names,
        alpn => format!("{names} with ALPN {}", alpn.join(" or ")),
    }
}

fn at_backend(backend: &Backend, question: &Question<'_>) -> Vec<String> {
    let balance = match backend.balance {
        Balance::RoundRobin => "round-robin",
        Balance::LeastConnections => "least-connections",
    };
    let (backups, active): (Vec<&Server>, Vec<&Server>) =
        backend.servers.iter().partition(|server| server.is_backup);
    let mut lines =
        vec![format!("-> backend {}, {balance} over {} servers", backend.name, active.len().max(1))];
    if active.len() <= 1 {
        lines = vec![format!("-> backend {}", backend.name)];
    }
    lines.extend(active.iter().map(|server| format!("   {}", describe(server, ""))));
    lines.extend(backups.iter().map(|server| format!("   {}", describe(server, ", backup"))));
    if let Some(header) = backend.send_proxy {
        let from = question.from.map_or("the client's address".into(), |from| from.to_string());
        let authority = question
            .name
            .filter(|_| header.authority)
            .map_or(String::new(), |name| format!(", authority {name}"));
        lines.push(format!("   PROXY v2 header: source {from}{authority}"));
    }
    lines
}

fn describe(server: &Server, role: &str) -> String {
    let limit = server.max_connections.map_or(String::new(), |max| format!(", at most {max} connections"));
    format!("server {} {}, weight {}{limit}{role}", server.name, server.address, server.weight)
}
