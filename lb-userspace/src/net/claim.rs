// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which `packet-ports` are in use on this host, and by whom. An agent says so by the name of a socket that only its network namespace has
//! (unix(7), abstract): so it is told wherever its files are, and is gone with the process.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;
use rustix::thread::CapabilitySet;

use super::syscalls::peer_process;

/// What the names begin with; the ports follow, and a number that no other socket has.
const PREFIX: &str = "lb-packet-ports/";

/// The flags of a socket that listens (__SO_ACCEPTCON, include/uapi/linux/net.h), as the table shows them.
const LISTENING: &str = "00010000";

/// Room for those who ask who it is, until they are let go ([`Claim::listener`]).
const BACKLOG: i32 = 4_096;

/// How often an overlap is looked at again, and the time in between: a process that is just ending has its ports for a moment.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Ports that are said to be in use, for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    // Where there is none, others do not hear of this agent.
    socket: Option<OwnedFd>,
}

/// Somebody who uses ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// The ports.
    pub ports: RangeInclusive<u16>,
    /// The process, by its number in this PID namespace; 0: it is of another.
    pub process: i32,
}

impl Claim {
    /// Says that these ports are in use.
    ///
    /// # Errors
    /// Somebody else uses one of them.
    pub fn new(ports: &RangeInclusive<u16>) -> Result<Self, Rival> {
        let own = announce(ports)
            .inspect_err(|error| tracing::debug!(%error, "others do not hear which packet-ports are in use"));
        let (name, socket) = own.ok().unzip();
        let mut last = None;
        for _ in 0..TRIES {
            last = rivals(ports, name.as_deref()).into_iter().next();
            if last.is_none() {
                break;
            }
            thread::sleep(PAUSE);
        }
        last.map_or(Ok(Self { socket }), Err)
    }

    /// Where those come who ask who it is. Somebody has to accept them, and let them go: with a full queue nobody could ask any more.
    pub fn listener(&self) -> Option<UnixListener> {
        self.socket.as_ref()?.try_clone().ok().map(UnixListener::from)
    }
}

/// Whoever uses ports of this range, but for the socket with the name `own`.
pub fn rivals(ports: &RangeInclusive<u16>, own: Option<&str>) -> Vec<Rival> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let names = table.lines().filter_map(listening);
    let others = names.filter(|name| Some(*name) != own);
    let overlapping = others.filter_map(|name| {
        let theirs = parse(name)?;
        let overlaps = theirs.start() <= ports.end() && ports.start() <= theirs.end();
        overlaps.then_some((name, theirs))
    });
    overlapping.filter_map(|(name, ports)| Some(Rival { ports, process: owner(name)? })).collect()
}

/// A socket that says it, and its name.
fn announce(ports: &RangeInclusive<u16>) -> io::Result<(String, OwnedFd)> {
    let socket = socket()?;
    let name = format!("{PREFIX}{}-{}/{:x}", ports.start(), ports.end(), super::cookie(&socket)?);
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((name, socket))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// The abstract name of a socket that listens, of a line of the table (proc_pid_net(5)): the fourth field are its flags, the last one is its name, in which
/// @ stands for the zero byte. Connections that nobody has accepted have the same name, and other flags.
fn listening(line: &str) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    (fields.nth(3)? == LISTENING).then(|| fields.last()?.strip_prefix('@')).flatten()
}

fn parse(name: &str) -> Option<RangeInclusive<u16>> {
    let (ports, _) = name.strip_prefix(PREFIX)?.split_once('/')?;
    let (first, last) = ports.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The process that has such a name. Anybody may have any name; it counts if it is root's, this user's, or that of somebody who may do what an
/// agent on path `packet` may.
fn owner(name: &str) -> Option<i32> {
    let socket = socket().ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?).ok()?;
    let (process, user) = peer_process(socket.as_fd()).ok()?;
    let is_trusted = user == 0 || user == geteuid().as_raw();
    if !is_trusted && !is_visible(process) {
        // To believe it would let anybody turn the path off.
        tracing::warn!(
            name,
            user,
            process,
            "somebody says to have these packet-ports, and hides whether that can be"
        );
    }
    (is_trusted || may_administer(process, user)).then_some(process)
}

/// Whether this process may look at another (hidepid, proc(5); ProtectProc=, systemd.exec(5)).
fn is_visible(process: i32) -> bool {
    fs::metadata(format!("/proc/{process}")).is_ok()
}

/// Whether a process has CAP_NET_ADMIN, and not in a user namespace of its own, where it would mean nothing (proc_pid_status(5), CapEff;
/// user_namespaces(7), uid_map). Processes that are hidden have not, nor have those that have become another user's since: whoever starts such a one
/// (su(1)) would speak for it.
fn may_administer(process: i32, user: u32) -> bool {
    let is_still = fs::metadata(format!("/proc/{process}")).is_ok_and(|entry| entry.uid() == user);
    let map = |process: &str| fs::read_to_string(format!("/proc/{process}/uid_map")).ok();
    let own = map("self");
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    is_still && own.is_some() && map(&process.to_string()) == own && has_net_admin(&status)
}

fn has_net_admin(status: &str) -> bool {
    let set =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    set.is_some_and(|set| CapabilitySet::from_bits_retain(set).contains(CapabilitySet::NET_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports of this process's alone: others may be running the same test.
    #[test]
    fn ports_are_one_agents_until_it_ends() {
        let base = 1_100 + (std::process::id() % 600) as u16 * 100;
        let ports = |first: u16, last: u16| base + first..=base + last;
        let first = Claim::new(&ports(0, 9)).expect("nobody has them");
        let rival = Claim::new(&ports(9, 20)).expect_err("one is taken");
        assert_eq!(rival, Rival { ports: ports(0, 9), process: std::process::id().cast_signed() });
        assert_eq!(rivals(&ports(0, 0), None), [rival]);
        let beside = Claim::new(&ports(10, 20)).expect("others");
        drop((first, beside));
        assert_eq!(rivals(&ports(0, 99), None), []);
        Claim::new(&ports(0, 9)).expect("given back");
    }

    /// Whoever asks who it is waits in a queue, until he is let go.
    #[test]
    fn who_asks_can_be_let_go() {
        let base = 61_500 + (std::process::id() % 400) as u16 * 10;
        let ports = base..=base + 9;
        let claim = Claim::new(&ports).expect("nobody has them");
        let listener = claim.listener().expect("it has a socket");
        assert_eq!(rivals(&ports, None).len(), 1);
        assert!(listener.accept().is_ok(), "one has asked");
        assert_eq!(listener.accept().expect_err("and no more").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn who_may_administer_has_one_capability() {
        assert!(has_net_admin("Name:\tlb\nCapPrm:\t0\nCapEff:\t0000000000001000\n"));
        assert!(!has_net_admin("CapPrm:\t0000000000001000\nCapEff:\t000001ffffffefff\n"));
        assert!(!has_net_admin(""));
    }

    #[test]
    fn what_is_no_name_of_ours_is_nobodys() {
        for name in ["lb-packet-ports/", "lb-packet-ports/1-2", "lb-packet-ports/1-70000/a", "other/1-2/a"] {
            assert_eq!(parse(name), None, "{name}");
        }
        assert_eq!(parse("lb-packet-ports/1-2/a"), Some(1..=2));
    }

    #[test]
    fn only_who_listens_has_a_name() {
        let line =
            |flags: &str| format!("ffff8881: 00000002 00000000 {flags} 0001 01 81234 @lb-packet-ports/1-2/a");
        assert_eq!(listening(&line(LISTENING)), Some("lb-packet-ports/1-2/a"));
        assert_eq!(listening(&line("00000000")), None);
        assert_eq!(listening("ffff8881: 00000002 00000000 00010000 0001 01 81234"), None);
        assert_eq!(listening("Num       RefCount Protocol Flags    Type St Inode Path"), None);
    }
}
