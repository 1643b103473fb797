// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel side: loads the BPF object, and hides aya from everybody else. The object is the one in `lb-ebpf/prebuilt`, so that
//! one commit is one binary, whatever tools the machine has.

use std::io;

use aya::maps::{MapError, PerCpuArray};
use aya::programs::{ProgramError, SkSkb};
use aya::{Ebpf, EbpfError};
use lb_common::layout::{SOCKMAP_STATS, SOCKMAP_VERDICT, SockmapStats, SockmapStatsWords};
use rustix::io::Errno;

/// What `cargo xtask ebpf` built; the build script has compared its digest.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf/prebuilt/lb-ebpf.o"));

/// Programs and maps that the kernel has accepted. Dropping it unloads them.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
}

impl Loaded {
    /// What the verdict on received segments has counted so far, over all CPUs.
    ///
    /// # Errors
    ///
    /// [`LoadError::Damaged`] or [`LoadError::Refused`] if the map is missing or cannot be read.
    pub fn sockmap_stats(&self) -> Result<SockmapStats, LoadError> {
        let map = self.ebpf.map(SOCKMAP_STATS).ok_or_else(|| absent("map", SOCKMAP_STATS))?;
        let read = |error: MapError| LoadError::from_ebpf(error.into());
        let stats: PerCpuArray<_, SockmapStatsWords> = map.try_into().map_err(read)?;
        let cpus = stats.get(&0, 0).map_err(read)?;
        Ok(cpus.iter().copied().map(SockmapStats::from).sum())
    }
}

/// Why the kernel side is not available. The agent then carries every flow in user space.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process lacks CAP_BPF or CAP_NET_ADMIN in the initial user namespace (capabilities(7)), a security module forbids
    /// bpf(2), or, before Linux 5.11, RLIMIT_MEMLOCK is too small for the maps.
    #[error("not permitted: loading BPF programs needs the capabilities CAP_BPF and CAP_NET_ADMIN")]
    NoPrivilege,
    /// The kernel knows no bpf(2), or not a kind of map or program in use: it is older than Linux 4.18, or was built without
    /// CONFIG_BPF_SYSCALL or CONFIG_BPF_STREAM_PARSER.
    #[error("the kernel is too old or built without support for BPF socket maps")]
    KernelTooOld(#[source] io::Error),
    /// The embedded object is not what the agent was written for: the binary is damaged.
    #[error("the embedded BPF object is damaged: {0}")]
    Damaged(String),
    /// The kernel refused for another reason, such as want of memory or a complaint of its verifier.
    #[error("the kernel refuses the BPF object")]
    Refused(#[source] Box<EbpfError>),
}

/// Loads every program and map once, without attaching anything: whether the kernel paths could work here.
///
/// # Errors
///
/// See [`LoadError`].
pub fn probe() -> Result<Loaded, LoadError> {
    load(OBJECT)
}

/// Loads an object.
fn load(object: &[u8]) -> Result<Loaded, LoadError> {
    let mut ebpf = Ebpf::load(object).map_err(LoadError::from_ebpf)?;
    let program = ebpf.program_mut(SOCKMAP_VERDICT).ok_or_else(|| absent("program", SOCKMAP_VERDICT))?;
    let from_program = |error: ProgramError| LoadError::from_ebpf(error.into());
    let verdict: &mut SkSkb = program.try_into().map_err(from_program)?;
    verdict.load().map_err(from_program)?;
    Ok(Loaded { ebpf })
}

fn absent(kind: &str, name: &str) -> LoadError {
    LoadError::Damaged(format!("{kind} {name} is missing"))
}

impl LoadError {
    /// Sorts an error of aya by what an operator would do about it.
    fn from_ebpf(error: EbpfError) -> Self {
        match errno(&error) {
            Some(Errno::PERM | Errno::ACCESS) => Self::NoPrivilege,
            Some(errno @ (Errno::NOSYS | Errno::INVAL)) if is_creation(&error) => {
                Self::KernelTooOld(errno.into())
            }
            Some(_) => Self::Refused(Box::new(error)),
            None => Self::Damaged(error.to_string()),
        }
    }
}

/// The kernel's answer at the bottom of an error; `None`: the kernel was not asked.
fn errno(error: &EbpfError) -> Option<Errno> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
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
