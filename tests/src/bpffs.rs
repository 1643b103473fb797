// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BPF file system of a test's own.

use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A BPF file system. Dropping it takes it away, with all that was kept there.
#[derive(Debug)]
pub struct Bpffs {
    place: TempDir,
}

impl Bpffs {
    /// Mounts one, empty.
    ///
    /// # Panics
    /// Without root, or if the kernel has no BPF.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "a mount is no default value")]
    pub fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        mount("bpf", place.path(), "bpf", MountFlags::empty(), None).expect("the end-to-end tests need root");
        Self { place }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The names of what is kept in a directory of it; empty also where there is none.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(directory)) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Whoever still uses it keeps it for as long.
        let _ = unmount(self.place.path(), UnmountFlags::DETACH);
    }
}
