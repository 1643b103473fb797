// SPDX-License-Identifier: MIT OR Apache-2.0
//! What concerns the PROXY protocol.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// A version of the PROXY protocol (HAProxy's doc/proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// `v1`: a line of text.
    V1,
    /// `v2`: binary, with room for more than addresses.
    V2,
}

/// `send-proxy`: the header in front of the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// `v1`
    V1,
    /// `v2`, with what `send-proxy-…` add to the addresses.
    V2(ProxyTlvs),
}

impl SendProxy {
    /// Without anything but addresses.
    pub fn plain(version: ProxyVersion) -> Self {
        match version {
            ProxyVersion::V1 => Self::V1,
            ProxyVersion::V2 => Self::V2(ProxyTlvs::default()),
        }
    }

    /// Its version.
    pub fn version(self) -> ProxyVersion {
        match self {
            Self::V1 => ProxyVersion::V1,
            Self::V2(_) => ProxyVersion::V2,
        }
    }

    /// What it adds to the addresses.
    pub fn tlvs(self) -> ProxyTlvs {
        match self {
            Self::V1 => ProxyTlvs::default(),
            Self::V2(tlvs) => tlvs,
        }
    }
}

/// What a version 2 header says besides addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyTlvs {
    /// `send-proxy-authority`: adds PP2_TYPE_AUTHORITY with the peeked name.
    pub authority: bool,
    /// `send-proxy-crc32c`: adds PP2_TYPE_CRC32C.
    pub crc32c: bool,
    /// `send-proxy-alpn`: adds PP2_TYPE_ALPN with the protocol that the client offers first.
    pub alpn: bool,
    /// `send-proxy-unique-id`: adds PP2_TYPE_UNIQUE_ID.
    pub unique_id: bool,
}

/// `accept-proxy-from` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptProxy {
    /// `accept-proxy-from`: connections from these networks begin with a PROXY header, without exception; at least one.
    pub from: Vec<IpNet>,
    /// `proxy-header-timeout`: from accept to the end of the header.
    pub timeout: Duration,
    /// `proxy-header-max`: bytes of a header; at most 16 + 65,535.
    pub header_max: usize,
}

impl AcceptProxy {
    /// Whether connections from an address begin with a header.
    pub fn is_from(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.from.iter().any(|network| network.contains(&address))
    }
}
