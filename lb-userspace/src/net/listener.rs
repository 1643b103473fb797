// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listening sockets: one an address, shared by every worker. What they are set to, accepted sockets inherit, so that a
//! connection costs no system calls for it (net/core/sock.c, sk_clone_lock).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::time::Duration;

use lb_common::packet::syn::{Family, segment_size};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::syscalls::set_segment_size;
use crate::config::{Frontend, Mode};

/// A bound, listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// The address it got: as configured, with the kernel's port for port 0.
    pub address: SocketAddr,
}

/// The address that a client connected to.
#[derive(Clone, Copy, Debug)]
pub enum LocalAddress {
    /// The listener's own.
    Known(SocketAddr),
    /// The listener takes every address of the host: ask each connection.
    Ask(SocketAddr),
}

impl LocalAddress {
    /// The local address of an accepted connection.
    pub fn of(self, socket: &OwnedFd) -> SocketAddr {
        let listening = match self {
            Self::Known(address) => return address,
            Self::Ask(address) => address,
        };
        rustix::net::getsockname(socket)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok())
            .map_or(listening, super::canonical)
    }
}

/// Why an address cannot be listened on. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process, or another frontend, has it.
    #[error(
        "frontend {frontend}: {address} is in use by another process: stop it (`ss -ltnp` shows it) or choose another port"
    )]
    Taken {
        /// The frontend's name.
        frontend: String,
        /// The address.
        address: SocketAddr,
    },
    /// The port is below net.ipv4.ip_unprivileged_port_start and the process lacks CAP_NET_BIND_SERVICE.
    #[error(
        "frontend {frontend}: no permission to listen on {address}: start as root, grant CAP_NET_BIND_SERVICE, or choose a port from 1024 on"
    )]
    NoPermission {
        /// The frontend's name.
        frontend: String,
        /// The address.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error("frontend {frontend}: this host has no address {address}: `ip address` lists those it has")]
    NoSuchAddress {
        /// The frontend's name.
        frontend: String,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else that the kernel says.
    #[error("frontend {frontend}: cannot listen on {address}")]
    Other {
        /// The frontend's name.
        frontend: String,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    fn new(frontend: &Frontend, address: SocketAddr, errno: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        let frontend = frontend.name.to_string();
        match errno {
            Errno::ADDRINUSE => Self::Taken { frontend, address },
            Errno::ACCESS | Errno::PERM => Self::NoPermission { frontend, address },
            Errno::ADDRNOTAVAIL => Self::NoSuchAddress { frontend, address },
            errno => Self::Other { frontend, address, source: errno.into() },
        }
    }
}

impl Listener {
    /// Takes one address of a frontend. `is_v6_only`: an IPv6 wildcard leaves IPv4 to another listener. `narrowest`: bytes that packets may have at the
    /// narrowest interface, if clients are to be told of that where the frontend's `mss` says nothing. Nobody can connect before [`Self::listen`].
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(
        frontend: &Frontend,
        address: SocketAddr,
        is_v6_only: bool,
        narrowest: Option<u32>,
    ) -> Result<Self, ListenError> {
        let explain = |errno| ListenError::new(frontend, address, errno);
        let fd = bound(address, is_v6_only).map_err(explain)?;
        inherit(&fd, frontend).map_err(explain)?;
        if let Some(size) = segment_size_told(frontend, address, narrowest) {
            // As large as what it cannot be set to is no segment.
            let _ = set_segment_size(&fd, size);
        }
        let address = rustix::net::getsockname(&fd).map_err(explain)?.try_into().unwrap_or(address);
        Ok(Self { fd, address })
    }

    /// Lets clients connect, up to the frontend's backlog of them before somebody accepts.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn listen(&self, frontend: &Frontend) -> Result<(), ListenError> {
        let explain = |errno| ListenError::new(frontend, self.address, errno);
        let backlog = i32::try_from(frontend.backlog.get()).unwrap_or(i32::MAX);
        rustix::net::listen(&self.fd, backlog).map_err(explain)?;
        if matches!(frontend.mode, Mode::TlsPassthrough(_)) {
            // The ClientHello's acknowledgement goes with the answer. After listen(2), which forgets it (inet_csk_listen_start).
            sockopt::set_tcp_quickack(&self.fd, false).map_err(explain)?;
        }
        Ok(())
    }

    /// Another descriptor for the same socket, for one more worker.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// How connections learn which address the client connected to.
    pub fn local_address(&self) -> LocalAddress {
        match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => LocalAddress::Ask(self.address),
            IpAddr::V6(ip) if ip.is_unspecified() => LocalAddress::Ask(self.address),
            _ => LocalAddress::Known(super::canonical(self.address)),
        }
    }
}

/// A TCP socket that has an address and does not listen yet. `is_v6_only`: an IPv6 wildcard leaves IPv4 to others.
///
/// # Errors
/// As bind(2).
pub fn bound(address: SocketAddr, is_v6_only: bool) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Without it, connections in TIME_WAIT keep a restarted agent from its port; a listener elsewhere is still an error.
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, is_v6_only)?;
    }
    rustix::net::bind(&fd, &address)?;
    Ok(fd)
}

/// The largest segment that clients of a frontend at an address are told of; `None`: what the way to each takes. One for both families fits the smaller
/// of theirs.
fn segment_size_told(frontend: &Frontend, address: SocketAddr, narrowest: Option<u32>) -> Option<u32> {
    let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
    let fitting = narrowest.map(|mtu| segment_size(mtu, family).into());
    frontend.mss.map(NonZeroU32::get).or(fitting)
}

fn inherit(fd: &OwnedFd, frontend: &Frontend) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_linger(fd, Some(Duration::ZERO))?;
    // Urgent bytes stay in the stream, where they were: taken out of it they would be lost.
    sockopt::set_socket_oobinline(fd, true)?;
    if let Some(keepalive) = frontend.keepalive {
        super::set_keepalive(fd, keepalive)?;
    }
    if let Some(timeout) = frontend.user_timeout {
        super::set_user_timeout(fd, timeout)?;
    }
    Ok(())
}
