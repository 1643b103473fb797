// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys of the PROXY protocol: whose headers a frontend reads, and which a backend sends.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::reader::Reader;
use super::value::Value;
use super::{AcceptProxy, ProxyTlvs, ProxyVersion, SendProxy, limits};

/// The values of `send-proxy`.
pub(super) const SEND_PROXY: [(&str, Option<ProxyVersion>); 3] =
    [("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2)), ("off", None)];

/// Reads `send-proxy` of a backend and what can be added to it.
pub(super) fn send(reader: &Reader<'_, '_>) -> Option<Option<SendProxy>> {
    let version = reader.key("send-proxy").map_or(Some(None), |value| value.one_of(&SEND_PROXY));
    let option = |key: &'static str, default: bool| {
        if let Some(value) = reader.own(key)
            && let Some(text) = nothing_to_add_to(version)
        {
            value.error_with_others(text);
        }
        reader.boolean(key, default)
    };
    let authority = option("send-proxy-authority", true);
    let crc32c = option("send-proxy-crc32c", false);
    let alpn = option("send-proxy-alpn", false);
    let unique_id = option("send-proxy-unique-id", false);
    let tlvs = ProxyTlvs { authority: authority?, crc32c: crc32c?, alpn: alpn?, unique_id: unique_id? };
    Some(version?.map(|version| match version {
        ProxyVersion::V1 => SendProxy::V1,
        ProxyVersion::V2 => SendProxy::V2(tlvs),
    }))
}

/// Why a header cannot be added to, if it cannot. A version that could not be read is no reason: that has its own message.
fn nothing_to_add_to(version: Option<Option<ProxyVersion>>) -> Option<&'static str> {
    match version? {
        None => Some("needs send-proxy = \"v2\" beside it: without a header there is nothing to add to"),
        Some(ProxyVersion::V1) => {
            Some("needs send-proxy = \"v2\": v1 has no TLVs, its line has room for addresses alone")
        }
        Some(ProxyVersion::V2) => None,
    }
}

/// Reads `accept-proxy-from` of a frontend and what belongs to it; `None` inside if nobody is listed.
pub(super) fn accept(reader: &Reader<'_, '_>) -> Option<Option<AcceptProxy>> {
    let from = reader.key("accept-proxy-from");
    let from = from.filter(|value| value.get().as_array().is_none_or(|entries| !entries.is_empty()));
    if from.is_none() {
        for key in [limits::PROXY_HEADER_TIMEOUT.key, limits::PROXY_HEADER_MAX.key] {
            if let Some(value) = reader.own(key) {
                value.error_with_others(
                    "needs accept-proxy-from beside it: without it nobody's PROXY header is read",
                );
            }
        }
    }
    let from = from.map(|value| networks(&value));
    let timeout = reader.duration(&limits::PROXY_HEADER_TIMEOUT);
    let header_max = reader.size(&limits::PROXY_HEADER_MAX);
    let (timeout, header_max) = (timeout?, usize::try_from(header_max?).ok()?);
    match from {
        None => Some(None),
        Some(from) => Some(Some(AcceptProxy { from: from?, timeout, header_max })),
    }
}

fn networks(value: &Value<'_, '_>) -> Option<Vec<IpNet>> {
    let networks: Vec<_> = value.list().iter().map(network).collect();
    networks.into_iter().collect()
}

/// Reads an address or a network.
fn network(value: &Value<'_, '_>) -> Option<IpNet> {
    let text = value.string()?;
    let Some(network) = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) else {
        value.error(
            "must be an address or a network, such as \"10.0.0.1\", \"10.0.0.0/8\" or \"2001:db8::/32\"",
        );
        return None;
    };
    if let Some(v4) = mapped(network) {
        value.error(format!("is an IPv4 network in IPv6 clothes: write \"{}\"", shown(v4)));
        return None;
    }
    if network.trunc() != network {
        value.error(format!(
            "has bits behind its prefix: write \"{}\", or \"{}\" for the one address",
            network.trunc(),
            network.addr()
        ));
        return None;
    }
    if network.prefix_len() == 0 {
        value.warn("is everybody: then any client can claim any address");
    }
    Some(network)
}

/// The IPv4 network that an IPv4-mapped one stands for (RFC 4291 section 2.5.5.2). Addresses of clients are compared as IPv4.
fn mapped(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = network else { return None };
    let ip = v6.addr().to_ipv4_mapped()?;
    Ipv4Net::new(ip, v6.prefix_len().checked_sub(96)?).ok().map(IpNet::from)
}

/// A network as people write it: one address without its prefix.
pub(super) fn shown(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        return network.addr().to_string();
    }
    network.to_string()
}
