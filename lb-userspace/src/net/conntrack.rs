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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

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
    line: Mutex<Line>,
    is_warned: AtomicBool,
}

/// How the kernel is spoken with.
#[derive(Debug, Default)]
struct Line {
    socket: Option<OwnedFd>,
    /// Until when nobody tries, because the kernel does not speak of it.
    silent_until: Option<Instant>,
}

/// How long nobody tries after the kernel has not understood: it looks for its module each time, which takes long.
const SILENCE: Duration = Duration::from_secs(60);

/// What the kernel says if it does not speak of connection tracking (net/netfilter/nfnetlink.c), or not with this process.
const MUTE: [i32; 4] = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EPERM];

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

    /// Finds out whether the kernel tells this process what it tracks; `None`: it tracks nothing.
    ///
    /// # Errors
    /// It does not: nf_conntrack_netlink is missing, or CAP_NET_ADMIN (EPERM).
    pub fn try_out() -> Option<io::Result<()>> {
        File::open(COUNT_FILE).ok()?;
        // That of nobody, which is not there.
        let question = message::get(&[SocketAddr::from(([0; 4], 0)); 2]);
        let mut socket = None;
        let answered = open_once(&mut socket).and_then(|socket| exchange(socket, &question));
        Some(answered.and_then(|answers| match answers.iter().find_map(Answer::mute) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }))
    }

    /// Whether this host translates addresses or ports of one of these connections, so that its packets say others than its socket. What is
    /// tracked in another zone than the default is not seen.
    pub fn is_translated(&self, connections: [Ends; 2]) -> bool {
        let answers = if self.is_on() { self.exchange(&connections, message::get) } else { Vec::new() };
        answers.iter().any(|answer| matches!(answer, Answer::Entry { is_translated: true, .. }))
    }

    /// From here on not all packets of these connections are seen: those that are belong to them, whatever numbers they have. Returns whether anything is
    /// tracked: else there is nothing to [forget](Self::forget) either, for whose packets are not seen is not found later.
    pub fn loosen(&self, connections: [Ends; 2]) -> bool {
        self.tell(&connections, message::loosen)
    }

    /// The same for those that may have been forgotten meanwhile: for some seconds they are known, so that rules let a reset pass that ends them.
    pub fn recall(&self, connections: [Ends; 2]) {
        self.tell(&connections, message::recall);
    }

    /// These connections are over.
    pub fn forget(&self, connections: &[Ends]) {
        self.tell(connections, message::delete);
    }

    /// These connections are over, by a reset: unless others with the same ends have begun meanwhile, which have the entries then.
    pub fn forget_closed(&self, connections: &[Ends]) {
        if !self.is_on() {
            return;
        }
        for connection in connections {
            let answers = self.exchange(&[*connection], message::get);
            if answers.iter().any(|answer| matches!(answer, Answer::Entry { is_closed: true, .. })) {
                self.forget(&[*connection]);
            }
        }
    }

    /// Says something, and returns whether anything is tracked.
    fn tell(&self, connections: &[Ends], say: fn(&Ends) -> Vec<u8>) -> bool {
        let is_on = self.is_on();
        let answers = if is_on { self.exchange(connections, say) } else { Vec::new() };
        for answer in answers {
            // ENOENT: it is not tracked.
            if let Answer::Error(errno) = answer
                && errno != libc::ENOENT
            {
                tracing::debug!(error = %io::Error::from_raw_os_error(errno), "connection tracking refuses");
            }
        }
        is_on
    }

    /// Says something about each of these connections, and returns what is answered. Nothing, where the kernel does not speak of it: that is no reason
    /// for anybody to do without the path.
    fn exchange(&self, connections: &[Ends], say: fn(&Ends) -> Vec<u8>) -> Vec<Answer> {
        let messages = connections.iter().flat_map(say).collect::<Vec<_>>();
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.silent_until.is_some_and(|until| Instant::now() < until) {
            return Vec::new();
        }
        let answered = open_once(&mut line.socket).and_then(|socket| exchange(socket, &messages));
        let error = match &answered {
            Ok(answers) => answers.iter().find_map(Answer::mute),
            Err(error) => Some(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        if let Some(errno) = error {
            // Whatever is on its way there is nobody's.
            *line = Line { socket: None, silent_until: Some(Instant::now() + SILENCE) };
            self.warn_once(&io::Error::from_raw_os_error(errno));
        }
        answered.unwrap_or_default()
    }

    /// Says that nobody sees what connection tracking does.
    fn warn_once(&self, error: &io::Error) {
        if !self.is_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error,
                "connections are tracked on this host, and the kernel says nothing about them (nf_conntrack_netlink): path packet does not see NAT, and leaves entries behind"
            );
        }
    }
}

impl Answer {
    /// The error that says that the kernel does not speak of it, if this is one.
    fn mute(&self) -> Option<i32> {
        match self {
            Self::Error(errno) if MUTE.contains(errno) => Some(*errno),
            _ => None,
        }
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

    #[test]
    fn only_a_kernel_that_does_not_understand_is_left_alone() {
        let check = |answer: Answer, expected| assert_eq!(answer.mute(), expected);
        check(Answer::Error(libc::EOPNOTSUPP), Some(libc::EOPNOTSUPP));
        check(Answer::Error(libc::ENOENT), None);
        check(Answer::Error(libc::EBUSY), None);
        check(Answer::Entry { is_translated: true, is_closed: false }, None);
    }
}
