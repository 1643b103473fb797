// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a configuration asks of the system: capabilities and file descriptors. Pure: what the system grants is an argument.

use std::net::SocketAddr;

use super::{Config, Mode, PathWish, Policy};

/// Descriptors of one connection: the client's socket and the server's.
pub const PER_CONNECTION: u64 = 2;

/// Descriptors of the two pipes that a spliced connection borrows while bytes wait in both directions.
pub const PIPES_PER_CONNECTION: u64 = 4;

/// Descriptors kept for what comes and goes: the runtime, logs, requests to the admin surface, connections about to be refused.
pub const RESERVE: u64 = 64;

/// The descriptors that a configuration needs beside those of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Listening sockets, the admin surface's counted.
    pub listeners: u64,
    /// Checks that may run at the same time: one a checked server.
    pub checks: u64,
    /// Whether some connection may be spliced and so may need pipes.
    pub has_pipes: bool,
}

impl Descriptors {
    /// Counts what a configuration needs.
    pub fn of(config: &Config) -> Self {
        let binds: usize = config.frontends.iter().map(|frontend| frontend.bind.len()).sum();
        let checked = config.backends.iter().filter(|backend| backend.check.is_some());
        let checks: usize =
            checked.map(|backend| backend.servers.iter().filter(|server| server.is_checked).count()).sum();
        Self {
            listeners: (binds + usize::from(config.admin.is_some())) as u64,
            checks: checks as u64,
            has_pipes: may_splice(config),
        }
    }

    /// Descriptors for a number of connections without pipes: with fewer, connections are turned away.
    pub fn needed(&self, connections: u64) -> u64 {
        connections.saturating_mul(PER_CONNECTION).saturating_add(self.fixed())
    }

    /// Descriptors for a number of connections that all wait with bytes in both directions: with fewer, some are copied.
    pub fn at_worst(&self, connections: u64) -> u64 {
        let pipes = if self.has_pipes { connections.saturating_mul(PIPES_PER_CONNECTION) } else { 0 };
        self.needed(connections).saturating_add(pipes)
    }

    /// The connections that a limit on descriptors allows.
    pub fn connections(&self, limit: u64) -> u64 {
        limit.saturating_sub(self.fixed()) / PER_CONNECTION
    }

    fn fixed(&self) -> u64 {
        self.listeners + self.checks + RESERVE
    }
}

/// Whether any frontend and the backends it leads to leave the path `splice` open.
fn may_splice(config: &Config) -> bool {
    let splices = |path: PathWish| matches!(path, PathWish::Auto | PathWish::Splice);
    config.frontends.iter().any(|frontend| {
        let targets: Vec<_> = match &frontend.mode {
            Mode::Tcp { backend } => vec![*backend],
            Mode::TlsPassthrough(settings) => {
                let policies = settings.policies.iter().filter_map(|policy| match policy {
                    Policy::Backend(id) => Some(*id),
                    Policy::Reject => None,
                });
                settings.routes.iter().map(|route| route.backend).chain(policies).collect()
            }
        };
        let path = |id: &super::BackendId| config.backends.get(id.0).and_then(|backend| backend.path);
        targets.iter().any(|id| splices(path(id).unwrap_or(frontend.path).path))
    })
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

    fn config(bind: &str, path: &str) -> Config {
        let text = format!(
            "[frontend.f]\nbind = {bind}\nmode = \"tcp\"\ndefault-backend = \"b\"\n[backend.b]\npath = \"{path}\"\n\
             check = {{ type = \"tcp\" }}\n[[backend.b.server]]\nname = \"1\"\naddress = \"10.0.0.1:1\"\n\
             [[backend.b.server]]\nname = \"2\"\naddress = \"10.0.0.2:1\"\ncheck = false\n"
        );
        Config::parse(&text, "t.toml", &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap().config
    }

    #[test]
    fn descriptors_are_counted() {
        let spliced = Descriptors::of(&config("['[::]:443', '0.0.0.0:444']", "auto"));
        assert_eq!(spliced, Descriptors { listeners: 2, checks: 1, has_pipes: true });
        assert_eq!((spliced.needed(1000), spliced.at_worst(1000)), (2067, 6067));
        assert_eq!((spliced.connections(2067), spliced.connections(10)), (1000, 0));
        let copied = Descriptors::of(&config("'[::]:443'", "copy"));
        assert_eq!((copied.needed(1000), copied.at_worst(1000)), (2066, 2066));
    }

    #[test]
    fn low_ports_are_privileged() {
        let check = |bind: &str, start: u16, expected: usize| {
            assert_eq!(privileged_binds(&config(bind, "auto"), start).len(), expected, "{bind} {start}");
        };
        check("['[::]:443', '0.0.0.0:8443']", 1024, 1);
        check("['[::]:443', '0.0.0.0:8443']", 80, 0);
        check("'0.0.0.0:1024'", 1024, 0);
        check("'0.0.0.0:0'", 1024, 0);
    }
}
