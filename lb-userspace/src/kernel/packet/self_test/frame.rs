// SPDX-License-Identifier: MIT OR Apache-2.0
//! The packets of the self-test, written down by their fields, before and after: what they are translated by is nowhere here, and checksums are
//! summed anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The connection is no more (RFC 9293 section 3.1).
pub const RST: u8 = 4;
const ACK: u8 = 0x10;

/// The version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// The header in front of IP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    Bare,
}

/// A segment of TCP with timestamps.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// From whom and to whom.
    pub ends: [SocketAddr; 2],
    pub hops: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    /// TSval and TSecr.
    pub timestamps: [u32; 2],
    pub payload: &'static [u8],
}

impl Link {
    /// Bytes of that header.
    pub const fn len(self) -> usize {
        match self {
            Self::Ethernet => 14,
            Self::Bare => 0,
        }
    }
}

impl Frame {
    /// What the client acknowledges.
    pub fn of_client(family: Family) -> Self {
        Self::new([end(family, 1, 40_000), balancer(family, 443)], 64, [1_000, 2_000], 1_000, [100, 200])
    }

    /// What the server acknowledges.
    pub fn of_server(family: Family) -> Self {
        Self::new([end(family, 2, 8_443), balancer(family, 61_000)], 64, [5_000, 6_000], 1_000, [700, 800])
    }

    /// What the client says, as the server gets it.
    pub fn to_server(family: Family) -> Self {
        Self::new([balancer(family, 61_000), end(family, 2, 8_443)], 63, [6_000, 5_000], 250, [800, 700])
    }

    /// What the server says, as the client gets it.
    pub fn to_client(family: Family) -> Self {
        Self::new([balancer(family, 443), end(family, 1, 40_000)], 63, [2_000, 1_000], 4_000, [200, 100])
    }

    fn new(
        ends: [SocketAddr; 2],
        hops: u8,
        [sequence, acknowledgement]: [u32; 2],
        window: u16,
        timestamps: [u32; 2],
    ) -> Self {
        Self { ends, hops, sequence, acknowledgement, flags: ACK, window, timestamps, payload: b"" }
    }

    /// Its bytes with their checksums.
    ///
    /// Where the link has no header, the kernel takes the first 14 bytes for one all the same (net/bpf/test_run.c, bpf_prog_test_run_skb): two of
    /// the source's address have to be the protocol's number in it.
    pub fn bytes(&self, link: Link) -> Vec<u8> {
        let [from, to] = self.ends;
        let [source, destination] = [from.ip(), to.ip()].map(octets);
        let tcp = self.tcp(&source, &destination);
        let len = u16::try_from(tcp.len()).unwrap_or(u16::MAX);
        let mut bytes = Vec::new();
        if link == Link::Ethernet {
            bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            bytes.extend(if from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        }
        if from.is_ipv4() {
            let [high, low] = (len + 20).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0xab, 0xcd, 0x40, 0, self.hops, 6, 0, 0];
            header.extend([source, destination].concat());
            let checksum = checksum(&header);
            header[10..12].copy_from_slice(&checksum);
            bytes.extend(header);
        } else {
            let [high, low] = len.to_be_bytes();
            bytes.extend([0x60, 0, 0, 0, high, low, 6, self.hops]);
            bytes.extend([source, destination].concat());
        }
        bytes.extend(tcp);
        bytes
    }

    fn tcp(&self, source: &[u8], destination: &[u8]) -> Vec<u8> {
        let [from, to] = self.ends.map(|end| end.port().to_be_bytes());
        let mut tcp = [from, to].concat();
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        // 32 bytes of header, in words.
        tcp.extend([8 << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend([1, 1, 8, 10]);
        tcp.extend(self.timestamps.map(u32::to_be_bytes).concat());
        tcp.extend(self.payload);
        // A pseudo header that is as good as that of either version: its numbers are the same, in another order.
        let [high, low] = u16::try_from(tcp.len()).unwrap_or(u16::MAX).to_be_bytes();
        let checksum = checksum(&[source, destination, &[0, 6, high, low], &tcp].concat());
        tcp[16..18].copy_from_slice(&checksum);
        tcp
    }
}

/// An end, of which there are two.
fn end(family: Family, number: u8, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::new(8, 0, 0, number), port).into(),
        Family::V6 => (Ipv6Addr::new(0x2001, 0xdb8, 0x86dd, 0, 0, 0, 0, number.into()), port).into(),
    }
}

fn balancer(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum of bytes (RFC 1071), in which its own place is empty.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // What is left fits.
    (!(sum as u16)).to_be_bytes()
}
