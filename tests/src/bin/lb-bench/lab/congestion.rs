// SPDX-License-Identifier: MIT OR Apache-2.0
//! The congestion controls that namespaces may use: only those that the host allows to everybody (tcp(7),
//! tcp_allowed_congestion_control), which is a setting of the host.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::interrupt::at_exit;

/// Where the kernel keeps them.
const FOLDER: &str = "/proc/sys/net/ipv4";

/// Allows one, unless it is allowed; the host's setting comes back at the end.
///
/// # Errors
/// The kernel does not have it.
pub fn allow(congestion_control: &str) -> Result<()> {
    let available = fs::read_to_string(format!("{FOLDER}/tcp_available_congestion_control"))?;
    ensure!(
        available.split_whitespace().any(|name| name == congestion_control),
        "this kernel has no congestion control {congestion_control} (it has {}); perhaps `modprobe tcp_{congestion_control}`",
        available.trim()
    );
    let path = format!("{FOLDER}/tcp_allowed_congestion_control");
    let before = fs::read_to_string(&path)?;
    let Some(more) = with(&before, congestion_control) else { return Ok(()) };
    fs::write(&path, more).with_context(|| format!("cannot write {path}"))?;
    // Whoever ends in haste has nobody to report a failure to.
    at_exit(move || drop(fs::write(&path, before.trim())));
    Ok(())
}

/// The list with one more; `None` if it is there already.
fn with(allowed: &str, congestion_control: &str) -> Option<String> {
    let is_there = allowed.split_whitespace().any(|name| name == congestion_control);
    (!is_there).then(|| format!("{} {congestion_control}", allowed.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_allowed_besides() {
        assert_eq!(with("reno cubic\n", "bbr").as_deref(), Some("reno cubic bbr"));
        assert_eq!(with("reno bbr\n", "bbr"), None);
        assert_eq!(with("reno bbr2\n", "bbr").as_deref(), Some("reno bbr2 bbr"));
    }
}
