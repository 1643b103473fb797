// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's routes: by which interface this host sends, and when that may have changed; and when interfaces come and go (rtnetlink(7)). None of
//! it takes a privilege.
//!
//! The kernel answers a question within send(2), so that nobody waits here.

mod filter;
mod message;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub use filter::Filter;
pub use message::LinkChange;

/// Room for an answer: a route takes some 100 bytes, one over many gateways more, of which the beginning is enough; an interface up to some 2,000.
const ANSWER_BYTES: usize = 4_096;

/// Asks for routes.
#[derive(Debug)]
pub struct Routes {
    socket: OwnedFd,
    /// Of the last question. Who has it asks.
    sequence: Mutex<u32>,
}

/// Hears of changes.
#[derive(Debug)]
pub struct RouteChanges(OwnedFd);

/// Hears of interfaces that come and go.
#[derive(Debug)]
pub struct LinkChanges(OwnedFd);

impl Routes {
    /// Those of this network namespace.
    ///
    /// # Errors
    /// The process has no descriptors left, or may not have such sockets.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: socket()?, sequence: Mutex::default() })
    }

    /// The number of the interface by which TCP goes from an address of this host to another host's; `None`: nowhere, to this host itself, or the
    /// kernel does not say.
    pub fn interface(&self, from: SocketAddr, to: SocketAddr) -> Option<u32> {
        self.ask(|sequence| message::question(from, to, sequence), message::interface)?
    }

    /// Whether this host has no interface with this number that is up.
    pub fn is_lost(&self, interface: u32) -> bool {
        self.ask(|sequence| message::link(interface, sequence), message::is_lost) == Some(true)
    }

    /// Whether this network namespace has no interface with this number: only if the kernel says so.
    pub fn is_absent(&self, interface: u32) -> bool {
        self.ask(|sequence| message::link(interface, sequence), message::is_absent) == Some(true)
    }

    /// Bytes that packets may have which an interface makes of several that it has received; `None`: the kernel does not say.
    pub fn received_bytes(&self, interface: u32) -> Option<u32> {
        self.ask(|sequence| message::link(interface, sequence), message::received_bytes)?
    }

    /// The number of the bridge or bond of which an interface is a port; `None`: it is none, or the kernel does not say.
    pub fn master(&self, interface: u32) -> Option<u32> {
        self.ask(|sequence| message::link(interface, sequence), message::master)?
    }

    /// Whether a filter is not there: only if the kernel says so.
    pub fn is_without(&self, filter: &Filter) -> bool {
        self.ask(|sequence| filter.question(sequence), filter::is_absent) == Some(true)
    }

    /// `None`: the kernel does not answer.
    fn ask<T>(&self, question: impl FnOnce(u32) -> Vec<u8>, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence = sequence.wrapping_add(1);
        rustix::net::send(&self.socket, &question(*sequence), SendFlags::empty()).ok()?;
        let mut bytes = [0; ANSWER_BYTES];
        loop {
            let (len, _) = rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::empty()).ok()?;
            let answer = &bytes[..len.min(ANSWER_BYTES)];
            // Others are to questions that were given up.
            if message::sequence(answer) == Some(*sequence) {
                return Some(read(answer));
            }
        }
    }
}

impl RouteChanges {
    /// Those of this network namespace, from now on.
    ///
    /// # Errors
    /// As [`Routes::open`].
    pub fn open() -> io::Result<Self> {
        listen(message::GROUPS).map(Self)
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// As recv(2), poll(2): the kernel tells of no more.
    pub fn wait(&self) -> io::Result<()> {
        while !self.take()? {
            wait_for_message(&self.0, None)?;
        }
        Ok(())
    }

    /// Whether something has changed since this was asked last.
    ///
    /// # Errors
    /// As recv(2).
    pub fn take(&self) -> io::Result<bool> {
        let mut has_changed = false;
        loop {
            // What does not fit is not read anyway.
            match rustix::net::recv(&self.0, &mut [0; 1][..], RecvFlags::empty()) {
                Ok(_) | Err(Errno::NOBUFS) => has_changed = true,
                Err(Errno::AGAIN) => return Ok(has_changed),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl LinkChanges {
    /// Those of this network namespace, from now on.
    ///
    /// # Errors
    /// As [`Routes::open`].
    pub fn open() -> io::Result<Self> {
        listen(message::LINK_GROUP).map(Self)
    }

    /// Waits for the next; `None`: some were missed, for there were too many, or none has come for so long.
    ///
    /// # Errors
    /// As recv(2), poll(2): the kernel tells of no more.
    pub fn next(&self, patience: Option<Duration>) -> io::Result<Option<LinkChange>> {
        let mut bytes = [0; message::LINK_BYTES];
        loop {
            match rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty()) {
                Ok((len, _)) => {
                    // Others say nothing of interfaces.
                    if let Some(change) = message::link_change(&bytes[..len.min(bytes.len())]) {
                        return Ok(Some(change));
                    }
                }
                Err(Errno::NOBUFS) => return Ok(None),
                Err(Errno::AGAIN) if !wait_for_message(&self.0, patience)? => return Ok(None),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Whether there is a message, or may be, before so long.
fn wait_for_message(socket: &OwnedFd, patience: Option<Duration>) -> io::Result<bool> {
    let patience = patience.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], patience.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        // Whoever was interrupted looks, and waits again.
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// A socket that hears of these groups.
fn listen(groups: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
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
        assert!(!RouteChanges::open().expect("likewise").take().expect("no error"));
    }

    #[test]
    fn an_interface_that_is_not_there_is_lost() {
        let routes = Routes::open().expect("whoever has a network has routes");
        // Loopback's number is 1 in each namespace (net/core/dev.c, LOOPBACK_IFINDEX), and it may be down in one.
        let loopback = SocketAddr::new([127, 0, 0, 1].into(), 0);
        let is_up =
            std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect(loopback)).is_ok();
        assert_eq!([1, i32::MAX as u32].map(|number| routes.is_lost(number)), [!is_up, true]);
        assert_eq!([1, i32::MAX as u32].map(|number| routes.is_absent(number)), [false, true]);
    }
}
