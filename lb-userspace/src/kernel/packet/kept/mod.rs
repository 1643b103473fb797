// SPDX-License-Identifier: MIT OR Apache-2.0
//! What outlives the agent, and where: maps, and links by which programs are at interfaces. Either as files in a directory of a BPF file
//! system, or as descriptors with the service manager. Who finds them there goes on with the flows in them.

mod flush;
mod layout;
mod manager;
mod pins;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use flush::{FlushError, Flushed, flush, owner};
pub use layout::{Incompatible, Layout, WORDS, new_layout, read_layout};
use manager::Manager;
use pins::Pins;

use crate::kernel::bpf;
use crate::net::claim::Rival;

/// What was found, by name.
pub type Found = BTreeMap<String, OwnedFd>;

/// The names of maps.
pub const LAYOUT: &str = "layout";
/// See [`LAYOUT`].
pub const KEYS: &str = "keys";
/// See [`LAYOUT`].
pub const FLOWS: &str = "flows";
/// See [`LAYOUT`].
pub const BELLS: &str = "bells";
/// See [`LAYOUT`].
pub const COUNTERS: &str = "counters";
/// See [`LAYOUT`].
pub const TALLIES: &str = "tallies";
/// See [`LAYOUT`].
pub const STORIES: &str = "stories";
/// See [`LAYOUT`].
pub const FILTERS: &str = "filters";

/// Who keeps maps and links when the agent is gone.
#[derive(Debug)]
pub enum Keeper {
    /// Nobody.
    Nobody(Why),
    /// The kernel, for files in a directory.
    Pins(Pins),
    /// The service manager.
    Manager(Manager),
}

/// Why nobody does.
#[derive(Debug)]
pub enum Why {
    /// `packet-state = "off"`
    Off,
    /// The directory is, or would be, on no BPF file system.
    NoFileSystem(PathBuf),
    /// It cannot be made or used.
    Refused(PathBuf, io::Error),
}

/// Why maps and links of another agent are not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// An agent is running on them.
    #[error(
        "{} belongs to an agent that is running: give this one another packet-state, and other packet-ports",
        directory.display()
    )]
    Taken {
        /// The directory.
        directory: PathBuf,
    },
    /// An agent with another directory has ports of this one's range.
    #[error(
        "packet-ports overlap with those of the agent with packet-state = \"{}\": give each its own",
        other.display()
    )]
    Overlap {
        /// The directory of the other.
        other: PathBuf,
    },
    /// An agent that is running has ports of this one's range, wherever it keeps its flows.
    #[error(
        "packet-ports {} to {} are those of another lb that is running (process {}): give each its own",
        .0.ports.start(), .0.ports.end(), .0.process
    )]
    Claimed(Rival),
    /// The flows in it are of a kind that this agent does not understand.
    #[error(
        "{place} holds flows that this lb cannot go on with: {found}. They go on by themselves; {way_out}"
    )]
    Incompatible {
        /// Where.
        place: String,
        /// What ends them: [`Keeper::way_out`].
        way_out: &'static str,
        /// What was found.
        found: Incompatible,
    },
}

impl Keeper {
    /// Finds out who keeps, and what is there. `directory`: where files go; `None`: nothing outlives the agent.
    ///
    /// # Errors
    /// [`KeptError::Taken`]
    pub fn open(directory: Option<&Path>) -> Result<(Self, Found), KeptError> {
        let Some(directory) = directory else { return Ok((Self::Nobody(Why::Off), Found::new())) };
        if let Some((manager, found)) = Manager::certain() {
            return Ok((Self::Manager(manager), found));
        }
        match Pins::open(directory)? {
            Ok((pins, found)) => Ok((Self::Pins(pins), found)),
            Err(why) => Ok((Manager::perhaps().map_or(Self::Nobody(why), Self::Manager), Found::new())),
        }
    }

    /// Who would keep, by what this process sees; nothing is made or taken.
    ///
    /// # Errors
    /// Why nobody would.
    pub fn foresee(directory: Option<&Path>) -> Result<String, Why> {
        let Some(directory) = directory else { return Err(Why::Off) };
        match pins::look(directory) {
            Err(_) if Manager::perhaps().is_some() => Ok("the service manager".into()),
            looked => looked.map(|()| directory.display().to_string()),
        }
    }

    /// Whether what it is given outlives the agent.
    pub fn keeps(&self) -> bool {
        !matches!(self, Self::Nobody(_))
    }

    /// Keeps a map or a link under a name, instead of what had that name.
    ///
    /// # Errors
    /// No memory, or the service manager is gone.
    pub fn keep(&self, name: &str, fd: impl AsFd) -> io::Result<()> {
        match self {
            Self::Nobody(_) => Ok(()),
            Self::Pins(pins) => pins.keep(name, fd),
            Self::Manager(manager) => manager.keep(name, fd.as_fd()),
        }
    }

    /// Lets go of what has a name.
    pub fn forget(&self, name: &str) {
        match self {
            Self::Nobody(_) => {}
            Self::Pins(pins) => pins.forget(name),
            Self::Manager(manager) => manager.forget(name),
        }
    }

    /// What ends flows that no agent understands, for a person to read. What the service manager keeps, nobody else can reach.
    pub fn way_out(&self) -> &'static str {
        match self {
            Self::Nobody(_) | Self::Pins(_) => "`lb stop --flush` ends them",
            Self::Manager(_) => {
                "`systemctl stop` ends them (before Linux 6.6 with `tc qdisc del dev INTERFACE clsact` for each interface), and each end hears of it with the next that it sends"
            }
        }
    }

    /// Lets go of what was found.
    pub fn clear_all(&self, found: &Found) {
        found.keys().for_each(|name| self.forget(name));
    }

    /// Lets go of everything.
    pub fn clear(&self, names: impl IntoIterator<Item = String>) {
        names.into_iter().for_each(|name| self.forget(&name));
        if let Self::Pins(pins) = self {
            pins.clear();
        }
    }
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(why) => write!(f, "nobody: {why}"),
            Self::Pins(pins) => write!(f, "{}", pins.directory().display()),
            Self::Manager(_) => f.write_str("the service manager"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("packet-state is \"off\""),
            Self::NoFileSystem(path) => write!(
                f,
                "{} is not in a BPF file system, such as `mount -t bpf bpf /sys/fs/bpf` makes one",
                path.display()
            ),
            Self::Refused(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

/// The directory beside one's own whose agent has ports of this range in this network namespace.
pub fn overlapping(own: &Path, ports: &RangeInclusive<u16>, network: u64) -> Option<PathBuf> {
    pins::neighbours(own).into_iter().find(|other| {
        let layout = bpf::open(&other.join(LAYOUT)).ok().and_then(|map| read_layout(&map).ok());
        layout.is_some_and(|layout| layout.overlaps(ports, network))
    })
}
