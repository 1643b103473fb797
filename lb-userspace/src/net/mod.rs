// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets as this agent uses them: non-blocking, with linger 0 until a clean close ([`end_cleanly`]), watched by their worker's runtime.

pub mod claim;
pub mod conntrack;
mod ecn;
mod listener;
mod netlink;
mod ports;
mod raw;
pub mod repair;
pub mod routes;
mod source;
mod syscalls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

pub use ecn::EcnSetting;
pub use listener::{ListenError, Listener, LocalAddress, bound};
pub use ports::{
    LOOPBACK, PortsError, check_ports, interface_name, interface_number, interfaces, is_absence, network,
};
pub use raw::{Course, RawSender};
pub use source::{
    Source, bind_source, explain_connect, is_bound_to_interface, is_out_of_ports, is_source_problem,
    source_problem, unspecified,
};
#[cfg(test)]
pub use syscalls::is_receive_buffer_locked;
pub use syscalls::{
    TcpInfo, Terms, end_filter, filter, holds_nothing, kick, kick_sending, limit_unsent, link_type,
    lock_receive_buffer, mtu, received_memory, set_receive_low_water, tcp_info, unacknowledged_bytes,
};

use crate::config::Keepalive;
pub use crate::runtime::Socket;

/// Begins to connect: the socket is writable once it is established or has failed. `speaks_first`: bytes will be sent as soon
/// as it is established, and the acknowledgement that ends the handshake can go with them.
///
/// # Errors
/// What socket(2) and connect(2) say at once: no descriptors, no ports, no route; and what [`bind_source`] says.
pub fn start_connect(address: SocketAddr, source: Source<'_>, speaks_first: bool) -> io::Result<Socket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_linger(&fd, Some(Duration::ZERO))?;
    sockopt::set_socket_oobinline(&fd, true)?;
    bind_source(&fd, source)?;
    if speaks_first {
        // Saves a segment (net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process: "Save one ACK").
        sockopt::set_tcp_quickack(&fd, false)?;
    }
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Socket::connection(fd),
        Err(errno) => Err(explain_connect(errno.into(), address, source)),
    }
}

/// Waits until the connect of [`start_connect`] has succeeded.
///
/// # Errors
/// Why it has failed.
pub async fn connected(socket: &Socket) -> io::Result<()> {
    if socket.writable().await.is_write_closed() {
        // It has failed, or has succeeded and was reset since: sending nothing tells which error it was.
        send(socket, &[])?;
        return Err(io::ErrorKind::NotConnected.into());
    }
    Ok(())
}

/// Sets TCP keepalive on a socket (tcp(7)).
///
/// # Errors
/// The kernel refuses a value.
pub fn set_keepalive(fd: impl AsFd, keepalive: Keepalive) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, keepalive.idle)?;
    sockopt::set_tcp_keepintvl(&fd, keepalive.interval)?;
    sockopt::set_tcp_keepcnt(&fd, u32::from(keepalive.count))
}

/// Sets TCP_USER_TIMEOUT (tcp(7)), in milliseconds, at most 2^32 - 1 of them.
///
/// # Errors
/// The kernel refuses the value.
pub fn set_user_timeout(fd: impl AsFd, timeout: Duration) -> rustix::io::Result<()> {
    sockopt::set_tcp_user_timeout(fd, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))
}

/// Lets the kernel deliver what is still unsent after close(2), instead of a reset.
pub fn end_cleanly(socket: impl AsFd) {
    // A socket that is gone already needs no clean end.
    let _ = sockopt::set_socket_linger(socket, None);
}

/// Looks at received bytes without taking them, as many as fit.
///
/// # Errors
/// As recv(2); `WouldBlock` if nothing has arrived.
pub fn peek(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, len) = rustix::net::recv(socket.get_ref(), buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok(len)
}

/// Whether a connection is over in both directions, by a reset mostly (poll(2), POLLHUP and POLLERR).
pub fn has_ended(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A wait of no time is not interrupted.
    let _ = poll(&mut fds, Some(&at_once));
    fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Whether urgent data (tcp(7)) ever came on a socket, as far as it was heard.
pub fn has_urgent_data(socket: &Socket) -> bool {
    socket.readiness().is_priority()
}

/// Whether a socket has an error to tell, as far as it was heard.
pub fn has_error(socket: &Socket) -> bool {
    socket.readiness().is_error()
}

/// Whether the peer has ended its direction, as far as it was heard; bytes before the end may still wait.
pub fn has_fin_behind(socket: &Socket) -> bool {
    socket.readiness().is_read_closed()
}

/// The error that was heard of a socket.
pub fn pending_error(socket: impl AsFd) -> io::Error {
    match sockopt::socket_error(socket) {
        Ok(Err(errno)) | Err(errno) => errno.into(),
        Ok(Ok(())) => io::ErrorKind::ConnectionReset.into(),
    }
}

/// Takes received bytes; 0 is the peer's FIN.
///
/// # Errors
/// As recv(2); `WouldBlock` if nothing has arrived.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, len) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(len)
}

/// Sends bytes, as many as fit into the send buffer.
///
/// # Errors
/// As send(2); `WouldBlock` if none fit.
pub fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Sends bytes that further bytes follow at once, so that the kernel may put them into one segment.
///
/// # Errors
/// As send(2).
pub fn send_with_more_to_come(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL | SendFlags::MORE;
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Sends at once what [`send_with_more_to_come`] held back (net/ipv4/tcp.c: setting TCP_NODELAY pushes pending frames).
pub fn push(socket: &Socket) {
    // A socket that is gone has nothing left to send.
    let _ = sockopt::set_tcp_nodelay(socket.get_ref(), true);
}

/// Sends a FIN behind what was sent.
pub fn send_fin(socket: impl AsFd) {
    // ENOTCONN: the peer has reset; the reading direction, or the watch on it, reports that.
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}

/// The receive buffer's limit in bytes, as the kernel accounts it (SO_RCVBUF, socket(7)).
pub fn receive_buffer_limit(socket: &Socket) -> u64 {
    sockopt::socket_recv_buffer_size(socket.get_ref()).map_or(0, |bytes| bytes as u64)
}

/// What a socket that is in no socket map has received and nobody has taken, in bytes (FIONREAD, tcp(7)).
///
/// # Errors
/// The socket is gone.
pub fn waiting_bytes(socket: impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(socket)?)
}

/// Whether a connection is one of this host with itself, as far as its addresses tell: by loopback, or with both ends at one address.
///
/// # Errors
/// The connection is gone.
pub fn is_with_this_host(socket: impl AsFd) -> io::Result<bool> {
    let ip = |address: rustix::net::SocketAddrAny| {
        SocketAddr::try_from(address).map(|address| canonical(address).ip())
    };
    let here = ip(rustix::net::getsockname(&socket)?)?;
    let there = ip(rustix::net::getpeername(&socket)?.ok_or(io::ErrorKind::NotConnected)?)?;
    Ok(are_of_one_host(here, there))
}

/// Whether our address and the peer's are of the same host: see [`is_with_this_host`].
pub fn are_of_one_host(here: IpAddr, there: IpAddr) -> bool {
    there.is_loopback() || there == here
}

/// What identifies a socket on this host for ever (SO_COOKIE, socket(7)).
///
/// # Errors
/// The kernel is older than 4.12, or the socket is gone.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Whether an error is a shortage of this host (descriptors, ports, memory) rather than something about a server.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // ENOSPC: fs.epoll.max_user_watches (epoll_ctl(2)).
    let shortages =
        [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::NOSPC];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// An address as people write it: an IPv4 address that a dual-stack socket shows in IPv6 form (RFC 4291 section 2.5.5.2)
/// becomes IPv4 again.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An IP address and a port in 20 bytes, for what is kept as long as a connection lives. It has no scope and no flow label
/// (RFC 4007, RFC 6437), as an address that [`canonical`] made has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    ip: IpAddr,
    port: u16,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: address.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.ip, endpoint.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_its_address() {
        for address in ["192.0.2.7:443", "[2001:db8::1]:65535"] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(SocketAddr::from(Endpoint::from(address)), address);
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let check = |address: &str, expected: &str| {
            assert_eq!(canonical(address.parse().unwrap()).to_string(), expected);
        };
        check("[::ffff:192.0.2.7]:443", "192.0.2.7:443");
        check("[2001:db8::1]:443", "[2001:db8::1]:443");
        check("[::192.0.2.7]:443", "[::c000:207]:443");
        check("192.0.2.7:443", "192.0.2.7:443");
    }
}
