// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where connections to servers come from: address and interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::io::Errno;
use socket2::SockRef;

use super::syscalls::defer_source_port;

/// What a connection to a server is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source<'a> {
    /// This host's address; `None`: what the route says.
    pub address: Option<IpAddr>,
    /// The local port, at that address; `None`: one that is free.
    pub port: Option<u16>,
    /// The interface that packets leave and enter by (SO_BINDTODEVICE, socket(7)); `None`: what the route says.
    pub interface: Option<&'a str>,
}

/// Binds a socket that is not connected yet.
///
/// # Errors
/// This host has no such address or interface. The message says which; [`is_out_of_ports`] is false for it.
pub fn bind_source(fd: &impl AsFd, source: Source<'_>) -> io::Result<()> {
    if let Some(interface) = source.interface {
        let bound = SockRef::from(fd).bind_device(Some(interface.as_bytes()));
        bound.map_err(|error| explained(&error, &format!("interface {interface}")))?;
    }
    if let Some(address) = source.address {
        if let Some(port) = source.port {
            return bind_port(fd, address, port);
        }
        defer_source_port(fd)?;
        let bound = rustix::net::bind(fd, &SocketAddr::new(address, 0));
        bound.map_err(|errno| explained(&errno.into(), &format!("source address {address}")))?;
    }
    Ok(())
}

/// Whether packets of a socket leave by one interface, whatever the routes say: it was bound, or its peer has an address of that link alone.
///
/// # Errors
/// As getsockopt(2).
pub fn is_bound_to_interface(fd: &impl AsFd) -> io::Result<bool> {
    SockRef::from(fd).device().map(|device| device.is_some())
}

/// Binds a port that sockets towards other servers may have, too.
fn bind_port(fd: &impl AsFd, address: IpAddr, port: u16) -> io::Result<()> {
    rustix::net::sockopt::set_socket_reuseaddr(fd, true)?;
    let local = SocketAddr::new(address, port);
    let bound = rustix::net::bind(fd, &local);
    bound.map_err(|errno| explained(&errno.into(), &format!("source {local}")))
}

/// The address that stands for all of this host's which can reach another.
pub fn unspecified(towards: SocketAddr) -> IpAddr {
    if towards.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn explained(error: &io::Error, what: &str) -> io::Error {
    io::Error::other(format!("cannot use {what}: {error}"))
}

/// Whether an error is one of [`bind_source`]: it says nothing about a server.
pub fn is_source_problem(error: &io::Error) -> bool {
    // The kernel's own errors are never of this kind.
    error.kind() == io::ErrorKind::Other
}

/// Why a source cannot be used at this moment, if so.
pub fn source_problem(source: Source<'_>) -> Option<io::Error> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let is_v6 = source.address.is_some_and(|address| address.is_ipv6());
    let family = if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
    bind_source(&socket, source).err()
}

/// An error of connect(2) towards this address, made clear. EADDRNOTAVAIL says that every local port is in use (ip-sysctl.rst,
/// ip_local_port_range), or that no address of this host can be the source: mostly an IPv6 address where IPv6 is off. For UDP the
/// kernel chooses the source likewise, but of other ports, so that asking it tells the two apart. The second becomes ENETUNREACH.
pub fn explain_connect(error: io::Error, address: SocketAddr, source: Source<'_>) -> io::Error {
    if is_out_of_ports(&error) && has_no_source(address, source) { Errno::NETUNREACH.into() } else { error }
}

fn has_no_source(address: SocketAddr, source: Source<'_>) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let Ok(socket) = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None) else { return false };
    bind_source(&socket, source).is_ok() && connect(&socket, &address) == Err(Errno::ADDRNOTAVAIL)
}

/// Whether an error of connect(2), [explained](explain_connect), says that every local port is in use towards this address.
pub fn is_out_of_ports(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::ADDRNOTAVAIL)
}
