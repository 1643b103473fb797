// SPDX-License-Identifier: MIT OR Apache-2.0
//! File descriptors: what the process needs besides connections, and how many connections the limit leaves room for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Standard streams, epoll instances, wake-ups, signals, the log and what libraries open.
const RESERVE: u64 = 32;

/// Descriptors a connection has: its two sockets.
const SOCKETS_A_CONNECTION: u64 = 2;

/// Descriptors a pipe has.
const ENDS_A_PIPE: u64 = 2;

/// Connections for which there is one pipe: pipes are lent only while bytes are inside (as HAProxy's maxpipes).
const CONNECTIONS_A_PIPE: u64 = 4;

/// Connections to the admin surface that are counted in; more wait or share the reserve.
const ADMIN_CONNECTIONS: u64 = 8;

/// Most pipes, whatever the limit: as many as an unprivileged user gets whole ones (fs.pipe-user-pages-soft, 16,384 pages
/// by default, at 16 pages each; pipe(7)).
const PIPES_MAX: u64 = 1024;

/// How a limit of open files is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit.
    pub limit: u64,
    /// Listeners, checks, the admin surface, and a reserve.
    pub fixed: u64,
    /// Most connections.
    pub connections: u32,
    /// Most pipes.
    pub pipes: usize,
}

impl Descriptors {
    /// Divides a limit for a configuration. Connections are 0 if there is no room for one.
    pub fn divide(limit: u64, config: &Config) -> Self {
        let fixed = fixed(config);
        let room = limit.saturating_sub(fixed);
        // c sockets pairs and c / 4 pipes: 2 c + 2 c / 4 descriptors.
        let fitting = room * CONNECTIONS_A_PIPE / (SOCKETS_A_CONNECTION * CONNECTIONS_A_PIPE + ENDS_A_PIPE);
        let wished = config.global.max_connections.map_or(u64::from(u32::MAX), |max| u64::from(max.get()));
        let connections = wished.min(fitting);
        let pipes = (connections / CONNECTIONS_A_PIPE).clamp(u64::from(connections > 0), PIPES_MAX);
        Self {
            limit,
            fixed,
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            pipes: usize::try_from(pipes).unwrap_or(usize::MAX),
        }
    }

    /// Descriptors that `connections` connections need, with everything else.
    pub fn needed(connections: u64, config: &Config) -> u64 {
        let pipes = (connections / CONNECTIONS_A_PIPE).clamp(1, PIPES_MAX);
        fixed(config) + connections * SOCKETS_A_CONNECTION + pipes * ENDS_A_PIPE
    }
}

/// What is needed whatever the number of connections.
fn fixed(config: &Config) -> u64 {
    let workers = config.global.workers.get() as u64;
    let addresses: u64 = config.frontends.iter().map(|frontend| frontend.bind.len() as u64).sum();
    let checks: u64 = config
        .backends
        .iter()
        .filter(|backend| backend.check.is_some())
        .map(|backend| backend.servers.iter().filter(|server| server.is_checked).count() as u64)
        .sum();
    let admin = if config.admin.is_some() { 1 + ADMIN_CONNECTIONS } else { 0 };
    // Each worker has a descriptor of its own for every listening socket, and three for its runtime.
    RESERVE + addresses * (1 + workers) + workers * 3 + checks + admin
}

/// Raises the limit of open files as far as it may be raised, and returns it.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it is, and it is read again below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.or(current).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_connections: &str) -> Config {
        let text = format!(
            "[global]\nworkers = 2\n{max_connections}\n[frontend.f]\nbind = [\"127.0.0.1:1\"]\nmode = \"tcp\"\n\
             default-backend = \"b\"\n[[backend.b.server]]\nname = \"s\"\naddress = \"127.0.0.1:2\"\n"
        );
        Config::parse(&text, "test.toml", &|_| Err(std::io::ErrorKind::NotFound.into()))
            .expect("valid")
            .config
    }

    #[test]
    fn what_is_promised_fits_into_the_limit() {
        for limit in [64, 100, 256, 1024, 20_000, 1 << 20] {
            let divided = Descriptors::divide(limit, &config(""));
            let used = divided.fixed + u64::from(divided.connections) * 2 + divided.pipes as u64 * 2;
            assert!(used <= limit.max(divided.fixed + 2), "{divided:?}");
            assert!(divided.connections > 0, "{divided:?}");
        }
    }

    #[test]
    fn a_wish_is_granted_where_it_fits() {
        assert_eq!(Descriptors::divide(20_000, &config("max-connections = 5000")).connections, 5000);
        assert!(Descriptors::divide(1_000, &config("max-connections = 5000")).connections < 500);
        assert_eq!(Descriptors::divide(10, &config("")).connections, 0);
    }
}
