// SPDX-License-Identifier: MIT OR Apache-2.0
//! `[resolver]`, and the keys of a server that concern names.

use std::net::SocketAddr;

use super::address::{self, Named, Purpose};
use super::names::parse_host;
use super::reader::Reader;
use super::value::Value;
use super::{Address, Family, Lookup, Resolver, limits};

/// The values of `family`.
pub(super) const FAMILIES: [(&str, Family); 3] =
    [("any", Family::Any), ("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];

/// Reads `[resolver]`.
pub(super) fn read(reader: Reader<'_, '_>) -> Option<Resolver> {
    let servers = reader.own("servers").map_or(Some(Vec::new()), |value| servers(&value));
    let timeout = reader.duration(&limits::RESOLVER_TIMEOUT);
    let attempts = reader.nonzero(&limits::RESOLVER_ATTEMPTS);
    let ttl_min = reader.duration(&limits::TTL_MIN);
    let ttl_max = reader.duration(&limits::TTL_MAX);
    let hold_nx = reader.duration(&limits::HOLD_NX);
    if let (Some(least), Some(most)) = (ttl_min, ttl_max)
        && least > most
        && let Some(value) = reader.own(limits::TTL_MIN.key).or_else(|| reader.own(limits::TTL_MAX.key))
    {
        let (least, most) = (limits::TTL_MIN.key, limits::TTL_MAX.key);
        value.error_with_others(format!("{least} must not be above {most}"));
        return None;
    }
    reader.finish();
    Some(Resolver {
        servers: servers?,
        timeout: timeout?,
        attempts: attempts?,
        ttl_min: ttl_min?,
        ttl_max: ttl_max?,
        hold_nx: hold_nx?,
    })
}

fn servers(value: &Value<'_, '_>) -> Option<Vec<SocketAddr>> {
    let entries = value.list();
    if entries.len() > limits::RESOLVER_SERVERS_MAX {
        value.error_without_text(format!("at most {} servers", limits::RESOLVER_SERVERS_MAX));
        return None;
    }
    let server = |value: &Value<'_, '_>| {
        address::parse(value.string()?, Purpose::Connect).map_err(|text| value.error(text)).ok()
    };
    let servers: Vec<_> = entries.iter().map(server).collect();
    servers.into_iter().collect::<Option<Vec<_>>>().filter(|servers| !servers.is_empty())
}

/// Reads `address` or `srv` of a server, with the keys that are for names alone.
pub(super) fn server_address(reader: &Reader<'_, '_>) -> Option<Address> {
    let lookup = lookup(reader);
    let (address, service) = (reader.own("address"), reader.own("srv"));
    match (address, service) {
        (Some(_), Some(service)) => {
            service.error_with_others("stands beside address: a server has one or the other");
            None
        }
        (None, Some(service)) => {
            Some(Address::Service { name: service_name(&service)?.into(), lookup: lookup? })
        }
        (address, None) => {
            let address = reader.required(address, "address", "address = \"10.0.0.1:443\"")?;
            match address::parse_named(address.string()?).map_err(|text| address.error(text)).ok()? {
                Named::Ip(ip) => {
                    forbid_name_keys(reader);
                    Some(Address::Ip(ip))
                }
                Named::Host(name, port) => Some(Address::Host { name: name.into(), port, lookup: lookup? }),
            }
        }
    }
}

fn lookup(reader: &Reader<'_, '_>) -> Option<Lookup> {
    let family = reader.key("family").map_or(Some(Family::Any), |value| value.one_of(&FAMILIES));
    let max_addresses = reader.count(&limits::MAX_ADDRESSES);
    Some(Lookup { family: family?, max_addresses: u32::try_from(max_addresses?).ok()? })
}

fn service_name(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    if text.contains(':') {
        value.error("takes no port: the SRV records say it; write the name alone, such as \"_https._tcp.web.internal\"");
        return None;
    }
    parse_host(text).map_err(|text| value.error(text)).ok()
}

/// An address that is fixed has nothing to look up.
fn forbid_name_keys(reader: &Reader<'_, '_>) {
    for key in ["family", limits::MAX_ADDRESSES.key] {
        if let Some(value) = reader.own(key) {
            value.error_with_others("is for names: the address of this server is fixed");
        }
    }
}
