// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's connection tracking, which nftables' `ct` and NAT go by: asked and told over netlink (include/uapi/linux/netfilter/
//! nfnetlink_conntrack.h). It sees the packets of sockets, and not those that programs at the interfaces hand on. All of it takes CAP_NET_ADMIN.
//!
//! The kernel answers within send(2), so that nobody waits here.

mod message;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use message::Answer;
use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// How many connections are tracked in this network namespace. It is there with the kernel's module.
const COUNT_FILE: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Room for an answer: one entry takes some 300 bytes.
const ANSWER_BYTES: usize = 2_048;

/// The two ends of a connection, in either order.
pub type Ends = [SocketAddr; 2];

/// Connection tracking of this network namespace. Where nothing is tracked, all of this costs one read.
#[derive(Debug, Default)]
pub struct Conntrack {
    count: OnceLock<File>,
    socket: Mutex<Option<OwnedFd>>,
}

impl Conntrack {
    /// Whether anything is tracked.
    fn is_on(&self) -> bool {
        if self.count.get().is_none() {
            // The module may come with the first ruleset that needs it.
            let Ok(file) = File::open(COUNT_FILE) else { return false };
            let _ = self.count.set(file);
        }
        let mut first = [0];
        let read = self.count.get().is_some_and(|file| file.read_at(&mut first, 0).is_ok());
        read && first != *b"0"
    }

    /// Whether this host translates addresses or ports of one of these connections, so that its packets say others than its socket. What is
    /// tracked in another zone than the default is not seen.
    pub fn is_translated(&self, connections: [Ends; 2]) -> bool {
        let answers = self.exchange(connections, message::get);
        answers.contains(&Answer::Entry { is_translated: true })
    }

    /// From here on not all packets of these connections are seen: those that are belong to them, whatever numbers they have.
    pub fn loosen(&self, connections: [Ends; 2]) {
        self.tell(connections, message::loosen);
    }

    /// The same for those that may have been forgotten meanwhile: for some seconds they are known, so that rules let a reset pass that ends them.
    pub fn recall(&self, connections: [Ends; 2]) {
        self.tell(connections, message::recall);
    }

    /// These connections are over.
    pub fn forget(&self, connections: [Ends; 2]) {
        self.tell(connections, message::delete);
    }

    fn tell(&self, connections: [Ends; 2], say: fn(&Ends) -> Vec<u8>) {
        for answer in self.exchange(connections, say) {
            // ENOENT: it is not tracked.
            if let Answer::Error(errno) = answer
                && errno != libc::ENOENT
            {
                tracing::debug!(error = %io::Error::from_raw_os_error(errno), "connection tracking refuses");
            }
        }
    }

    /// Says something about each of these connections, and returns what is answered. Nothing, where nothing is tracked, or the kernel does not
    /// speak of it: that is no reason for anybody to do without the path.
    fn exchange(&self, connections: [Ends; 2], say: fn(&Ends) -> Vec<u8>) -> Vec<Answer> {
        if !self.is_on() {
            return Vec::new();
        }
        let messages = connections.each_ref().map(say).concat();
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = open_once(&mut socket).and_then(|socket| exchange(socket, &messages));
        answered.unwrap_or_else(|error| {
            tracing::debug!(%error, "connection tracking does not answer");
            // Whatever is on its way there is nobody's.
            *socket = None;
            Vec::new()
        })
    }
}

fn open_once(socket: &mut Option<OwnedFd>) -> io::Result<&OwnedFd> {
    if socket.is_none() {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        *socket =
            Some(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?);
    }
    socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

/// Sends messages, and takes all answers.
fn exchange(socket: &OwnedFd, messages: &[u8]) -> io::Result<Vec<Answer>> {
    rustix::net::send(socket, messages, SendFlags::empty())?;
    let (mut answers, mut bytes) = (Vec::new(), [0; ANSWER_BYTES]);
    loop {
        match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((len, _)) => answers.extend(message::read(&bytes[..len.min(ANSWER_BYTES)])),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(answers),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In whatever namespace and with whatever privileges this runs.
    #[test]
    fn a_connection_that_is_not_tracked_is_not_translated() {
        let conntrack = Conntrack::default();
        let ends = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().expect("an address"));
        conntrack.loosen([ends; 2]);
        conntrack.forget([ends; 2]);
        assert!(!conntrack.is_translated([ends; 2]));
    }
}
