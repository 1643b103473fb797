// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent may do beyond an ordinary user: what it needs at start, what this process holds, and how all of it is given up
//! before the first client comes.

use std::fmt;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// The initial user namespace, as /proc/self/ns/user shows it (include/linux/proc_ns.h, PROC_USER_INIT_INO).
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// What the kernel checks instead of "root" (capabilities(7)). ARCHITECTURE.md and config/lb.service have the same list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Loads BPF programs and makes their maps.
    Bpf,
    /// Makes socket maps, and programs that work on sockets.
    NetAdmin,
    /// Lets BPF programs read the kernel's own structures.
    Perfmon,
    /// Sends packets with headers of its own.
    NetRaw,
    /// Binds ports below net.ipv4.ip_unprivileged_port_start.
    NetBindService,
}

impl Capability {
    /// All that the agent can need.
    pub const ALL: [Self; 5] = [Self::Bpf, Self::NetAdmin, Self::Perfmon, Self::NetRaw, Self::NetBindService];

    /// Those that path `sockmap` needs until it is loaded.
    pub const FOR_SOCKMAP: [Self; 3] = [Self::Bpf, Self::NetAdmin, Self::Perfmon];

    /// Those that path `packet` needs until it is loaded.
    pub const FOR_PACKET: [Self; 3] = [Self::Bpf, Self::NetAdmin, Self::Perfmon];

    /// Its name as in capabilities(7) and systemd units.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetRaw => "CAP_NET_RAW",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
        }
    }

    /// What it is for, in a few words.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "loads the BPF programs of paths packet and sockmap",
            Self::NetAdmin => {
                "makes the socket maps of path sockmap; puts the programs of path packet at interfaces, and throws its sockets away as long as it is on"
            }
            Self::Perfmon => {
                "lets path sockmap see in the kernel how much a socket has accepted, and path packet read what it has copied"
            }
            Self::NetRaw => "lets path packet reset both ends of a flow at once that lb ends",
            Self::NetBindService => "binds low ports",
        }
    }

    const fn bit(self) -> CapabilitySet {
        match self {
            Self::Bpf => CapabilitySet::BPF,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::Perfmon => CapabilitySet::PERFMON,
            Self::NetRaw => CapabilitySet::NET_RAW,
            Self::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        }
    }

    /// Whether this thread has it in its effective set.
    pub fn is_held(self) -> bool {
        capabilities(None).is_ok_and(|held| held.effective.contains(self.bit()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the kernel does not permit to load what path `sockmap` needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Of these capabilities.
    Capabilities(Vec<Capability>),
    /// They are all there, but in a user namespace of their own, where bpf(2) does not count them (user_namespaces(7)).
    UserNamespace,
    /// They are all there: somebody forbids bpf(2) itself.
    Forbidden,
}

impl Lack {
    /// Why it is that this thread was not permitted.
    pub fn of_this_thread() -> Self {
        let missing = Capability::FOR_SOCKMAP.into_iter().filter(|capability| !capability.is_held());
        Self::among(missing.collect(), is_in_initial_user_namespace())
    }

    fn among(missing: Vec<Capability>, is_initial: bool) -> Self {
        match (missing.is_empty(), is_initial) {
            (false, _) => Self::Capabilities(missing),
            (true, false) => Self::UserNamespace,
            (true, true) => Self::Forbidden,
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities(missing) => {
                let verb = if missing.len() == 1 { "is" } else { "are" };
                write!(f, "{} {verb} missing", list(missing))
            }
            Self::UserNamespace => f.write_str("capabilities of a user namespace of one's own do not count"),
            Self::Forbidden => f.write_str(
                "bpf(2) is forbidden by a seccomp filter or a security module, though no capability is missing",
            ),
        }
    }
}

/// Names with commas, the last one with "and".
pub fn list(capabilities: &[Capability]) -> String {
    let names: Vec<&str> = capabilities.iter().map(|capability| capability.name()).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Whether this process is in the user namespace that the system began with. Where /proc does not tell, it counts as that.
pub fn is_in_initial_user_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/user").map_or(true, |link| link.as_os_str() == INITIAL_USER_NAMESPACE)
}

/// Gives up every capability for good, also what execve(2) of another program could bring back. To be called while there is one thread:
/// each has its own, and takes those of the one that starts it.
///
/// # Errors
/// A security module does not permit it.
pub fn give_up() -> io::Result<()> {
    give_up_but(&[])
}

/// The same for all but these, as far as they are there.
///
/// # Errors
/// As [`give_up`].
pub fn give_up_but(kept: &[Capability]) -> io::Result<()> {
    let kept = kept.iter().fold(CapabilitySet::empty(), |set, capability| set | capability.bit());
    let kept = kept & capabilities(None)?.permitted;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    // The ambient set goes with the inheritable one (capabilities(7)).
    set_capabilities(None, sets)?;
    set_no_new_privs(true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_is_told_by_what_is_there() {
        let check = |missing: &[Capability], is_initial: bool, expected: &str| {
            assert_eq!(Lack::among(missing.to_vec(), is_initial).to_string(), expected);
        };
        check(&[Capability::Bpf], true, "CAP_BPF is missing");
        check(&[Capability::Bpf, Capability::NetAdmin], false, "CAP_BPF and CAP_NET_ADMIN are missing");
        check(&Capability::FOR_SOCKMAP, true, "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are missing");
        check(&[], false, "capabilities of a user namespace of one's own do not count");
        check(
            &[],
            true,
            "bpf(2) is forbidden by a seccomp filter or a security module, though no capability is missing",
        );
    }

    #[test]
    fn a_thread_that_has_given_up_holds_nothing() {
        let held = std::thread::spawn(|| {
            give_up().expect("a thread can give up capabilities");
            Capability::ALL.into_iter().filter(|capability| capability.is_held()).count()
        });
        assert_eq!(held.join().expect("the thread ends"), 0);
    }
}
