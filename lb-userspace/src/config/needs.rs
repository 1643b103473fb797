// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a configuration asks of the system: capabilities and file descriptors. Pure: what the system grants is an argument.

use std::net::SocketAddr;

use super::{Address, Config, Family, Frontend, PathWish};
use crate::privileges::Capability;

/// Standard streams, epoll instances, wake-ups, signals, the log, and what comes and goes: connections about to be refused.
pub const RESERVE: u64 = 32;

/// Descriptors of one connection: its two sockets.
pub const PER_CONNECTION: u64 = 2;

/// Descriptors of one pipe: its two ends.
pub const PER_PIPE: u64 = 2;

/// Connections for which there is one pipe: pipes are lent only while bytes are inside (as HAProxy's maxpipes).
const CONNECTIONS_A_PIPE: u64 = 4;

/// Pages of all pipes of the process: beyond fs.pipe-user-pages-soft (16,384 by default; pipe(7)) an unprivileged user's pipes shrink to
/// two pages.
pub const PIPE_PAGES_MAX: u64 = 16_384;

/// Pages of a pipe as it is made (pipe(7)).
pub const PIPE_PAGES: u64 = 16;

/// Pages of a wide pipe. An unprivileged user may ask for twice as many (fs.pipe-max-size, 1 MiB by default; pipe(7)), but what that gains
/// is lost again in the caches.
pub const WIDE_PIPE_PAGES: u64 = 128;

/// Most wide pipes: they take half of [`PIPE_PAGES_MAX`].
pub const WIDE_PIPES_MAX: u64 = PIPE_PAGES_MAX / 2 / WIDE_PIPE_PAGES;

/// Most pipes, whatever the limit: the others take the other half.
pub const PIPES_MAX: u64 = WIDE_PIPES_MAX + PIPE_PAGES_MAX / 2 / PIPE_PAGES;

/// Descriptors of a worker's runtime: its epoll instance, and where other threads call it.
const PER_WORKER: u64 = 2;

/// Descriptors of a worker for path `sockmap`: three maps and another epoll instance (twice).
const PER_WORKER_INSIDE: u64 = 5;

/// Descriptors of the process for path `sockmap`: maps, program, its BTF.
const INSIDE: u64 = 12;

/// Most interfaces at which the programs of path `packet` are. Service managers are asked to keep 512 descriptors (FileDescriptorStoreMax=): links, two an
/// interface, and eight maps.
pub const PACKET_INTERFACES: u64 = 128;

/// Descriptors of the process for path `packet`: maps, four programs, their BTF, two sockets for resets, one that says which ports are in use, two for
/// connection tracking, four for routes and interfaces (two that ask, two that hear of changes), one for whether SYNs ask for ECN, and a link for each direction of each
/// interface.
const PACKET: u64 = 34 + 2 * PACKET_INTERFACES;

/// Most connections to the admin surface. One more is there for the moment in which it takes the place of another; that one is
/// in the reserve.
pub const ADMIN_CONNECTIONS: u32 = 32;

/// Most questions to DNS servers that are under way at the same time, however many names there are.
const QUERIES_MAX: u64 = 32;

/// Questions for the hosts of one service at the same time.
const QUERIES_PER_SERVICE: u64 = 8;

/// Sockets of one question to one DNS server: the first, and three that ask again while no answer comes.
const PER_QUERY: u64 = 4;

/// Of what listeners and workers leave, checks and questions to DNS servers may always have one part in so many. More is theirs only
/// where the wished connections leave it: a name may have far fewer addresses than it is allowed, and who checks or asks can wait.
const HELPERS_SHARE: u64 = 4;

/// DNS servers where the system's count (MAXNS, resolv.conf(5)).
pub const SYSTEM_SERVERS_MAX: usize = 3;

/// How a limit of open files is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Listening sockets (one an address, and one more a worker), and the admin surface.
    pub listening: u64,
    /// Checks that may run at the same time; further ones wait. Where there is room: one a checked server, for names as many as they
    /// may have addresses.
    pub checks: u64,
    /// Questions to DNS servers that may be under way at the same time; further ones wait. 0 if there is no name.
    pub queries: u64,
    /// Sockets of these questions.
    pub resolver: u64,
    /// The workers' runtimes.
    pub runtime: u64,
    /// Most connections; 0 if there is no room for one.
    pub connections: u32,
    /// Most pipes; where more would be needed, bytes are copied.
    pub pipes: u32,
}

impl Descriptors {
    /// Divides a limit for a configuration. Connections come before checks, and one has a place as long as there is room for it.
    pub fn divide(limit: u64, config: &Config) -> Self {
        let bare = Self::bare(config);
        let room = limit.saturating_sub(bare.fixed());
        let wished = config.global.max_connections.map_or(u64::from(u32::MAX), |max| u64::from(max.get()));
        let spare = room.saturating_sub(descriptors_of(wished));
        let divided = bare.with_helpers(config, spare.max(room / HELPERS_SHARE));
        let fitting = fitting(limit.saturating_sub(divided.fixed())).max(fitting(room).min(1));
        let connections = wished.min(fitting);
        Self {
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            pipes: u32::try_from(pipes(connections)).unwrap_or(u32::MAX),
            ..divided
        }
    }

    /// Descriptors that a number of connections need, with everything else.
    pub fn needed(connections: u64, config: &Config) -> u64 {
        Self::bare(config).with_helpers(config, u64::MAX).fixed() + descriptors_of(connections)
    }

    /// The least limit with which a connection has a place.
    pub fn least(config: &Config) -> u64 {
        Self::bare(config).fixed() + descriptors_of(1)
    }

    /// What is needed whatever the number of connections.
    pub fn fixed(&self) -> u64 {
        self.listening + self.checks + self.resolver + self.runtime + RESERVE
    }

    /// What the limit makes checks and questions wait for, in words; `None` if nothing.
    pub fn waiting(&self, config: &Config) -> Option<String> {
        let (checks, queries) = (checks_max(config), queries_max(config));
        if (self.checks, self.queries) == (checks, queries) {
            return None;
        }
        let bare = Self::bare(config);
        let helpers = checks + resolver_sockets(queries, config);
        let by_share = bare.fixed() + HELPERS_SHARE * helpers;
        let by_wish = config.global.max_connections.map(|max| Self::needed(u64::from(max.get()), config));
        let enough = by_wish.map_or(by_share, |needed| needed.min(by_share));
        Some(format!(
            "{} of {checks} health checks and {} of {queries} questions to DNS servers may run at the same time, further ones wait; \
             {enough} descriptors are enough for all",
            self.checks, self.queries
        ))
    }

    /// Without checks, questions and connections.
    fn bare(config: &Config) -> Self {
        let workers = config.global.workers.get() as u64;
        let addresses: u64 = config.frontends.iter().map(|frontend| frontend.bind.len() as u64).sum();
        let admin = if config.admin.is_some() { 1 + u64::from(ADMIN_CONNECTIONS) } else { 0 };
        Self {
            listening: addresses * (1 + workers) + admin,
            checks: 0,
            queries: 0,
            resolver: 0,
            runtime: runtime(config),
            connections: 0,
            pipes: 0,
        }
    }

    /// With so many descriptors at most for checks and questions, or what one of each takes: neither ever stops.
    fn with_helpers(self, config: &Config, most: u64) -> Self {
        let (checks, queries) = (checks_max(config), queries_max(config));
        // Questions get what checks leave, or half.
        let for_queries = most.saturating_sub(checks).max(most / 2);
        let fitting = (for_queries / dns_servers(config)).saturating_sub(1) / PER_QUERY;
        let queries = fitting.max(1).min(queries);
        let resolver = resolver_sockets(queries, config);
        Self { checks: most.saturating_sub(resolver).max(1).min(checks), queries, resolver, ..self }
    }
}

/// Connections that find room, with their pipes.
fn fitting(room: u64) -> u64 {
    // One pipe for so many connections: solved for the connections.
    let group = PER_CONNECTION * CONNECTIONS_A_PIPE + PER_PIPE;
    (u128::from(room) * u128::from(CONNECTIONS_A_PIPE) / u128::from(group)) as u64
}

fn descriptors_of(connections: u64) -> u64 {
    connections * PER_CONNECTION + pipes(connections) * PER_PIPE
}

/// Checks that there may be at the same time: one a checked server, for names as many as they may have addresses.
fn checks_max(config: &Config) -> u64 {
    let checked = config.backends.iter().filter(|backend| backend.check.is_some());
    let servers = checked.flat_map(|backend| backend.servers.iter().filter(|server| server.is_checked));
    servers.map(|server| u64::from(server.address.servers_max())).sum()
}

/// Most sockets of so many questions: over UDP, and a TCP connection with each server for answers that UDP truncates.
fn resolver_sockets(queries: u64, config: &Config) -> u64 {
    if queries == 0 { 0 } else { dns_servers(config) * (queries * PER_QUERY + 1) }
}

fn dns_servers(config: &Config) -> u64 {
    match config.resolver.servers.len() {
        0 => SYSTEM_SERVERS_MAX as u64,
        named => named as u64,
    }
}

/// Questions to DNS servers that there may be at the same time, where descriptors do not limit them. 0 if there is no name.
pub fn queries_max(config: &Config) -> u64 {
    let queries = |address: &Address| match address {
        Address::Ip(_) => 0,
        Address::Host { lookup, .. } if lookup.family == Family::Any => 2,
        Address::Host { .. } => 1,
        Address::Service { .. } => QUERIES_PER_SERVICE,
    };
    let servers = config.backends.iter().flat_map(|backend| &backend.servers);
    servers.map(|server| queries(&server.address)).sum::<u64>().min(QUERIES_MAX)
}

fn runtime(config: &Config) -> u64 {
    let workers = config.global.workers.get() as u64;
    let inside = if wants_sockmap(config) { workers * PER_WORKER_INSIDE + INSIDE } else { 0 };
    let packet = if wants_packet(config) { PACKET + workers } else { 0 };
    workers * PER_WORKER + inside + packet
}

/// The capabilities that `lb run` keeps after its start.
pub fn kept_capabilities(config: &Config) -> &'static [Capability] {
    if wants_packet(config) { &[Capability::NetAdmin] } else { &[] }
}

/// The capabilities that `lb run` needs at start. Afterwards: [`kept_capabilities`].
pub fn capabilities(config: &Config, unprivileged_port_start: u16) -> Vec<Capability> {
    let mut needed = Vec::new();
    if wants_sockmap(config) || wants_packet(config) {
        // The same for both.
        needed.extend(Capability::FOR_SOCKMAP);
    }
    if wants_packet(config) {
        needed.push(Capability::NetRaw);
    }
    if !privileged_binds(config, unprivileged_port_start).is_empty() {
        needed.push(Capability::NetBindService);
    }
    needed
}

/// Whether anything is to go by path `sockmap`: only then is it loaded.
pub fn wants_sockmap(config: &Config) -> bool {
    wants(config, PathWish::Sockmap)
}

/// Whether anything is to go by path `packet`: only then is it loaded.
pub fn wants_packet(config: &Config) -> bool {
    wants(config, PathWish::Packet)
}

/// Whether connections of a frontend may take path `packet`.
pub fn may_take_packet(config: &Config, frontend: &Frontend) -> bool {
    let backends = config.backends.iter().filter_map(|backend| backend.path);
    backends.chain([frontend.path]).any(|choice| choice.path == PathWish::Packet)
}

fn wants(config: &Config, path: PathWish) -> bool {
    let frontends = config.frontends.iter().map(|frontend| frontend.path);
    let backends = config.backends.iter().filter_map(|backend| backend.path);
    frontends.chain(backends).any(|choice| choice.path == path)
}

fn pipes(connections: u64) -> u64 {
    connections.div_ceil(CONNECTIONS_A_PIPE).min(PIPES_MAX)
}

/// The addresses to bind that need CAP_NET_BIND_SERVICE (capabilities(7)): ports below net.ipv4.ip_unprivileged_port_start, which
/// holds for IPv6 as well (Documentation/networking/ip-sysctl.rst).
pub fn privileged_binds(config: &Config, unprivileged_port_start: u16) -> Vec<SocketAddr> {
    let admin = config.admin.iter().map(|admin| admin.bind);
    let binds = config.frontends.iter().flat_map(|frontend| frontend.bind.iter().copied()).chain(admin);
    binds.filter(|bind| bind.port() != 0 && bind.port() < unprivileged_port_start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bind: &str, global: &str) -> Config {
        let text = format!(
            "[global]\nworkers = 2\n{global}\n[frontend.f]\nbind = {bind}\nmode = \"tcp\"\ndefault-backend = \"b\"\n\
             [backend.b]\ncheck = {{ type = \"tcp\" }}\n[[backend.b.server]]\nname = \"1\"\naddress = \"10.0.0.1:1\"\n\
             [[backend.b.server]]\nname = \"2\"\naddress = \"10.0.0.2:1\"\ncheck = false\n"
        );
        Config::parse(&text, "t.toml", &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().config
    }

    #[test]
    fn what_is_promised_fits_into_the_limit() {
        for limit in [100, 256, 1024, 20_000, 1 << 20] {
            let divided = Descriptors::divide(limit, &config("'[::]:443'", ""));
            let (connections, pipes) = (u64::from(divided.connections), u64::from(divided.pipes));
            assert!(divided.fixed() + connections * 2 + pipes * 2 <= limit + 1, "{divided:?}");
            assert!(connections > 0 && pipes > 0, "{divided:?}");
        }
    }

    #[test]
    fn a_wish_is_granted_where_it_fits() {
        let wish = config("['[::]:443', '0.0.0.0:444']", "max-connections = 5000");
        let divided = Descriptors::divide(20_000, &wish);
        assert_eq!((divided.listening, divided.checks, divided.runtime), (6, 1, 4));
        assert_eq!((divided.connections, divided.pipes), (5000, 576));
        assert_eq!(Descriptors::needed(5000, &wish), 6 + 1 + 4 + 32 + 10_000 + 1152);
        assert!(Descriptors::divide(1_000, &wish).connections < 500);
        assert_eq!(Descriptors::divide(10, &wish).connections, 0);
        assert_eq!(Descriptors::divide(u64::MAX, &config("'[::]:443'", "")).connections, u32::MAX);
    }

    #[test]
    fn the_admin_surface_is_counted_in() {
        let config = |admin: &str| config("'0.0.0.0:444'", &format!("max-connections = 9\n{admin}"));
        let listening = |admin: &str| Descriptors::divide(1_000, &config(admin)).listening;
        assert_eq!(
            listening("[admin]\nbind = '127.0.0.1:9000'"),
            listening("") + 1 + u64::from(ADMIN_CONNECTIONS)
        );
    }

    #[test]
    fn names_count_with_all_addresses_they_may_have() {
        let config = |server: &str| {
            let text = format!(
                "[frontend.f]\nbind = \"[::]:444\"\nmode = \"tcp\"\ndefault-backend = \"b\"\n[backend.b]\n\
                 check = {{ type = \"tcp\" }}\n[[backend.b.server]]\nname = \"1\"\n{server}\n"
            );
            Config::parse(&text, "t.toml", &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().config
        };
        let check = |server: &str, checks: u64, resolver: u64| {
            let divided = Descriptors::divide(1_000, &config(server));
            assert_eq!((divided.checks, divided.resolver), (checks, resolver), "{server}");
        };
        check("address = \"10.0.0.1:1\"", 1, 0);
        check("address = \"a.example:1\"\nmax-addresses = 7", 7, 3 * 9);
        check("address = \"a.example:1\"\nfamily = \"ipv6\"", 128, 3 * 5);
        check("srv = \"_a._tcp.example\"\nmax-addresses = 7\n[resolver]\nservers = \"10.0.0.1:53\"", 7, 33);
    }

    /// Addresses that may never come keep nobody out.
    #[test]
    fn connections_come_before_checks() {
        let config = |names: usize, global: &str| {
            let mut text = format!(
                "[global]\nworkers = 2\n{global}\n[admin]\nbind = \"127.0.0.1:9000\"\n[frontend.f]\nbind = \"[::]:444\"\n\
                 mode = \"tcp\"\ndefault-backend = \"b\"\n[backend.b]\ncheck = {{ type = \"tcp\" }}\n"
            );
            for name in 0..names {
                text += &format!("[[backend.b.server]]\nname = \"{name}\"\naddress = \"{name}.example:1\"\n");
            }
            Config::parse(&text, "t.toml", &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().config
        };
        let divide = |limit: u64, names: usize, global: &str| {
            let config = config(names, global);
            let divided = Descriptors::divide(limit, &config);
            let (connections, pipes) = (u64::from(divided.connections), u64::from(divided.pipes));
            assert!(connections <= 1 || divided.fixed() + connections * 2 + pipes * 2 <= limit + 1);
            (connections, divided.checks, divided.queries, divided.waiting(&config).is_some())
        };
        assert_eq!(divide(256, 1, ""), (55, 31, 1, true));
        assert_eq!(divide(1_024, 7, ""), (285, 127, 9, true));
        // Descriptors that nobody else wants are for checks.
        assert_eq!(divide(1_024, 7, "max-connections = 9"), (9, 757, 14, true));
        assert_eq!(divide(1_200, 7, "max-connections = 9"), (9, 896, 14, false));
        assert_eq!(divide(20_000, 7, ""), (7_544, 896, 14, false));
        let least = Descriptors::least(&config(7, ""));
        assert_eq!((divide(least, 7, ""), divide(least - 2, 7, "").0), ((1, 1, 1, true), 0));
        for (names, global) in [(1, ""), (7, ""), (7, "max-connections = 9"), (7, "max-connections = 90000")]
        {
            let text =
                Descriptors::divide(256, &config(names, global)).waiting(&config(names, global)).unwrap();
            let enough: u64 = text.split("; ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!(!divide(enough, names, global).3 && divide(enough - 5, names, global).3, "{text}");
        }
    }

    #[test]
    fn low_ports_are_privileged() {
        let check = |bind: &str, start: u16, expected: usize| {
            assert_eq!(privileged_binds(&config(bind, ""), start).len(), expected, "{bind} {start}");
        };
        check("['[::]:443', '0.0.0.0:8443']", 1024, 1);
        check("['[::]:443', '0.0.0.0:8443']", 80, 0);
        check("'0.0.0.0:1024'", 1024, 0);
        check("'0.0.0.0:0'", 1024, 0);
    }
}
