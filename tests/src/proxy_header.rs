// SPDX-License-Identifier: MIT OR Apache-2.0
//! A strict reader of PROXY protocol version 2 headers, written from HAProxy's doc/proxy-protocol.txt (section 2.2) alone, so
//! that it shares no mistake with the writer under test.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

/// The 12 bytes that begin each header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The TLV with the name that the client asked for.
pub const AUTHORITY: u8 = 0x02;

/// The TLV with the protocol on top of the connection.
pub const ALPN: u8 = 0x01;

/// The TLV that is padding.
pub const NOOP: u8 = 0x04;

/// The TLV that identifies the connection.
pub const UNIQUE_ID: u8 = 0x05;

/// The TLV with the checksum of the whole header.
pub const CRC32C: u8 = 0x03;

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// LOCAL (0) or PROXY (1).
    pub command: u8,
    /// Who connected to the balancer, and the address that it connected to; `None` for AF_UNSPEC.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Type and value of each TLV.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

impl Header {
    /// The value of a TLV.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|(other, _)| *other == kind).map(|(_, value)| &value[..])
    }

    /// The client's address.
    ///
    /// # Panics
    /// If the header has none.
    #[track_caller]
    pub fn source(&self) -> SocketAddr {
        self.addresses.expect("a header with addresses").0
    }
}

/// The bytes of a PROXY header over IPv4 with nothing but a CRC32C, which is wrong by `error`.
pub fn with_checksum(source: SocketAddrV4, destination: SocketAddrV4, error: u32) -> Vec<u8> {
    let mut bytes = [&SIGNATURE[..], &[0x21, 0x11, 0, 12 + 7]].concat();
    bytes.extend(source.ip().octets());
    bytes.extend(destination.ip().octets());
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend([CRC32C, 0, 4, 0, 0, 0, 0]);
    let sum = checksum_with_hole(&bytes) ^ error;
    let hole = bytes.len() - 4;
    bytes[hole..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The bytes of a header over TCP with these TLVs. A TLV of type [`CRC32C`] gets the right value, whatever it has.
pub fn write(source: SocketAddr, destination: SocketAddr, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let mut bytes = [&SIGNATURE[..], &[0x21, family, 0, 0]].concat();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    let mut hole = None;
    for (kind, value) in tlvs {
        bytes.push(*kind);
        bytes.extend(u16::try_from(value.len()).expect("a TLV").to_be_bytes());
        if *kind == CRC32C {
            hole = Some(bytes.len());
        }
        bytes.extend(*value);
    }
    let length = u16::try_from(bytes.len() - 16).expect("a header").to_be_bytes();
    bytes[14..16].copy_from_slice(&length);
    if let Some(hole) = hole {
        let sum = checksum_with_hole(&bytes);
        bytes[hole..hole + 4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Reads one header and not a byte more.
///
/// # Panics
/// If it breaks the specification in any way, a wrong CRC32C included.
#[track_caller]
pub fn read(mut stream: impl Read) -> Header {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).expect("a PROXY header");
    assert_eq!(&bytes[..12], SIGNATURE, "the signature");
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    bytes.resize(16 + length, 0);
    stream.read_exact(&mut bytes[16..]).expect("as many bytes as the header says");
    parse(&bytes)
}

/// Reads a whole header.
#[track_caller]
fn parse(bytes: &[u8]) -> Header {
    assert_eq!(bytes[12] >> 4, 2, "the version");
    let command = bytes[12] & 0xf;
    assert!(command <= 1, "command {command}");
    let (addresses, tlvs) = match bytes[13] {
        0x00 => (None, &bytes[16..]),
        0x11 => (Some(pair(&bytes[16..28], 4)), &bytes[28..]),
        0x21 => (Some(pair(&bytes[16..52], 16)), &bytes[52..]),
        other => panic!("family and protocol {other:#04x}"),
    };
    let header = Header { command, addresses, tlvs: split(tlvs) };
    if let Some(sum) = header.tlv(CRC32C) {
        assert_eq!(sum, checksum_with_hole(bytes).to_be_bytes(), "the CRC32C of {bytes:02x?}");
    }
    header
}

/// Source and destination: both addresses, then both ports.
fn pair(bytes: &[u8], width: usize) -> (SocketAddr, SocketAddr) {
    let (source, rest) = bytes.split_at(width);
    let (destination, ports) = rest.split_at(width);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    (SocketAddr::new(address(source), port(0)), SocketAddr::new(address(destination), port(2)))
}

fn address(bytes: &[u8]) -> IpAddr {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(octets).into();
    }
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("4 or 16 bytes")).into()
}

fn split(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut tlvs = Vec::new();
    while !bytes.is_empty() {
        assert!(bytes.len() >= 3, "{} bytes are left behind the last TLV", bytes.len());
        let length = usize::from(u16::from_be_bytes([bytes[1], bytes[2]]));
        assert!(bytes.len() >= 3 + length, "a TLV of {length} bytes does not fit");
        tlvs.push((bytes[0], bytes[3..3 + length].to_vec()));
        bytes = &bytes[3 + length..];
    }
    tlvs
}

/// The CRC32C of a header with the value of its CRC32C TLV taken as zero, as the specification says.
fn checksum_with_hole(bytes: &[u8]) -> u32 {
    let mut bytes = bytes.to_vec();
    let mut at = if bytes[13] == 0x11 {
        28
    } else if bytes[13] == 0x21 {
        52
    } else {
        16
    };
    while at < bytes.len() {
        let length = usize::from(u16::from_be_bytes([bytes[at + 1], bytes[at + 2]]));
        if bytes[at] == CRC32C {
            bytes[at + 3..at + 3 + length].fill(0);
        }
        at += 3 + length;
    }
    crc32c(&bytes)
}

/// RFC 9260 appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_check_string() {
        // The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
