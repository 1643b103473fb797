// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the programs are: lb by environment variable, Debian's on the path, the others where `cargo xtask setup --bench`
//! puts them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};

/// The environment variable that names the binary of lb.
pub const LB_AGENT: &str = "LB_AGENT";

/// The environment variable that names the folder of installed peers.
const PEERS: &str = "LB_BENCH_PEERS";

/// Where they are without it.
const DEFAULT_PEERS: &str = "target/bench/peers";

/// The binary of lb.
///
/// # Errors
/// The variable is not set, or there is no such file.
pub fn agent() -> Result<String> {
    let path =
        std::env::var(LB_AGENT).with_context(|| format!("{LB_AGENT} does not name the binary of lb"))?;
    absolute(Path::new(&path)).with_context(|| format!("{LB_AGENT}={path}"))
}

/// A program of a peer that was installed for the bench, by its path in the folder of peers.
///
/// # Errors
/// It is not installed.
pub fn installed(path: &str) -> Result<String> {
    let folder = std::env::var_os(PEERS).map_or_else(|| PathBuf::from(DEFAULT_PEERS), PathBuf::from);
    let path = folder.join(path);
    absolute(&path).with_context(|| format!("no {} (`cargo xtask setup --bench` brings it)", path.display()))
}

fn absolute(path: &Path) -> Result<String> {
    let path = path.canonicalize()?;
    path.into_os_string().into_string().map_err(|path| anyhow!("{} is not text", path.display()))
}

/// The first line that is not empty of what a program says.
///
/// # Errors
/// It cannot be started, or says nothing.
pub fn first_line(program: &str, argument: &str) -> Result<String> {
    let output =
        Command::new(program).arg(argument).output().with_context(|| format!("cannot start {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    ensure!(!line.is_empty(), "{program} {argument} says nothing");
    Ok(line.to_owned())
}
