// SPDX-License-Identifier: MIT OR Apache-2.0
//! A directory of a BPF file system with a file for each map and link. Whoever has it open and locked is the agent that runs on it; the
//! lock goes with the process, however that ends.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, access, flock, fstatfs};
use rustix::io::Errno;

use super::{Found, KeptError, Why};
use crate::kernel::bpf;

/// Of a BPF file system (include/uapi/linux/magic.h, BPF_FS_MAGIC).
const BPF_FS: u64 = 0xcafe_4a11;

/// Nobody but the agent's user: who can open a map can change it.
const MODE: u32 = 0o700;

/// How often a lock is tried, and the time in between.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory, locked.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    _lock: File,
}

impl Pins {
    /// Makes and locks a directory, and opens what is in it; or says why it cannot be used.
    ///
    /// # Errors
    /// [`KeptError::Taken`]
    pub fn open(directory: &Path) -> Result<Result<(Self, Found), Why>, KeptError> {
        let lock = match make(directory) {
            Ok(lock) => lock,
            Err(why) => return Ok(Err(why)),
        };
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(KeptError::Taken { directory: directory.to_owned() });
            }
            Err(errno) => return Ok(Err(Why::Refused(directory.to_owned(), errno.into()))),
        }
        let pins = Self { directory: directory.to_owned(), _lock: lock };
        match pins.all() {
            Ok(found) => Ok(Ok((pins, found))),
            Err(error) => Ok(Err(Why::Refused(directory.to_owned(), error))),
        }
    }

    /// Whether somebody has a directory.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn is_locked(directory: &Path) -> io::Result<bool> {
        match flock(File::open(directory)?, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// See [`super::Keeper::keep`].
    pub fn keep(&self, name: &str, fd: impl AsFd) -> io::Result<()> {
        self.forget(name);
        bpf::pin(fd, &self.directory.join(name))
    }

    /// See [`super::Keeper::forget`].
    pub fn forget(&self, name: &str) {
        // What is not there is forgotten.
        let _ = fs::remove_file(self.directory.join(name));
    }

    /// Removes everything, and the directory with it.
    pub fn clear(&self) {
        for name in names(&self.directory).unwrap_or_default() {
            self.forget(&name);
        }
        let _ = fs::remove_dir(&self.directory);
    }

    fn all(&self) -> io::Result<Found> {
        let opened = names(&self.directory)?.into_iter().map(|name| {
            let fd = bpf::open(&self.directory.join(&name))?;
            Ok((name, fd))
        });
        opened.collect()
    }
}

/// Locks a directory. Whoever only looks whether somebody has it has it for a moment, and so has a process that is just ending.
fn lock_soon(directory: &File) -> rustix::io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    Err(Errno::WOULDBLOCK)
}

/// The directories beside this one that an agent may have.
pub fn neighbours(directory: &Path) -> Vec<PathBuf> {
    let Some(parent) = directory.parent() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path != directory && path.join(super::LAYOUT).exists()).collect()
}

/// Whether a directory can be made, or is there, that keeps anything.
///
/// # Errors
/// Why not.
pub fn look(directory: &Path) -> Result<(), Why> {
    let refused = |error: io::Error| Why::Refused(directory.to_owned(), error);
    let place = if directory.exists() { directory } else { directory.parent().unwrap_or(directory) };
    let opened = File::open(place).map_err(refused)?;
    let kind = fstatfs(&opened).map_err(|errno| refused(errno.into()))?.f_type;
    if kind as u64 & 0xffff_ffff != BPF_FS {
        return Err(Why::NoFileSystem(directory.to_owned()));
    }
    access(place, Access::WRITE_OK | Access::EXEC_OK).map_err(|errno| refused(errno.into()))
}

/// The directory, open. It is made if it is not there.
fn make(directory: &Path) -> Result<File, Why> {
    let refused = |error: io::Error| Why::Refused(directory.to_owned(), error);
    look(directory)?;
    if !directory.exists() {
        match fs::DirBuilder::new().mode(MODE).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(error)),
            Ok(()) | Err(_) => {}
        }
    }
    let opened = File::open(directory).map_err(refused)?;
    fs::set_permissions(directory, Permissions::from_mode(MODE)).map_err(refused)?;
    Ok(opened)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_keeps_nothing() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let opened = Pins::open(&place.path().join("lb")).expect("nobody has it");
        assert!(matches!(opened, Err(Why::NoFileSystem(_))), "{opened:?}");
        let opened = Pins::open(&place.path().join("a/b")).expect("nobody has it");
        assert!(matches!(opened, Err(Why::Refused(..))), "{opened:?}");
    }
}
