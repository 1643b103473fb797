// SPDX-License-Identifier: MIT OR Apache-2.0
//! `packet-ports` and `packet-interfaces`: what path `packet` works with.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::reader::Reader;
use super::source_address::interface_name;

/// `packet-ports` where nothing is said: above those that the kernel chooses from by default (ip_local_port_range, ip-sysctl.rst).
pub(super) const DEFAULT_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// Reads `packet-ports`.
pub(super) fn ports(reader: &Reader<'_, '_>) -> Option<RangeInclusive<u16>> {
    let Some(value) = reader.key("packet-ports") else { return Some(DEFAULT_PORTS) };
    let range = value.string()?.split_once('-').and_then(|(first, last)| {
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port >= 1024);
        Some(port(first)?..=port(last)?)
    });
    match range.filter(|range| !range.is_empty()) {
        Some(range) => Some(range),
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
