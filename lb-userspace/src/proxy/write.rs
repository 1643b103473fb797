// SPDX-License-Identifier: MIT OR Apache-2.0
//! Headers towards servers, of either version.

use std::net::{IpAddr, SocketAddr};

use lb_common::limits::HOST_NAME_MAX;
use ppp::v2::{AddressFamily, Command, PROTOCOL_PREFIX, Protocol, Version};

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
            finish(Some((client, local)), wanted, &Own::new(wanted, content), content.received)
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
        SendProxy::V2(wanted) => finish(None, wanted, &Own::default(), None),
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

/// Makes the bytes, in one allocation of the right size. Without addresses the command is LOCAL.
fn finish(
    addresses: Option<(SocketAddr, SocketAddr)>,
    wanted: ProxyTlvs,
    own: &Own<'_>,
    received: Option<&Received>,
) -> Vec<u8> {
    let has_checksum = wanted.crc32c || received.is_some_and(|received| received.has_checksum);
    let checksum_len = if has_checksum { TLV_HEADER + CRC32C_BYTES } else { 0 };
    let room = BEHIND_MAX - ADDRESSES_MAX - own.len() - checksum_len;
    let relayed = received.map(|received| relay(received, own, room)).unwrap_or_default();
    let mut header = begun(addresses, own.len() + relayed.len() + checksum_len);
    for (kind, value) in own.all() {
        tlv::append(kind, value, &mut header);
    }
    header.extend_from_slice(&relayed);
    if has_checksum {
        tlv::append(kind::CRC32C, &[0; CRC32C_BYTES], &mut header);
        // Over the whole header, its own field being zero (section 2.2.3).
        let checksum = crc32c::crc32c(&header).to_be_bytes();
        let field = header.len() - CRC32C_BYTES;
        header[field..].copy_from_slice(&checksum);
    }
    header
}

/// The header up to the TLVs, of which there will be so many bytes: together with addresses at most [`BEHIND_MAX`].
fn begun(addresses: Option<(SocketAddr, SocketAddr)>, tlvs_len: usize) -> Vec<u8> {
    let (command, family, len) = match addresses {
        None => (Command::Local, AddressFamily::Unspecified | Protocol::Unspecified, 0),
        Some((SocketAddr::V4(_), _)) => {
            (Command::Proxy, AddressFamily::IPv4 | Protocol::Stream, IPV4_ADDRESSES)
        }
        Some((SocketAddr::V6(_), _)) => {
            (Command::Proxy, AddressFamily::IPv6 | Protocol::Stream, ADDRESSES_MAX)
        }
    };
    let mut header = Vec::with_capacity(BEFORE_ADDRESSES + len + tlvs_len);
    header.extend_from_slice(PROTOCOL_PREFIX);
    header.extend_from_slice(&[Version::Two | command, family]);
    header.extend_from_slice(&((len + tlvs_len) as u16).to_be_bytes());
    let ends = addresses.map_or([None, None], |(client, local)| [Some(client), Some(local)]);
    for address in ends.into_iter().flatten() {
        match address.ip() {
            IpAddr::V4(ip) => header.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
        }
    }
    for address in ends.into_iter().flatten() {
        header.extend_from_slice(&address.port().to_be_bytes());
    }
    header
}

/// Bytes of the longest addresses that are written: IPv6.
const ADDRESSES_MAX: usize = 36;

/// Bytes of two IPv4 addresses and ports.
const IPV4_ADDRESSES: usize = 12;

/// Bytes of signature, version and command, family and protocol, length.
const BEFORE_ADDRESSES: usize = 16;

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
