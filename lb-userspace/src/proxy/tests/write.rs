// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written.

use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, Protocol, Type, TypeLengthValue};

use super::super::*;
use crate::config::{ProxyTlvs, SendProxy};

const NOTHING: ProxyTlvs = ProxyTlvs { authority: false, crc32c: false, alpn: false, unique_id: false };
const PLAIN: SendProxy = SendProxy::V2(NOTHING);
const FULL: SendProxy = SendProxy::V2(ProxyTlvs { authority: true, crc32c: true, ..NOTHING });

fn header(settings: SendProxy, client: SocketAddr, local: SocketAddr, authority: Option<&str>) -> Vec<u8> {
    super::super::header(settings, &Content { authority, ..Content::of(client, local) })
}

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
        SendProxy::V2(ProxyTlvs { authority: true, ..NOTHING }),
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
    assert_eq!(of_a_check(PLAIN), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    let checked = of_a_check(FULL);
    assert_eq!(checked[..19], *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x07\x03\0\x04");
    check_crc32c(&checked);
}

/// A connection of the balancer's own, from 192.0.2.1:1 to 192.0.2.2:443.
fn of_a_check(settings: SendProxy) -> Vec<u8> {
    local_header(settings, "192.0.2.1:1".parse().unwrap(), "192.0.2.2:443".parse().unwrap())
}

/// Section 2.1: "a valid PROXY line" of its own addresses, and not UNKNOWN, which some receivers refuse.
#[test]
fn a_local_line_has_the_addresses_of_its_connection() {
    assert_eq!(of_a_check(SendProxy::V1), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n");
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

    let bytes = of_a_check(FULL);
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
