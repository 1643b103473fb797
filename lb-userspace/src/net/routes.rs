// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's routes: by which interface this host sends, and when that may have changed (rtnetlink(7)). Neither takes a privilege.
//!
//! The kernel answers a question within send(2), so that nobody waits here.

mod message;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Room for an answer: a route takes some 100 bytes, one over many gateways more, of which the beginning is enough.
const ANSWER_BYTES: usize = 2_048;

/// Asks for routes.
#[derive(Debug)]
pub struct Routes(OwnedFd);

/// Hears of changes.
#[derive(Debug)]
pub struct RouteChanges(OwnedFd);

impl Routes {
    /// Those of this network namespace.
    ///
    /// # Errors
    /// The process has no descriptors left, or may not have such sockets.
    pub fn open() -> io::Result<Self> {
        socket().map(Self)
    }

    /// The number of the interface by which TCP goes from an address of this host to another host's; `None`: nowhere, to this host itself, or the
    /// kernel does not say.
    pub fn interface(&self, from: SocketAddr, to: SocketAddr) -> Option<u32> {
        let sent = rustix::net::send(&self.0, &message::question(from, to), SendFlags::empty());
        sent.ok()?;
        let (mut interface, mut bytes) = (None, [0; ANSWER_BYTES]);
        // To the last, or else the next question gets it.
        while let Ok((len, _)) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty()) {
            interface = message::interface(&bytes[..len.min(ANSWER_BYTES)]);
        }
        interface
    }
}

impl RouteChanges {
    /// Those of this network namespace, from now on.
    ///
    /// # Errors
    /// As [`Routes::open`].
    pub fn open() -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, message::GROUPS))?;
        Ok(Self(socket))
    }

    /// Waits for a change.
    pub fn wait(&self) {
        while !self.take() {
            // An interruption is no change.
            let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None);
        }
    }

    /// Whether something has changed since this was asked last.
    pub fn take(&self) -> bool {
        let mut has_changed = false;
        loop {
            // What does not fit is not read anyway.
            match rustix::net::recv(&self.0, &mut [0; 1][..], RecvFlags::empty()) {
                Ok(_) | Err(Errno::NOBUFS) => has_changed = true,
                Err(_) => return has_changed,
            }
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // The protocol is NETLINK_ROUTE: 0.
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_this_host_leads_to_no_interface() {
        let routes = Routes::open().expect("whoever has a network has routes");
        let here = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(routes.interface(here, here), None);
        assert!(!RouteChanges::open().expect("likewise").take());
    }
}
