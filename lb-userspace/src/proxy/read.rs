// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes to a PROXY header of either version.

use std::net::SocketAddr;

use lb_common::reason::ProxyReason;

use super::tlv::{Chain, kind};
use super::{v1, v2};
use crate::config::ProxyVersion;

/// What the first bytes of a connection are, where a header must come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderOutcome {
    /// A whole, valid header, perhaps with other bytes behind it.
    Complete(Received),
    /// The beginning of one; the value is how many bytes it lacks at least, 1 or more.
    NeedMore(usize),
    /// No header, whatever comes.
    Invalid(ProxyReason),
}

/// A header that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes on the wire.
    pub wire_len: usize,
    /// Its version.
    pub version: ProxyVersion,
    /// What it says of the connection; `None`: the socket's own addresses hold (LOCAL, UNKNOWN, UNSPEC, and what is no TCP over IP).
    pub endpoints: Option<Endpoints>,
    /// A [`Chain`] of its TLVs, without NOOP and CRC32C.
    pub(super) tlvs: Box<[u8]>,
    /// It had a checksum, which was right.
    pub(super) has_checksum: bool,
}

/// The two ends of a connection as the first proxy saw them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Who connected.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

impl Received {
    /// A header that says nothing.
    pub(super) fn plain(version: ProxyVersion, wire_len: usize) -> Self {
        Self { wire_len, version, endpoints: None, tlvs: Box::default(), has_checksum: false }
    }

    /// Its TLVs, without NOOP and CRC32C.
    pub fn tlvs(&self) -> Chain<'_> {
        Chain::new(&self.tlvs).unwrap_or_default()
    }

    /// Bytes that it holds besides itself.
    pub fn kept(&self) -> usize {
        self.tlvs.len()
    }

    /// The value of its first PP2_TYPE_UNIQUE_ID that is not empty, at most 128 bytes of any kind.
    pub fn unique_id(&self) -> Option<&[u8]> {
        let mut ids = self.tlvs().iter().filter(|tlv| tlv.kind == kind::UNIQUE_ID && !tlv.value.is_empty());
        ids.next().map(|tlv| tlv.value)
    }
}

/// Looks for a header at the beginning of `bytes`, of at most `max` bytes. What is there decides for good: more bytes behind do not
/// change an outcome other than [`HeaderOutcome::NeedMore`].
pub fn parse(bytes: &[u8], max: usize) -> HeaderOutcome {
    let agrees_with = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if bytes.is_empty() {
        return HeaderOutcome::NeedMore(1);
    }
    let result = if agrees_with(ppp::v2::PROTOCOL_PREFIX) {
        v2::read(bytes, max)
    } else if agrees_with(ppp::v1::PROTOCOL_PREFIX.as_bytes()) {
        v1::read(bytes)
    } else {
        Err(ProxyReason::Missing)
    };
    result.unwrap_or_else(HeaderOutcome::Invalid)
}
