// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packages of the Python Package Index, each in a folder of its own below target. Nothing else of the machine changes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::repository::{execute, root};

/// Where the end-to-end tests look for theirs.
const TESTS_FOLDER: &str = "target/tests/python";

/// What the end-to-end tests use: another implementation of the PROXY protocol, and what that needs.
const TEST_WHEELS: [Wheel; 2] = [
    Wheel { folder: "proxy-protocol", package: "proxy-protocol", version: "0.11.3" },
    Wheel { folder: "typing-extensions", package: "typing-extensions", version: "4.16.0" },
];

/// A package and its folder.
pub(super) struct Wheel {
    pub(super) folder: &'static str,
    pub(super) package: &'static str,
    pub(super) version: &'static str,
}

/// Installs what the end-to-end tests use and what is missing of it.
///
/// # Errors
///
/// pip is missing, or a package cannot be had.
pub(super) fn install_for_tests() -> Result<()> {
    let folder = root().join(TESTS_FOLDER);
    TEST_WHEELS.iter().try_for_each(|wheel| wheel.install(&folder))
}

impl Wheel {
    /// Installs it below a folder, if it is missing there.
    ///
    /// # Errors
    ///
    /// pip is missing, or the package cannot be had.
    pub(super) fn install(&self, folder: &Path) -> Result<()> {
        let Self { folder: name, package, version } = self;
        if self.record(folder).is_dir() {
            println!("{package}: {version} is installed");
            return Ok(());
        }
        let target = folder.join(name);
        // The version before, if any: pip does not replace what is in a target folder.
        if target.exists() {
            std::fs::remove_dir_all(&target)
                .with_context(|| format!("cannot remove {}", target.display()))?;
        }
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--target"]).arg(target);
        execute(command.arg(format!("{package}=={version}")).stdin(Stdio::null()))
            .with_context(|| format!("{package} (pip is in package python3-pip)"))
    }

    /// What pip leaves behind when it has installed a wheel (PEP 427: name with underscores).
    fn record(&self, folder: &Path) -> PathBuf {
        let name = self.package.replace('-', "_");
        folder.join(self.folder).join(format!("{name}-{}.dist-info", self.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_where_pip_puts_them() {
        let expected = "p/proxy-protocol/proxy_protocol-0.11.3.dist-info";
        assert_eq!(TEST_WHEELS[0].record(Path::new("p")), Path::new(expected));
    }
}
