// SPDX-License-Identifier: MIT OR Apache-2.0
//! `packet-ports`, `packet-interfaces` and `packet-state`: what path `packet` works with.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use super::reader::Reader;
use super::source_address::interface_name;

/// `packet-state` where nothing is said: below where systemd mounts a BPF file system.
pub const PACKET_STATE: &str = "/sys/fs/bpf/lb";

/// Reads `packet-ports`; `None` inside if nothing is said.
pub(super) fn ports(reader: &Reader<'_, '_>) -> Option<Option<RangeInclusive<u16>>> {
    let Some(value) = reader.key("packet-ports") else { return Some(None) };
    let range = value.string()?.split_once('-').and_then(|(first, last)| {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port >= 1024);
        Some(port(first)?..=port(last)?)
    });
    match range.filter(|range| !range.is_empty()) {
        Some(range) => Some(Some(range)),
        None => {
            value.error(
                "must be the first and the last of a range of ports from 1024 on, such as \"61000-65535\"",
            );
            None
        }
    }
}

/// Reads `packet-interfaces`.
pub(super) fn interfaces(reader: &Reader<'_, '_>) -> Option<Vec<Arc<str>>> {
    let Some(value) = reader.key("packet-interfaces") else { return Some(Vec::new()) };
    let names: Vec<_> = value.list().iter().map(interface_name).collect();
    let names: Vec<Arc<str>> = names.into_iter().collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

/// Reads `packet-state`; `None` inside for "off".
pub(super) fn state(reader: &Reader<'_, '_>) -> Option<Option<PathBuf>> {
    let Some(value) = reader.key("packet-state") else { return Some(Some(PACKET_STATE.into())) };
    match value.string()? {
        "off" => Some(None),
        path if path.starts_with('/') && path.len() > 1 => Some(Some(path.into())),
        _ => {
            value.error("must be \"off\" or a directory in a BPF file system, such as \"/sys/fs/bpf/lb\"");
            None
        }
    }
}
