// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets with headers of our own (raw(7)). The sockets take CAP_NET_RAW when they are made, and nothing when they send. What comes in by
//! them, which has to have their protocol, 255, fills a buffer as small as there is, and nobody reads it.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

use super::syscalls::set_int;

/// Room for packets that an interface has not taken yet, in bytes of kernel memory (below 1 KiB each): a thousand flows end with a few thousand
/// of them at once.
const SEND_BUFFER_BYTES: libc::c_int = 4 << 20;

/// Sends packets, and never waits for room.
#[derive(Debug)]
pub struct RawSender {
    v4: Socket,
    /// `None`: this kernel has no IPv6.
    v6: Option<Socket>,
}

/// How a packet gets to where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// The address of this host's in its header.
    pub from: IpAddr,
    /// The other one.
    pub to: IpAddr,
    /// The number of the interface by which it leaves. The next hop is what the routes say there.
    pub interface: u32,
}

impl RawSender {
    /// For packets of this network namespace.
    ///
    /// # Errors
    /// CAP_NET_RAW is missing, or there are no descriptors left.
    pub fn open() -> io::Result<Self> {
        let v4 = socket(Domain::IPV4)?;
        let v6 = match socket(Domain::IPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            opened => Some(opened?),
        };
        if let Some(v6) = &v6 {
            // The source may be an address that this host takes by a route alone, as IPv4's may (net/ipv6/datagram.c, ip6_datagram_send_ctl).
            set_int(v6.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
        }
        Ok(Self { v4, v6 })
    }

    /// Sends a packet that begins with IP's header. The checksum of IPv4's is made here.
    ///
    /// # Errors
    /// There is no way, no interface, or no room.
    pub fn send(&self, packet: &[u8], course: &Course) -> io::Result<()> {
        let (socket, control) = match (course.from, &self.v6) {
            (IpAddr::V4(from), _) => {
                let mut info = course.interface.to_ne_bytes().to_vec();
                info.extend(from.octets());
                info.extend([0; 4]);
                (&self.v4, control(libc::IPPROTO_IP, libc::IP_PKTINFO, &info))
            }
            (IpAddr::V6(from), Some(socket)) => {
                let mut info = from.octets().to_vec();
                info.extend(course.interface.to_ne_bytes());
                (socket, control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info))
            }
            (IpAddr::V6(_), None) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let (to, buffers) = (course.address(), [IoSlice::new(packet)]);
        let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers).with_control(&control);
        socket.sendmsg(&message, libc::MSG_NOSIGNAL).map(drop)
    }
}

impl Course {
    /// The address that sendmsg(2) gets: without a port, and with the interface where an address is one of many links (RFC 4007).
    fn address(&self) -> SockAddr {
        match self.to {
            IpAddr::V4(to) => SockAddr::from(SocketAddr::from((to, 0))),
            IpAddr::V6(to) => {
                let scope = if to.is_unicast_link_local() { self.interface } else { 0 };
                SockAddr::from(SocketAddrV6::new(to, 0, 0, scope))
            }
        }
    }
}

fn socket(domain: Domain) -> io::Result<Socket> {
    let socket =
        Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
    // What takes CAP_NET_ADMIN; without it the buffer is smaller, and what finds no room is sent again later.
    let _ = set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES);
    set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 1)?;
    Ok(socket)
}

/// One ancillary message (cmsg(3)): struct cmsghdr, what it is about, and zeros up to the next word.
fn control(level: libc::c_int, kind: libc::c_int, content: &[u8]) -> Vec<u8> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut message = (HEADER + content.len()).to_ne_bytes().to_vec();
    message.extend(level.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(content);
    message.resize(message.len().next_multiple_of(size_of::<usize>()), 0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancillary_messages_are_as_the_c_library_has_them() {
        let message = control(libc::IPPROTO_IP, libc::IP_PKTINFO, &[7; 12]);
        // CMSG_LEN and CMSG_SPACE, on a host with words of 64 bits.
        assert_eq!((message.len(), &message[..8]), (32, &28_u64.to_ne_bytes()[..]));
        assert_eq!([size_of::<libc::in_pktinfo>(), size_of::<libc::in6_pktinfo>()], [12, 20]);
        assert_eq!(control(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[7; 20]).len(), 40);
    }

    #[test]
    fn addresses_of_a_link_name_it() {
        let check = |to: &str, expected: u32| {
            let to: IpAddr = to.parse().expect("an address");
            let course = Course { from: to, to, interface: 7 };
            let address = course.address().as_socket_ipv6().expect("IPv6");
            assert_eq!((address.port(), address.scope_id()), (0, expected));
        };
        check("fe80::1", 7);
        check("2001:db8::1", 0);
    }
}
