// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a balancer has to do and where: the same for all, from which each writes its configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Contestant;
use crate::lab::Lab;
use crate::load::{ROUTES, route_name};

/// Threads or worker processes of each.
pub const WORKERS: usize = 2;

/// How long a client may take for its ClientHello, in seconds.
pub const HELLO_TIMEOUT: u32 = 5;

/// How long a server may take to accept a connection, in seconds.
pub const CONNECT_TIMEOUT: u32 = 5;

/// How long nothing may happen on a flow, in seconds.
pub const IDLE_TIMEOUT: u32 = 3600;

/// More client connections than that nobody needs here.
const CONNECTIONS_CAP: usize = 120_000;

/// File descriptors that a program started from here may have (getrlimit(2), RLIMIT_NOFILE).
pub fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Client connections that each may have open. Each takes two file descriptors, those that splice need some for pipes, and lb on path
/// `packet` more than 300 for its programs and the interfaces that there may be.
pub fn connections_max() -> usize {
    connections_of(descriptors())
}

fn connections_of(descriptors: usize) -> usize {
    (descriptors / 5).saturating_mul(2).saturating_sub(200).clamp(1, CONNECTIONS_CAP)
}

/// The first contestant's port.
const FIRST_PORT: u16 = 1001;

/// The first contestant's port for its counters.
const FIRST_ADMIN_PORT: u16 = 9001;

/// What is asked of a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Duty {
    /// Names that it routes. Name n leads to backend n modulo the number of backends.
    pub names: usize,
    /// Where to.
    pub servers: Servers,
}

/// Servers behind a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Servers {
    /// Ten backends with one load server each.
    Load,
    /// One backend with so many load servers.
    Many(usize),
    /// Ten backends with the same nginx, which speaks TLS.
    Https,
}

impl Duty {
    /// So many names on the ten backends of most workloads.
    pub const fn names(names: usize) -> Self {
        Self { names, servers: Servers::Load }
    }

    /// What tells the configurations of a contestant apart, for file names.
    pub fn word(self) -> String {
        match self.servers {
            Servers::Load => format!("{}-names", self.names),
            Servers::Many(count) => format!("{count}-servers"),
            Servers::Https => "https".to_owned(),
        }
    }
}

impl Default for Duty {
    fn default() -> Self {
        Self::names(ROUTES)
    }
}

/// A [`Duty`] with addresses.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where a balancer may show its counters, in its own namespace.
    pub admin: SocketAddr,
    /// See [`Duty::names`].
    pub names: usize,
    /// Servers by backend.
    pub backends: Vec<Vec<SocketAddr>>,
    /// Where lists of names go, and what a balancer leaves behind.
    pub folder: PathBuf,
    /// Where sockets go: paths of Unix sockets are short (sun_path of unix(7)), and [`Self::folder`] may be deep.
    pub scratch: PathBuf,
}

impl Setting {
    /// For a contestant, which has ports of its own.
    pub fn new(lab: &Lab, duty: Duty, contestant: Contestant) -> Self {
        let position = Contestant::all().iter().position(|other| *other == contestant);
        let index = position.unwrap_or_default() as u16;
        Self {
            listen: SocketAddr::new(lab.balancer_address.ip(), FIRST_PORT + index),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_ADMIN_PORT + index)),
            names: duty.names,
            backends: lab.backends(duty.servers, contestant == Contestant::Direct),
            folder: lab.directory.join("work"),
            scratch: lab.scratch().to_owned(),
        }
    }

    /// The names of a backend.
    pub fn names_of(&self, backend: usize) -> impl Iterator<Item = String> + use<> {
        (backend..self.names).step_by(self.backends.len()).map(route_name)
    }

    /// Every name with the number of its backend.
    pub fn routes(&self) -> impl Iterator<Item = (String, usize)> + use<> {
        let backends = self.backends.len();
        (0..self.names).map(move |name| (route_name(name), name % backends))
    }

    /// A file that is not the configuration.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A path as text. Those with bytes that are no text fail where they are opened.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
pub mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A setting on loopback with a port that was free a moment ago.
    pub fn setting(names: usize, folder: &Path) -> Setting {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = |backend: u16| vec![SocketAddr::from(([10, 2, 0, 2], 2001 + backend))];
        Setting {
            listen: free(),
            admin: free(),
            names,
            backends: (0..10).map(server).collect(),
            folder: folder.to_owned(),
            scratch: folder.to_owned(),
        }
    }

    #[test]
    fn two_descriptors_a_connection_leave_some_for_pipes() {
        let check =
            |descriptors, expected| assert_eq!(connections_of(descriptors), expected, "{descriptors}");
        check(20_000, 7_800);
        check(1_048_576, CONNECTIONS_CAP);
        check(usize::MAX, CONNECTIONS_CAP);
        check(10, 1);
    }

    #[test]
    fn duties_with_configurations_of_their_own_have_words_of_their_own() {
        let many = Duty { names: 1, servers: Servers::Many(100) };
        let words = [Duty::default(), Duty::names(10_000), many].map(Duty::word);
        assert_eq!(words, ["10-names", "10000-names", "100-servers"]);
    }

    #[test]
    fn names_are_spread_over_the_backends() {
        let setting = setting(25, Path::new("/"));
        assert_eq!(setting.names_of(3).collect::<Vec<_>>(), [3, 13, 23].map(route_name));
        assert_eq!(setting.names_of(7).collect::<Vec<_>>(), [7, 17].map(route_name));
        assert_eq!(setting.routes().count(), 25);
        assert_eq!(setting.routes().nth(23), Some((route_name(23), 3)));
    }
}
