// SPDX-License-Identifier: MIT OR Apache-2.0
//! Headers towards servers, of either version.

use std::io;
use std::net::{IpAddr, SocketAddr};

use lb_common::limits::HOST_NAME_MAX;
use ppp::v2::{AddressFamily, Builder, Command, Protocol, Version};

use super::read::Received;
use super::tlv::{self, CRC32C_BYTES, TLV_HEADER, Tlv, UNIQUE_ID_MAX, kind};
use super::v1;
use crate::config::{ProxyTlvs, SendProxy};
use crate::net;

/// Most bytes behind the 16 that begin a version 2 header: what its length can say.
const BEHIND_MAX: usize = 65_535;

/// What there is to say of a relayed connection. The settings choose.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Who connected.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// The peeked name.
    pub authority: Option<&'a str>,
    /// The protocol that the client offers first.
    pub alpn: Option<&'a [u8]>,
    /// What identifies the connection.
    pub unique_id: Option<&'a [u8]>,
    /// The header that came with the connection.
    pub received: Option<&'a Received>,
}

impl Content<'_> {
    /// Two addresses, and nothing else.
    pub fn of(client: SocketAddr, local: SocketAddr) -> Self {
        Self { client, local, authority: None, alpn: None, unique_id: None, received: None }
    }
}

/// The header for a relayed connection.
///
/// Two IPv4-mapped IPv6 addresses, as a dual-stack socket gives them, are written as IPv4; if only one of the two is IPv4, it is
/// written as an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as a header has one family.
///
/// In version 2, TLVs of the received header follow, whatever they are, without those that the connection has better ones for, and
/// without NOOP; a checksum is made anew. Where all of that is more than a header can be, the received ones that do not fit are left
/// out. A value that its type does not allow (a name that is not 1 to 253 bytes long, an identity of more than 128) is left out, too.
pub fn header(settings: SendProxy, content: &Content<'_>) -> Vec<u8> {
    let (client, local) = one_family(content.client, content.local);
    match settings {
        SendProxy::V1 => v1::line(client, local),
        SendProxy::V2(wanted) => {
            let builder =
                Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, (client, local));
            finish(builder, wanted, &Own::new(wanted, content), content.received)
        }
    }
}

/// The header of a connection that the balancer makes for itself, such as a health check.
///
/// Version 1: a line with the two ends of that connection, because some receivers refuse UNKNOWN (section 2.1). Version 2: the command
/// LOCAL with UNSPEC for family and protocol, and no addresses, which a receiver must not look at (section 2.2). A checksum is all that
/// settings can add.
pub fn local_header(settings: SendProxy, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    match settings {
        SendProxy::V1 => header(settings, &Content::of(from, to)),
        SendProxy::V2(wanted) => {
            let builder = Builder::new(
                Version::Two | Command::Local,
                AddressFamily::Unspecified | Protocol::Unspecified,
            );
            finish(builder, wanted, &Own::default(), None)
        }
    }
}

/// Both addresses in one family.
fn one_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (client, local) = (net::canonical(client), net::canonical(local));
    if client.is_ipv4() == local.is_ipv4() { (client, local) } else { (mapped(client), mapped(local)) }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

/// The TLVs that the connection itself is the source of.
#[derive(Default)]
struct Own<'a> {
    alpn: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    unique_id: Option<&'a [u8]>,
}

impl<'a> Own<'a> {
    fn new(wanted: ProxyTlvs, content: &Content<'a>) -> Self {
        let name = content.authority.filter(|name| (1..=HOST_NAME_MAX).contains(&name.len()));
        let unique_id = content.unique_id.filter(|id| (1..=UNIQUE_ID_MAX).contains(&id.len()));
        Self {
            alpn: content.alpn.filter(|name| wanted.alpn && (1..=255).contains(&name.len())),
            authority: name.filter(|_| wanted.authority).map(str::as_bytes),
            unique_id: unique_id.filter(|_| wanted.unique_id),
        }
    }

    fn all(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let Self { alpn, authority, unique_id } = *self;
        [(kind::ALPN, alpn), (kind::AUTHORITY, authority), (kind::UNIQUE_ID, unique_id)]
            .into_iter()
            .filter_map(|(kind, value)| Some((kind, value?)))
    }

    fn len(&self) -> usize {
        self.all().map(|(_, value)| TLV_HEADER + value.len()).sum()
    }

    /// Whether a received TLV gives way.
    fn replaces(&self, received: &Tlv<'_>) -> bool {
        self.all().any(|(kind, _)| kind == received.kind)
    }
}

/// Adds the TLVs and makes the bytes.
fn finish(builder: Builder, wanted: ProxyTlvs, own: &Own<'_>, received: Option<&Received>) -> Vec<u8> {
    let has_checksum = wanted.crc32c || received.is_some_and(|received| received.has_checksum);
    let checksum_len = if has_checksum { TLV_HEADER + CRC32C_BYTES } else { 0 };
    let room = BEHIND_MAX - ADDRESSES_MAX - own.len() - checksum_len;
    let relayed = received.map(|received| relay(received, own, room)).unwrap_or_default();
    let added = own.len() + relayed.len() + checksum_len;
    let header = write(builder.reserve_capacity(added), own, &relayed, has_checksum);
    header.expect("ppp fails above 64 KiB only, and the room was counted")
}

/// Bytes of the longest addresses that are written: IPv6.
const ADDRESSES_MAX: usize = 36;

/// The received TLVs that go on, at most `room` bytes of them.
fn relay(received: &Received, own: &Own<'_>, room: usize) -> Vec<u8> {
    let mut relayed = Vec::new();
    for tlv in received.tlvs().iter().filter(|tlv| !own.replaces(tlv)) {
        if relayed.len() + tlv.len() <= room {
            tlv::append(tlv.kind, tlv.value, &mut relayed);
        }
    }
    relayed
}

/// In one allocation of the right size.
fn write(mut builder: Builder, own: &Own<'_>, relayed: &[u8], has_checksum: bool) -> io::Result<Vec<u8>> {
    for (kind, value) in own.all() {
        builder = builder.write_tlv(kind, value)?;
    }
    if !relayed.is_empty() {
        builder = builder.write_payload(relayed)?;
    }
    if !has_checksum {
        return builder.build();
    }
    let mut header = builder.write_tlv(kind::CRC32C, &[0; CRC32C_BYTES])?.build()?;
    // Over the whole header, its own field being zero (section 2.2.3).
    let checksum = crc32c::crc32c(&header).to_be_bytes();
    let field = header.len() - CRC32C_BYTES;
    header[field..].copy_from_slice(&checksum);
    Ok(header)
}
