// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel side: loads the BPF object, and hides aya from everybody else. The object is the one in `lb-ebpf/prebuilt`, so that
//! one commit is one binary, whatever tools the machine has.

mod bell;
mod bpf;
mod btf;
mod directions;
mod gate;
mod mapped;
#[cfg(feature = "bpf-log")]
mod messages;
pub mod packet;
mod seats;
mod self_test;
mod sockmap;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Map, MapData, MapError};
use aya::programs::ProgramError;
use aya::{Ebpf, EbpfError};
use lb_common::reason::Availability;
use rustix::io::Errno;

use crate::privileges::{Capability, Lack};

pub use btf::BtfError;
pub use gate::Gate;
pub use packet::{Bells, Packet};
pub use seats::Seat;
pub use self_test::{SelfTestError, Step};
pub use sockmap::{Calls, Maps, Refusal, Sockmap};

/// What `cargo xtask ebpf` built; the build script has compared its digest.
#[cfg(not(feature = "bpf-log"))]
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-ebpf.o"));

/// What `cargo xtask ebpf --log` built.
#[cfg(feature = "bpf-log")]
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf-log/lb-ebpf.o"));

/// Why the kernel side is not available. The agent then carries every flow in user space.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process lacks a capability in the initial user namespace (capabilities(7)), bpf(2) is forbidden, or, before Linux 5.11,
    /// RLIMIT_MEMLOCK is too small for the maps.
    #[error("not permitted: {0}")]
    NoPrivilege(Lack),
    /// The kernel does not describe its own types.
    #[error("the kernel does not tell where it counts what a socket has accepted")]
    NoBtf(#[source] BtfError),
    /// The kernel knows no bpf(2), or not a kind of map or program in use: it is older than Linux 4.18, or was built without
    /// CONFIG_BPF_SYSCALL or CONFIG_BPF_STREAM_PARSER.
    #[error("the kernel is too old or built without support for BPF socket maps")]
    KernelTooOld(#[source] io::Error),
    /// The embedded object is not what the agent was written for: the binary is damaged.
    #[error("the embedded BPF object is damaged: {0}")]
    Damaged(String),
    /// The process has no memory or descriptors left for what was loaded.
    #[error("no memory or file descriptors for the maps")]
    Memory(#[source] io::Error),
    /// It was loaded, and does not do what it should.
    #[error("the self-test fails")]
    SelfTest(#[source] SelfTestError),
    /// The kernel refused for another reason, such as want of memory or a complaint of its verifier.
    #[error("the kernel refuses the BPF object")]
    Refused(#[source] Box<EbpfError>),
}

/// Loads the kernel's side of path `sockmap` for so many flows at the same time, which may have so many bytes of cost waiting beyond
/// their shares.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load_sockmap(flows: u32, overdraft_max: u64) -> Result<(Sockmap, Calls), LoadError> {
    Sockmap::load(OBJECT, flows, overdraft_max)
}

/// Loads the kernel's side of path `packet` for so many flows at the same time, which go with it: to be tried, and not to be attached.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load_packet(flows: u32) -> Result<(Packet, Bells), LoadError> {
    Packet::load(OBJECT, flows)
}

/// Opens the kernel's side of path `packet`: goes on with what another agent has left, or else makes it anew.
///
/// # Errors
///
/// See [`packet::OpenError`].
pub fn open_packet(
    terms: &packet::OpenTerms<'_>,
) -> Result<(Packet, Bells, Vec<packet::Orphan>), packet::OpenError> {
    Packet::open(OBJECT, terms)
}

/// Tries whether the kernel does what the path relies on, and tells each step that it passes; see [`self_test`].
///
/// # Errors
///
/// [`LoadError::SelfTest`], or that the maps cannot be opened once more.
pub fn test_sockmap(sockmap: &Sockmap, passed: &mut dyn FnMut(Step)) -> Result<(), LoadError> {
    let mut maps = sockmap.maps()?;
    self_test::run(sockmap, &mut maps, passed).map_err(LoadError::SelfTest)
}

fn absent(kind: &str, name: &str) -> LoadError {
    LoadError::Damaged(format!("{kind} {name} is missing"))
}

fn from_map(error: MapError) -> LoadError {
    LoadError::from_ebpf(error.into())
}

fn from_program(error: ProgramError) -> LoadError {
    LoadError::from_ebpf(error.into())
}

/// Takes a map out of the object.
fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match ebpf.take_map(name) {
        Some(
            Map::HashMap(data)
            | Map::Array(data)
            | Map::PerCpuArray(data)
            | Map::SockMap(data)
            | Map::RingBuf(data),
        ) => Ok(data),
        _ => Err(absent("map", name)),
    }
}

fn duplicate(map: &MapData) -> Result<OwnedFd, LoadError> {
    map.fd().as_fd().try_clone_to_owned().map_err(LoadError::Memory)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoadError {
    /// The word for it in metrics.
    pub fn availability(&self) -> Availability {
        match self {
            Self::NoPrivilege(Lack::Forbidden) => Availability::Forbidden,
            Self::NoPrivilege(Lack::Capabilities(missing)) if missing[..] == [Capability::Perfmon] => {
                Availability::NoPerfmon
            }
            Self::NoPrivilege(_) => Availability::NoPrivilege,
            Self::NoBtf(_) => Availability::NoBtf,
            Self::SelfTest(_) => Availability::SelfTest,
            Self::KernelTooOld(_) | Self::Damaged(_) | Self::Memory(_) | Self::Refused(_) => {
                Availability::Kernel
            }
        }
    }

    /// Sorts an error of aya by what an operator would do about it.
    fn from_ebpf(error: EbpfError) -> Self {
        match errno(&error) {
            Some(errno @ (Errno::PERM | Errno::ACCESS)) => Self::not_permitted(errno, error),
            Some(errno @ (Errno::NOSYS | Errno::INVAL)) if is_creation(&error) => {
                Self::KernelTooOld(errno.into())
            }
            Some(_) => Self::Refused(Box::new(error)),
            None => Self::Damaged(error.to_string()),
        }
    }

    /// EACCES is also what the verifier says of a program that it does not like (kernel/bpf/verifier.c).
    fn not_permitted(errno: Errno, error: EbpfError) -> Self {
        match Lack::of_this_thread() {
            Lack::Forbidden if errno == Errno::ACCESS => Self::Refused(Box::new(error)),
            lack => Self::NoPrivilege(lack),
        }
    }
}

/// The kernel's answer at the bottom of an error; `None`: the kernel was not asked.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(error);
        }
        cause = error.source();
    }
    None
}

/// Whether the kernel refused to make a map, which asks for nothing that a new enough kernel would not accept, or knows no
/// such system call. A program that it refuses may as well be wrong.
fn is_creation(error: &EbpfError) -> bool {
    matches!(error, EbpfError::MapError(MapError::CreateError { .. })) || errno(error) == Some(Errno::NOSYS)
}

#[cfg(test)]
mod tests;
