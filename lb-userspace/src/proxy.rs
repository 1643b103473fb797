// SPDX-License-Identifier: MIT OR Apache-2.0
//! PROXY protocol headers towards servers (HAProxy's doc/proxy-protocol.txt, version 2). Pure.

use std::io;
use std::net::{IpAddr, SocketAddr};

use lb_common::limits::HOST_NAME_MAX;
use ppp::v2::{AddressFamily, Addresses, Builder, Command, Protocol, Type, Version};

use crate::config::SendProxy;

/// Bytes of a TLV before its value: type, length (section 2.2).
const TLV_HEADER: usize = 3;
/// Bytes of the value of PP2_TYPE_CRC32C (section 2.2.3).
const CRC32C_BYTES: usize = 4;

/// The header for a relayed connection: `client` connected to `local`.
///
/// Two IPv4-mapped IPv6 addresses, as a dual-stack socket gives them, are written as IPv4; if only one of the two is IPv4, it is
/// written as an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), as a header has one family. `authority` is the peeked name;
/// it goes in if the settings ask for it and it is a host name's length, 1 to 253 bytes.
pub fn header(
    settings: SendProxy,
    client: SocketAddr,
    local: SocketAddr,
    authority: Option<&str>,
) -> Vec<u8> {
    let authority = authority.filter(|name| settings.authority && (1..=HOST_NAME_MAX).contains(&name.len()));
    let builder =
        Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, one_family(client, local));
    finish(builder, settings, authority)
}

/// The header of a connection that the balancer makes for itself, such as a health check (command LOCAL).
///
/// It says UNSPEC for family and protocol and carries no addresses, which a receiver must not look at (section 2.2).
pub fn local_header(settings: SendProxy) -> Vec<u8> {
    let builder =
        Builder::new(Version::Two | Command::Local, AddressFamily::Unspecified | Protocol::Unspecified);
    finish(builder, settings, None)
}

/// Both addresses as ppp wants them: of the same family.
fn one_family(client: SocketAddr, local: SocketAddr) -> Addresses {
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local).into();
    }
    (mapped(client), mapped(local)).into()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

/// Adds the TLVs and makes the bytes, in one allocation.
fn finish(builder: Builder, settings: SendProxy, authority: Option<&str>) -> Vec<u8> {
    write(builder, settings, authority).expect("ppp fails above 64 KiB only, a name is at most 253 bytes")
}

fn write(builder: Builder, settings: SendProxy, authority: Option<&str>) -> io::Result<Vec<u8>> {
    let authority_len = authority.map_or(0, |name| TLV_HEADER + name.len());
    let crc32c_len = if settings.crc32c { TLV_HEADER + CRC32C_BYTES } else { 0 };
    let mut builder = builder.reserve_capacity(authority_len + crc32c_len);
    if let Some(name) = authority {
        builder = builder.write_tlv(Type::Authority, name.as_bytes())?;
    }
    if settings.crc32c {
        builder = builder.write_tlv(Type::CRC32C, &[0; CRC32C_BYTES])?;
    }
    let mut header = builder.build()?;
    if settings.crc32c {
        // Over the whole header, its own field being zero (section 2.2.3).
        let checksum = crc32c::crc32c(&header).to_be_bytes();
        let field = header.len() - CRC32C_BYTES;
        header[field..].copy_from_slice(&checksum);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Header, TypeLengthValue};

    use super::*;

    const PLAIN: SendProxy = SendProxy { authority: false, crc32c: false };
    const FULL: SendProxy = SendProxy { authority: true, crc32c: true };

    /// CRC32C (RFC 3720 appendix B.4 has the polynomial), bit by bit: another way than the crate's.
    fn crc32c_by_bits(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
        })
    }

    fn check(settings: SendProxy, client: &str, local: &str, name: Option<&str>, expected: &[u8]) {
        let header = header(settings, client.parse().unwrap(), local.parse().unwrap(), name);
        assert_eq!(header, expected, "{}", header.escape_ascii());
        assert_eq!(header.capacity(), header.len(), "one allocation of the right size");
    }

    #[test]
    fn headers_are_what_the_specification_says() {
        check(
            PLAIN,
            "192.0.2.1:51234",
            "198.51.100.7:443",
            Some("not.asked.for"),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xc8\x22\x01\xbb",
        );
        check(
            PLAIN,
            "[2001:db8::1]:1",
            "[2001:db8:0:1::ffff]:65535",
            None,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
              \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\x01\0\0\0\0\0\0\xff\xff\0\x01\xff\xff",
        );
        check(
            SendProxy { authority: true, crc32c: false },
            "192.0.2.1:51234",
            "198.51.100.7:443",
            Some("a.example"),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x18\xc0\0\x02\x01\xc6\x33\x64\x07\xc8\x22\x01\xbb\x02\0\x09a.example",
        );
    }

    #[test]
    fn mapped_addresses_are_written_as_ipv4_if_both_are() {
        let as_v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\xc8\x22\x01\xbb";
        check(PLAIN, "[::ffff:192.0.2.1]:51234", "[::ffff:198.51.100.7]:443", None, as_v4);
        check(PLAIN, "[::ffff:192.0.2.1]:51234", "198.51.100.7:443", None, as_v4);
        check(PLAIN, "192.0.2.1:51234", "[::ffff:198.51.100.7]:443", None, as_v4);
    }

    #[test]
    fn mixed_families_are_written_as_ipv6() {
        let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
            \0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\xc8\x22\x01\xbb";
        check(PLAIN, "192.0.2.1:51234", "[2001:db8::1]:443", None, expected);
        check(PLAIN, "[::ffff:192.0.2.1]:51234", "[2001:db8::1]:443", None, expected);
        let turned = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
            \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\x01\xbb\xc8\x22";
        check(PLAIN, "[2001:db8::1]:443", "192.0.2.1:51234", None, turned);
    }

    #[test]
    fn local_headers_carry_no_addresses() {
        assert_eq!(local_header(PLAIN), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        let checked = local_header(FULL);
        assert_eq!(checked[..19], *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x07\x03\0\x04");
        check_crc32c(&checked);
    }

    fn check_crc32c(header: &[u8]) {
        let (before, field) = header.split_at(header.len() - 4);
        let zeroed = [before, &[0; 4]].concat();
        assert_eq!(field, crc32c_by_bits(&zeroed).to_be_bytes());
    }

    #[test]
    fn crc32c_covers_the_whole_header() {
        assert_eq!(crc32c_by_bits(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        for name in [None, Some("a.example"), Some(&*"x".repeat(253))] {
            for client in ["192.0.2.1:1", "[2001:db8::1]:1"] {
                let header = header(FULL, client.parse().unwrap(), "192.0.2.2:443".parse().unwrap(), name);
                assert_eq!(header[header.len() - 7..header.len() - 4], [3, 0, 4]);
                check_crc32c(&header);
            }
        }
    }

    #[test]
    fn ppp_reads_back_what_was_meant() {
        let (client, local) = ("192.0.2.1:51234".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
        let bytes = header(FULL, client, local, Some("a.example"));
        let parsed = Header::try_from(&bytes[..]).unwrap();
        assert_eq!((parsed.command, parsed.protocol), (Command::Proxy, Protocol::Stream));
        assert_eq!(parsed.addresses, (client, local).into());
        let tlvs: Vec<_> = parsed.tlvs().map(Result::unwrap).collect();
        assert_eq!(tlvs[0], TypeLengthValue::new(Type::Authority, b"a.example"));
        assert_eq!((tlvs[1].kind, tlvs.len()), (u8::from(Type::CRC32C), 2));

        let bytes = local_header(FULL);
        let parsed = Header::try_from(&bytes[..]).unwrap();
        assert_eq!((parsed.command, parsed.addresses), (Command::Local, Addresses::Unspecified));
    }

    #[test]
    fn a_name_of_an_impossible_length_is_left_out() {
        let addresses = || ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:443".parse().unwrap());
        let (client, local) = addresses();
        let without = header(FULL, client, local, None);
        for name in ["", &"x".repeat(254), &"x".repeat(100_000)] {
            assert_eq!(header(FULL, client, local, Some(name)), without);
        }
    }
}
