// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb check --explain`: what a configuration amounts to on this machine. All of it is TOML, prose as comments, so that the output
//! is a configuration too.

use std::fmt::Write;

use rustix::process::{Resource, getrlimit};

use super::destination::{self, Question};
use crate::config::needs::{
    self, Descriptors, PER_CONNECTION, PER_PIPE, RESERVE, kept_capabilities, privileged_binds, wants_packet,
    wants_sockmap,
};
use crate::config::units::{Bytes, format_size};
use crate::config::{Address, Config, Mode};
use crate::path::sockmap::Limits;
use crate::privileges::{self, Capability};
use crate::route::coalescing::backends_by_name;

/// Where the kernel tells from which port on binding needs no privilege.
const PORT_START_FILE: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The kernel's default for it (include/net/ip.h: PROT_SOCK).
const PORT_START_DEFAULT: u16 = 1024;

/// What is said of certificates, which only the network knows.
const CERTIFICATES: &str = "lb check --certificates makes the checks over TLS once, and warns where one backend's certificate covers another's names";

/// What this machine grants to this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct System {
    /// net.ipv4.ip_unprivileged_port_start
    pub(super) port_start: u16,
    /// The hard RLIMIT_NOFILE, which `lb run` raises the soft one to; `None`: unlimited.
    pub(super) descriptors: Option<u64>,
}

impl System {
    /// Asks the kernel.
    pub(super) fn here() -> Self {
        let start = std::fs::read_to_string(PORT_START_FILE).ok().and_then(|text| text.trim().parse().ok());
        Self {
            port_start: start.unwrap_or(PORT_START_DEFAULT),
            descriptors: getrlimit(Resource::Nofile).maximum,
        }
    }
}

/// The whole explanation.
///
/// # Errors
/// The question names no frontend of the configuration.
pub(super) fn explain(config: &Config, question: &Question<'_>, system: &System) -> Result<String, String> {
    let destination = destination::answer(config, question)?;
    let mut text = format!("# The configuration with all defaults.\n\n{}", config.to_toml());
    section(&mut text, "Capabilities", &capabilities(config, system));
    section(&mut text, "File descriptors", &descriptors(config, system));
    if wants_sockmap(config) {
        section(&mut text, "Memory of path sockmap", &sockmap_memory(config));
    }
    if wants_packet(config) {
        section(&mut text, "Ports of path packet", &packet_ports(config));
    }
    let names = names(config);
    if !names.is_empty() {
        section(&mut text, "Names", &names);
    }
    if has_choice(config) {
        section(&mut text, "Certificates", &[CERTIFICATES.into()]);
    }
    if let Some(lines) = destination {
        section(&mut text, &question.to_string(), &lines);
    }
    Ok(text)
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    let body: String = lines.iter().fold(String::new(), |mut body, line| {
        writeln!(body, "#   {line}").expect("a String takes all text");
        body
    });
    write!(text, "\n# {title}\n{body}").expect("a String takes all text");
}

fn capabilities(config: &Config, system: &System) -> Vec<String> {
    let needed = needs::capabilities(config, system.port_start);
    let names: Vec<&str> = needed.iter().map(|capability| capability.name()).collect();
    let names = if names.is_empty() { "none".into() } else { names.join(", ") };
    let kept = privileges::list(kept_capabilities(config));
    let kept = if kept.is_empty() { "none" } else { &kept };
    let mut lines = vec![format!("at start: {names}"), format!("afterwards: {kept}")];
    if wants_packet(config) {
        let names = privileges::list(&Capability::FOR_PACKET);
        lines
            .push(format!("{names}: path packet is loaded, and CAP_NET_ADMIN stays; without them it is off"));
        lines.push(format!(
            "{}: both ends of a flow on path packet get a reset at once where lb ends it; without it, with the next that they send",
            Capability::NetRaw
        ));
    }
    if wants_sockmap(config) {
        let names = privileges::list(&Capability::FOR_SOCKMAP);
        lines.push(format!("{names}: path sockmap is loaded; without them it is off, see lb doctor"));
    }
    let binds: Vec<String> =
        privileged_binds(config, system.port_start).iter().map(ToString::to_string).collect();
    if !binds.is_empty() {
        let (binds, start) = (binds.join(", "), system.port_start);
        lines.push(format!(
            "{}: {binds}: below net.ipv4.ip_unprivileged_port_start = {start}; without it lb run ends with an error",
            Capability::NetBindService
        ));
    }
    lines
}

fn descriptors(config: &Config, system: &System) -> Vec<String> {
    let limit = system.descriptors.unwrap_or(u64::MAX);
    let divided = Descriptors::divide(limit, config);
    let Descriptors { listening, checks, queries: _, resolver, runtime, connections, pipes } = divided;
    let resolver = if resolver == 0 { String::new() } else { format!(" + {resolver} resolver") };
    let shown = system.descriptors.map_or("unlimited".into(), |limit| limit.to_string());
    let mut lines = vec![
        format!("RLIMIT_NOFILE: {shown} (the hard limit; lb run raises the soft one to it)"),
        format!(
            "{} = {listening} listening + {checks} checks{resolver} + {runtime} workers + {RESERVE} reserve",
            divided.fixed()
        ),
        format!("{PER_CONNECTION} a connection: at most {connections} connections"),
        format!("{PER_PIPE} a pipe of path splice: at most {pipes} pipes, lent only while bytes are inside"),
    ];
    lines.extend(divided.waiting(config));
    if connections == 0 {
        lines.push(format!(
            "too few for one connection: lb run ends with an error; {} are needed",
            Descriptors::least(config)
        ));
        return lines;
    }
    if let Some(wished) = config.global.max_connections
        && wished.get() > connections
    {
        let needed = Descriptors::needed(u64::from(wished.get()), config);
        lines.push(format!(
            "too few for max-connections = {wished}: {needed} are needed: set LimitNOFILE={needed} in the systemd unit, or `ulimit -Hn {needed}` as root"
        ));
    }
    lines
}

/// What may wait inside the kernel.
fn sockmap_memory(config: &Config) -> Vec<String> {
    let limits = Limits::new(config.global.sockmap_memory, config.global.sockmap_direction_memory);
    let whence = match config.global.sockmap_memory {
        Some(_) => "",
        None => ", a quarter of what net.ipv4.tcp_mem allows TCP",
    };
    let shown = |bytes| format_size(Bytes(bytes));
    vec![
        format!("all connections: {}{whence}; half of it for shares, half beyond them", shown(limits.total)),
        format!("one direction: {}", shown(limits.direction)),
    ]
}

/// What `packet-ports` allow, and what they ask for.
fn packet_ports(config: &Config) -> Vec<String> {
    let ports = config.global.packet_ports();
    let (first, last, count) = (ports.start(), ports.end(), ports.len());
    vec![
        format!("{first}-{last}: at most {count} connections to each server; others stay in user space"),
        "the kernel may give them to nobody else, and no other lb may have them, or the path is off: lb doctor looks".into(),
    ]
}

/// Whether names decide between backends somewhere.
fn has_choice(config: &Config) -> bool {
    config.frontends.iter().any(|frontend| match &frontend.mode {
        Mode::TlsPassthrough(settings) => backends_by_name(settings).len() > 1,
        Mode::Tcp { .. } => false,
    })
}

/// Which servers go by a name. They are not resolved here: a configuration is as valid where there is no network.
fn names(config: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    for backend in &config.backends {
        for server in backend.servers.iter().filter(|server| server.address.lookup().is_some()) {
            let (records, name) = match &server.address {
                Address::Service { name, .. } => ("SRV records", name.to_string()),
                address => ("addresses", address.to_string()),
            };
            let most = server.address.servers_max();
            lines.push(format!(
                "{} {}: the {records} of {name}, at most {most} servers",
                backend.name, server.name
            ));
        }
    }
    if !lines.is_empty() {
        let servers: Vec<String> = config.resolver.servers.iter().map(ToString::to_string).collect();
        let whom =
            if servers.is_empty() { "the servers of /etc/resolv.conf".into() } else { servers.join(", ") };
        lines.push(format!("lb run asks /etc/hosts and then {whom}; nobody was asked now"));
    }
    lines
}

#[cfg(test)]
mod tests;
