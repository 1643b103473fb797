// SPDX-License-Identifier: MIT OR Apache-2.0
//! `source` and `source-interface`: where connections to servers come from.

use std::net::IpAddr;
use std::sync::Arc;

use super::reader::Reader;
use super::value::Value;

/// Longest name of an interface, in bytes (IFNAMSIZ, include/uapi/linux/if.h, counts a NUL too).
const INTERFACE_NAME_MAX: usize = 15;

/// Reads `source`.
pub(super) fn addresses(reader: &Reader<'_, '_>) -> Option<Vec<IpAddr>> {
    let Some(value) = reader.key("source") else { return Some(Vec::new()) };
    let mut addresses = Vec::new();
    let mut are_valid = true;
    for entry in value.list() {
        match address(&entry, &addresses) {
            Some(address) => addresses.push(address),
            None => are_valid = false,
        }
    }
    (are_valid && !addresses.is_empty()).then_some(addresses)
}

fn address(value: &Value<'_, '_>, others: &[IpAddr]) -> Option<IpAddr> {
    let Ok(address) = value.string()?.parse::<IpAddr>() else {
        value.error(
            "must be an IP address of this host without a port, such as \"10.0.0.250\" or \"fd00::1\"",
        );
        return None;
    };
    let problem = if address.is_unspecified() {
        "stands for every address of this host: leave the key out to let the route decide"
    } else if address.is_multicast() {
        "is a multicast address; TCP needs a unicast one"
    } else if address.to_canonical() != address {
        "is an IPv4 address in IPv6 clothes: write it as IPv4"
    } else if others.contains(&address) {
        "stands here twice"
    } else {
        return Some(address);
    };
    value.error(problem);
    None
}

/// Reads `source-interface`.
pub(super) fn interface(reader: &Reader<'_, '_>) -> Option<Option<Arc<str>>> {
    let Some(value) = reader.key("source-interface") else { return Some(None) };
    interface_name(&value).map(Some)
}

/// An interface's name.
pub(super) fn interface_name(value: &Value<'_, '_>) -> Option<Arc<str>> {
    let name = value.string()?;
    // dev_valid_name, net/core/dev.c.
    let is_valid = (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
    if !is_valid {
        value.error(format!(
            "must be an interface's name, 1 to {INTERFACE_NAME_MAX} bytes without spaces, \"/\" and \":\""
        ));
        return None;
    }
    Some(name.into())
}
