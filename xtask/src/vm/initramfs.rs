// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file system in memory for a virtual machine: files of this machine, packed as the kernel unpacks them
//! (Documentation/driver-api/early-userspace/buffer-format.rst, format `newc`).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::repository::output;

/// Folders that are links into /usr (file-hierarchy(7), "Compatibility Symlinks").
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Kinds of files in their mode (inode(7)).
const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// What is in it so far.
pub struct Initramfs {
    archive: Vec<u8>,
    paths: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// One with the folders that every system has, and the two devices that its first process needs before it has mounted any.
    pub fn new() -> Self {
        let mut initramfs = Self { archive: Vec::new(), paths: BTreeSet::new() };
        initramfs.merge(Path::new("/"));
        for name in ["dev", "proc", "run", "sys", "tmp"] {
            initramfs.folder(&Path::new("/").join(name));
        }
        // Numbers: Documentation/admin-guide/devices.txt.
        initramfs.entry(Path::new("/dev/null"), CHARACTER_DEVICE | 0o666, (1, 3), &[]);
        initramfs.entry(Path::new("/dev/console"), CHARACTER_DEVICE | 0o600, (5, 1), &[]);
        initramfs
    }

    /// Makes some folders below `root` links into its /usr.
    fn merge(&mut self, root: &Path) {
        for name in MERGED {
            self.folder(&root.join("usr").join(name));
            self.link(&root.join(name), format!("usr/{name}").as_ref());
        }
    }

    /// Adds everything below a folder of this machine, as a root of its own below `root`; its owner is root.
    ///
    /// # Errors
    /// Something in it cannot be read.
    pub fn tree(&mut self, from: &Path, root: &Path) -> Result<()> {
        self.merge(root);
        let mut pending = vec![from.to_owned()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
                let inside = Path::new("/").join(path.strip_prefix(from).unwrap_or(&path));
                let to = root.join(merged(&inside).strip_prefix("/").unwrap_or(&inside));
                if kind.is_symlink() {
                    self.link(&to, fs::read_link(&path)?.as_os_str());
                } else if kind.is_dir() {
                    self.folder(&to);
                    pending.push(path);
                } else if kind.is_file() {
                    self.copy(&path, &to)?;
                }
            }
        }
        Ok(())
    }

    /// Adds a folder and those above it.
    pub fn folder(&mut self, path: &Path) {
        for folder in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
            self.entry(folder, FOLDER | 0o755, (0, 0), &[]);
        }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &Path, permissions: u32, content: &[u8]) {
        let path = merged(path);
        if let Some(folder) = path.parent() {
            self.folder(folder);
        }
        self.entry(&path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a file of this machine, at the same place or another.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let cannot = || format!("cannot read {}", from.display());
        let permissions = fs::metadata(from).with_context(cannot)?.permissions().mode() & 0o777;
        self.file(to, permissions, &fs::read(from).with_context(cannot)?);
        Ok(())
    }

    /// Adds a program of this machine, and the libraries that it is linked with, at their own places.
    ///
    /// # Errors
    /// It is not on the search path, or is no program.
    pub fn program(&mut self, name: &str) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
        let found = found.with_context(|| format!("{name} is not installed: `cargo xtask setup`"))?;
        self.program_at(&found, &found)
    }

    /// The same for any program, at a place of its own.
    ///
    /// # Errors
    /// As [`Self::copy`], or ldd(1) fails.
    pub fn program_at(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.copy(from, to)?;
        let linked = output(Command::new("ldd").arg(from))?;
        if linked.contains("not found") {
            bail!("{} lacks a library:\n{linked}", from.display());
        }
        for library in libraries(&linked) {
            self.copy(library, library)?;
        }
        Ok(())
    }

    /// Writes it to a file for QEMU.
    ///
    /// # Errors
    /// As write(2).
    pub fn write(mut self, file: &Path) -> Result<()> {
        self.paths.remove(Path::new("/TRAILER!!!"));
        self.entry(Path::new("/TRAILER!!!"), 0, (0, 0), &[]);
        fs::write(file, &self.archive).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &Path, target: &OsStr) {
        if let Some(folder) = path.parent() {
            self.folder(folder);
        }
        self.entry(path, LINK | 0o777, (0, 0), target.as_encoded_bytes());
    }

    /// Appends one entry, unless there is one at that place already.
    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) {
        if !self.paths.insert(path.to_owned()) {
            return;
        }
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_encoded_bytes();
        let number = u32::try_from(self.paths.len()).expect("few files");
        let size = u32::try_from(content.len()).expect("no file of 4 GiB");
        let name_size = u32::try_from(name.len()).expect("a short name") + 1;
        // Inode, mode, owner, group, links, time, size, its own device's number, its number if it is a device, name, checksum.
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.archive.extend_from_slice(b"070701");
        for field in fields {
            self.archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.archive.extend_from_slice(name);
        self.archive.push(0);
        self.align();
        self.archive.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

/// A path without the links that [`MERGED`] are.
fn merged(path: &Path) -> PathBuf {
    match path.components().nth(1) {
        Some(Component::Normal(first)) if MERGED.iter().any(|name| first == *name) => {
            Path::new("/usr").join(path.strip_prefix("/").unwrap_or(path))
        }
        _ => path.to_owned(),
    }
}

/// The files in what ldd(1) says: behind an arrow, or alone as the loader is.
fn libraries(said: &str) -> impl Iterator<Item = &Path> {
    said.lines().filter_map(|line| {
        let line = line.split_once("=>").map_or(line, |(_, file)| file);
        line.split_whitespace().next().filter(|word| word.starts_with('/')).map(Path::new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_a_name_and_content_each_padded_to_four_bytes() {
        let mut initramfs = Initramfs { archive: Vec::new(), paths: BTreeSet::new() };
        initramfs.entry(Path::new("/ab"), REGULAR | 0o644, (0, 0), b"hello");
        initramfs.entry(Path::new("/ab"), REGULAR | 0o644, (0, 0), b"once only");
        let expected = "07070100000001000081a40000000000000000000000010000000000000005\
                        000000000000000000000000000000000000000300000000ab\0\0\0\0hello\0\0\0";
        assert_eq!(String::from_utf8_lossy(&initramfs.archive), expected);
    }

    #[test]
    fn a_tree_has_a_root_of_its_own() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inside = |path: &str| folder.path().join(path);
        fs::create_dir_all(inside("lib/x")).expect("our own folder");
        fs::write(inside("lib/x/y.so.1"), "code").expect("our own folder");
        std::os::unix::fs::symlink("y.so.1", inside("lib/x/y.so")).expect("our own folder");
        let mut initramfs = Initramfs { archive: Vec::new(), paths: BTreeSet::new() };
        initramfs.tree(folder.path(), Path::new("/system")).expect("a tree");
        for path in ["/system/lib", "/system/usr/lib/x", "/system/usr/lib/x/y.so", "/system/usr/lib/x/y.so.1"]
        {
            assert!(initramfs.paths.contains(Path::new(path)), "{path} is not in {:?}", initramfs.paths);
        }
        let archive = String::from_utf8_lossy(&initramfs.archive).into_owned();
        assert!(archive.contains("code") && archive.contains("usr/lib"), "{archive}");
    }

    #[test]
    fn merged_folders_are_below_usr() {
        for (path, expected) in
            [("/lib/x/y.so", "/usr/lib/x/y.so"), ("/usr/bin/ip", "/usr/bin/ip"), ("/init", "/init")]
        {
            assert_eq!(merged(Path::new(path)), Path::new(expected));
        }
    }

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so (0x00007f)\n";
        let expected = [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld.so")];
        assert_eq!(libraries(said).collect::<Vec<_>>(), expected);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
