// SPDX-License-Identifier: MIT OR Apache-2.0
//! Version 2: binary (section 2.2), reading.

use std::net::SocketAddr;

use lb_common::reason::ProxyReason;
use ppp::v2::{AddressFamily, Addresses, Header, Protocol};

use super::read::{Endpoints, HeaderOutcome, Received};
use super::tlv::{self, Chain, kind};
use crate::config::ProxyVersion;

/// Bytes before the addresses: signature, version and command, family and protocol, length.
const FIXED: usize = 16;

/// Reads a header of at most `max` bytes; `bytes` begin with the signature, as far as they go.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(bytes: &[u8], max: usize) -> Result<HeaderOutcome, ProxyReason> {
    if bytes.get(12).is_some_and(|byte| byte >> 4 != 2) {
        return Err(ProxyReason::UnsupportedVersion);
    }
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(HeaderOutcome::NeedMore(FIXED - bytes.len()));
    };
    let command = fixed[12] & 0xf;
    if command > 1 {
        return Err(ProxyReason::Malformed);
    }
    let wire_len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if wire_len > max {
        return Err(ProxyReason::TooLarge);
    }
    let Some(header) = bytes.get(..wire_len) else {
        return Ok(HeaderOutcome::NeedMore(wire_len - bytes.len()));
    };
    // LOCAL "must be accepted", and all that follows is discarded unread, family included; ppp looks at it and refuses some.
    let received = match command {
        0 => Received::plain(ProxyVersion::V2, wire_len),
        _ => proxied(header)?,
    };
    Ok(HeaderOutcome::Complete(received))
}

/// Reads a whole header with the command PROXY.
fn proxied(header: &[u8]) -> Result<Received, ProxyReason> {
    let parsed = Header::try_from(header).map_err(|_| ProxyReason::Malformed)?;
    let family = parsed.address_family();
    let is_specified = family != AddressFamily::Unspecified && parsed.protocol != Protocol::Unspecified;
    // ppp takes all that follows an unspecified family for addresses; HAProxy, and we, put TLVs there.
    let behind = FIXED + family.byte_length().unwrap_or(0);
    let chain = match Chain::new(&header[behind..]) {
        Some(chain) => chain,
        None if is_specified => return Err(ProxyReason::Malformed),
        // Addresses of an unknown kind may stand there, which are to be ignored.
        None => Chain::default(),
    };
    let has_checksum = check_sum(header, behind, chain)?;
    if !chain.iter().all(|tlv| tlv.is_sound()) {
        return Err(ProxyReason::Malformed);
    }
    let mut tlvs = Vec::new();
    for tlv in chain.iter().filter(|tlv| !matches!(tlv.kind, kind::NOOP | kind::CRC32C)) {
        tlv::append(tlv.kind, tlv.value, &mut tlvs);
    }
    Ok(Received {
        wire_len: header.len(),
        version: ProxyVersion::V2,
        endpoints: endpoints(&parsed),
        tlvs: tlvs.into(),
        has_checksum,
    })
}

/// What the header says of the connection, if that is TCP over IP. For other combinations a receiver "falls back to the UNSPEC mode".
fn endpoints(parsed: &Header<'_>) -> Option<Endpoints> {
    if parsed.protocol != Protocol::Stream {
        return None;
    }
    match parsed.addresses {
        Addresses::IPv4(ip) => Some(Endpoints {
            client: SocketAddr::from((ip.source_address, ip.source_port)),
            local: SocketAddr::from((ip.destination_address, ip.destination_port)),
        }),
        Addresses::IPv6(ip) => Some(Endpoints {
            client: SocketAddr::from((ip.source_address, ip.source_port)),
            local: SocketAddr::from((ip.destination_address, ip.destination_port)),
        }),
        Addresses::Unspecified | Addresses::Unix(_) => None,
    }
}

/// Whether the header has a checksum; an error if that is wrong (section 2.2.3), or if there are two, each of which the other makes
/// wrong.
fn check_sum(header: &[u8], chain_at: usize, chain: Chain<'_>) -> Result<bool, ProxyReason> {
    let mut sums = chain.iter().filter(|tlv| tlv.kind == kind::CRC32C);
    let Some(tlv) = sums.next() else { return Ok(false) };
    let Ok(said) = <[u8; tlv::CRC32C_BYTES]>::try_from(tlv.value) else {
        return Err(ProxyReason::Malformed);
    };
    if sums.next().is_some() {
        return Err(ProxyReason::Malformed);
    }
    let field = chain_at + tlv.at;
    let sum = crc32c::crc32c(&header[..field]);
    let sum = crc32c::crc32c_append(sum, &[0; tlv::CRC32C_BYTES]);
    let sum = crc32c::crc32c_append(sum, &header[field + tlv::CRC32C_BYTES..]);
    if sum == u32::from_be_bytes(said) { Ok(true) } else { Err(ProxyReason::Checksum) }
}
