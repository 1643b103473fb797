// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end-to-end tests on links that lose packets, which not every kernel can make.

use std::process::{Command, Stdio};

use crate::repository::has_program;

/// What their names begin with.
pub const PREFIX: &str = "lossy_links::";

/// Tries whether this kernel can spoil a link (tc-netem(8)).
///
/// # Errors
/// Why not.
pub fn are_possible() -> Result<(), String> {
    if !has_program("tc") || !has_program("unshare") {
        return Err("tc and unshare are missing: `cargo xtask setup`".to_owned());
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "loss", "1%"]);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("this kernel has no netem (CONFIG_NET_SCH_NETEM): `cargo xtask vm lossy_links`".to_owned()),
    }
}
