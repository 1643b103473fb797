// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernels that the tests run on: Debian's for clouds, from its packages, kept below target/vm/kernels.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::suite::Suite;
use crate::repository::root;

/// Everything that virtual machines leave behind, from the root of the repository.
pub const FOLDER: &str = "target/vm";

/// The package of every suite that needs its newest kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// One kernel and where it is from.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it is called on command lines and in documents.
    pub label: &'static str,
    /// What its version begins with.
    prefix: &'static str,
    /// The suite of Debian that has it.
    suite: &'static str,
}

/// All of them, the oldest first. README and Vagrantfile name the same; a test compares.
pub const KERNELS: [Kernel; 3] = [
    Kernel { label: "6.1", prefix: "6.1.", suite: "bookworm" },
    Kernel { label: "6.12", prefix: "6.12.", suite: "bookworm-backports" },
    // The newest that there is.
    Kernel { label: "7.x", prefix: "7.", suite: "unstable" },
];

/// A kernel on this machine's disk.
#[derive(Debug)]
pub struct Files {
    /// The version of its packages.
    pub version: String,
    /// What QEMU boots.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

impl Kernel {
    /// Downloads it, unless it is there already.
    ///
    /// # Errors
    /// The packages cannot be had (see [`Suite`]), or hold something else than a kernel.
    pub fn files(&self) -> Result<Files> {
        ensure!(cfg!(target_arch = "x86_64"), "the kernels are for x86-64, and this machine is another one");
        let folder = root().join(FOLDER).join("kernels").join(self.label);
        let version = folder.join("version");
        // Written last, so that a download that was cut off is made again.
        if !version.is_file() {
            self.download(&folder)?;
        }
        let version = fs::read_to_string(&version).context("the version of the kernel's packages")?;
        let image = find(&folder, &|name| name.starts_with("vmlinuz"));
        let builtin = find(&folder, &|name| name == "kernel");
        let [image, modules] = [image, builtin].map(|path| path.context("the packages hold no kernel"));
        Ok(Files { version: version.trim().to_owned(), image: image?, modules: modules? })
    }

    fn download(&self, folder: &Path) -> Result<()> {
        println!("kernel {}: downloading from suite {}", self.label, self.suite);
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let suite = Suite::open(self.suite, folder)?;
        let version = suite.field(PACKAGE, "Version")?;
        ensure!(version.starts_with(self.prefix), "suite {} has {version} instead", self.suite);
        // From Linux 7 on, the package that names both holds neither the kernel nor its modules.
        let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
        let packages = suite.closure(PACKAGE, |name| parts.iter().any(|part| name.starts_with(part)))?;
        suite.unpack(&packages, folder)?;
        fs::write(folder.join("version"), &version)?;
        Ok(())
    }
}

/// The first file or folder whose name fits, below a folder; symbolic links are not followed.
fn find(folder: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).ok()?.filter_map(Result::ok).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    let own = entries.iter().find(|entry| entry.file_name().to_str().is_some_and(fits));
    own.map(fs::DirEntry::path).or_else(|| {
        let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| find(&entry.path(), fits)).next()
    })
}
