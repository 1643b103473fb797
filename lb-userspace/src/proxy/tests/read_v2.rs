// SPDX-License-Identifier: MIT OR Apache-2.0
//! Headers of version 2 (section 2.2).

use ppp::v2;

use super::super::kind;
use super::*;
use crate::config::ProxyVersion;

const V4: &[u8] = b"\xc0\0\x02\x01\xc6\x33\x64\x07\xc8\x22\x01\xbb";
const V6: &[u8] =
    b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\x01\0\0\0\0\0\0\xff\xff\0\x01\xff\xff";

/// A header of these two bytes, and a body with its length before it.
fn made(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// One over IPv4 with these TLVs.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    made(0x21, 0x11, &[V4, tlvs].concat())
}

/// The same with the right checksum in its last four bytes.
fn sealed(mut header: Vec<u8>) -> Vec<u8> {
    let field = header.len() - 4;
    let sum = crc32c::crc32c(&header);
    header[field..].copy_from_slice(&sum.to_be_bytes());
    header
}

#[track_caller]
fn good(header: &[u8], expected: Option<Endpoints>) -> Received {
    let received = read(header).unwrap_or_else(|reason| panic!("{reason}: {}", header.escape_ascii()));
    assert_eq!((received.wire_len, received.version), (header.len(), ProxyVersion::V2));
    assert_eq!(received.endpoints, expected, "{}", header.escape_ascii());
    received
}

#[track_caller]
fn bad(header: &[u8], expected: ProxyReason) {
    assert_eq!(parse(header, MAX), HeaderOutcome::Invalid(expected), "{}", header.escape_ascii());
}

#[test]
fn addresses_of_either_family() {
    let v4 = || endpoints("192.0.2.1:51234", "198.51.100.7:443");
    good(&made(0x21, 0x11, V4), v4());
    good(&made(0x21, 0x21, V6), endpoints("[2001:db8::1]:1", "[2001:db8:0:1::ffff]:65535"));
    good(&with_tlvs(b"\x04\0\x02xx"), v4());
}

/// What is no TCP over IP, and what is said to be unknown: the connection is accepted with the addresses of its socket.
#[test]
fn other_families_and_protocols_say_nothing_of_addresses() {
    good(&made(0x21, 0x00, b""), None);
    good(&made(0x21, 0x00, V4), None);
    good(&made(0x21, 0x01, V4), None);
    good(&made(0x21, 0x02, b"\xff\xff\xff"), None);
    good(&made(0x21, 0x10, V4), None);
    good(&made(0x21, 0x12, V4), None);
    good(&made(0x21, 0x20, V6), None);
    good(&made(0x21, 0x22, V6), None);
    good(&made(0x21, 0x30, &[b'x'; 216]), None);
    good(&made(0x21, 0x31, &[b'x'; 216]), None);
    let with_tlv = [&[b'x'; 216][..], b"\x02\0\x01a"].concat();
    assert_eq!(good(&made(0x21, 0x32, &with_tlv), None).tlvs().find(kind::AUTHORITY), Some(&b"a"[..]));
    assert_eq!(good(&made(0x21, 0x00, b"\x02\0\x01a"), None).tlvs().find(kind::AUTHORITY), Some(&b"a"[..]));
}

/// LOCAL: accepted, and everything behind it is skipped unread, "including the family".
#[test]
fn local_discards_what_follows() {
    for family in [0x00, 0x11, 0x21, 0x31, 0xff, 0x55] {
        for body in [&b""[..], V4, V6, b"\xff", b"\x03\0\x04\0\0\0\0"] {
            let received = good(&made(0x20, family, body), None);
            assert_eq!(received.tlvs().iter().count(), 0);
        }
    }
}

#[test]
fn what_is_unassigned_is_refused() {
    for version in [0x01, 0x11, 0x31, 0xf1, 0x10] {
        bad(&made(version, 0x11, V4), ProxyReason::UnsupportedVersion);
        bad(&made(version, 0x11, V4)[..13], ProxyReason::UnsupportedVersion);
    }
    for command in 0x22..=0x2f {
        bad(&made(command, 0x11, V4), ProxyReason::Malformed);
    }
    for family in [0x41, 0x51, 0x81, 0xf1, 0x13, 0x1f, 0x23, 0x03, 0x40] {
        bad(&made(0x21, family, &[0; 216]), ProxyReason::Malformed);
    }
}

#[test]
fn a_body_shorter_than_its_addresses_is_refused() {
    for (family, len) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216), (0x32, 216)] {
        for short in 0..len {
            bad(&made(0x21, family, &vec![0; short]), ProxyReason::Malformed);
        }
        assert!(read(&made(0x21, family, &vec![0; len])).is_ok());
        // One or two bytes are no TLV.
        bad(&made(0x21, family, &vec![0; len + 1]), ProxyReason::Malformed);
        bad(&made(0x21, family, &vec![0; len + 2]), ProxyReason::Malformed);
        assert!(read(&made(0x21, family, &vec![0; len + 3])).is_ok());
    }
}

#[test]
fn the_signature_is_all_or_nothing() {
    let header = made(0x21, 0x11, V4);
    for at in 0..12 {
        let mut wrong = header.clone();
        wrong[at] ^= 1;
        bad(&wrong, ProxyReason::Missing);
        bad(&wrong[..=at], ProxyReason::Missing);
    }
}

#[test]
fn what_is_missing_is_known_from_the_16th_byte_on() {
    let header = made(0x21, 0x11, V4);
    assert_eq!(parse(b"", MAX), HeaderOutcome::NeedMore(1));
    assert_eq!(parse(&header[..1], MAX), HeaderOutcome::NeedMore(15));
    assert_eq!(parse(&header[..15], MAX), HeaderOutcome::NeedMore(1));
    assert_eq!(parse(&header[..16], MAX), HeaderOutcome::NeedMore(12));
    assert_eq!(parse(&header[..27], MAX), HeaderOutcome::NeedMore(1));
}

#[test]
fn the_limit_is_for_the_whole_header() {
    let of_len = |len: usize| {
        with_tlvs(&[&b"\xe0"[..], &(len as u16 - 31).to_be_bytes(), &vec![7; len - 31]].concat())
    };
    assert_eq!(of_len(4096).len(), 4096);
    good(&of_len(4096), endpoints("192.0.2.1:51234", "198.51.100.7:443"));
    bad(&of_len(4097), ProxyReason::TooLarge);
    // As soon as the length has come.
    bad(&of_len(4097)[..16], ProxyReason::TooLarge);
    bad(&made(0x20, 0, &[0; 5000])[..16], ProxyReason::TooLarge);
    let longest = made(0x21, 0x11, &[V4, b"\xe0\xff\xf0", &vec![7; 0xfff0]].concat());
    assert_eq!(longest.len(), 16 + 65_535);
    assert!(
        matches!(parse(&longest, longest.len()), HeaderOutcome::Complete(received) if received.tlvs().find(0xe0).is_some())
    );
    assert_eq!(parse(&longest, longest.len() - 1), HeaderOutcome::Invalid(ProxyReason::TooLarge));
}

#[test]
fn tlvs_are_kept_but_for_padding_and_checksum() {
    let header = sealed(with_tlvs(
        b"\x01\0\x02h2\x04\0\x03pad\x02\0\x01a\x05\0\x02id\x20\0\x05\x01\0\0\0\0\x30\0\x02ns\xea\0\0\x03\0\x04\0\0\0\0",
    ));
    let received = good(&header, endpoints("192.0.2.1:51234", "198.51.100.7:443"));
    let found: Vec<_> = received.tlvs().iter().map(|tlv| (tlv.kind, tlv.value)).collect();
    let expected: [(u8, &[u8]); 6] =
        [(1, b"h2"), (2, b"a"), (5, b"id"), (0x20, b"\x01\0\0\0\0"), (0x30, b"ns"), (0xea, b"")];
    assert_eq!(found, expected);
    assert_eq!(received.unique_id(), Some(&b"id"[..]));
    assert!(received.has_checksum);
}

#[test]
fn an_identity_is_not_empty() {
    let id = |tlvs: &[u8]| read(&with_tlvs(tlvs)).unwrap().unique_id().map(<[u8]>::to_vec);
    assert_eq!(id(b"\x05\0\0"), None);
    assert_eq!(id(b"\x05\0\0\x05\0\x01a\x05\0\x01b"), Some(b"a".to_vec()));
}

#[test]
fn lengths_of_tlvs_are_checked_against_what_holds_them() {
    for tlvs in [
        &b"\x02"[..],
        b"\x02\0",
        b"\x02\0\x01",
        b"\x02\0\x02a",
        b"\x02\xff\xffa",
        b"\x02\0\x01ab",
        b"\x04\0\x01",
        // PP2_TYPE_SSL: too short for its own fields; TLVs inside that are too long, too short, cut.
        b"\x20\0\x04\x01\0\0\0",
        b"\x20\0\x09\x01\0\0\0\0\x21\0\x02a",
        b"\x20\0\x0a\x01\0\0\0\0\x21\0\x01ab",
        b"\x20\0\x06\x01\0\0\0\0\x21",
        // PP2_TYPE_UNIQUE_ID has 128 bytes at most, PP2_TYPE_CRC32C exactly 4.
        &[&b"\x05\0\x81"[..], &[b'x'; 129]].concat(),
        b"\x03\0\x03\0\0\0",
        b"\x03\0\x05\0\0\0\0\0",
    ] {
        bad(&with_tlvs(tlvs), ProxyReason::Malformed);
    }
    // A length that fits the header and not the TLV around it, with a TLV behind to swallow.
    bad(&with_tlvs(b"\x20\0\x09\x01\0\0\0\0\x21\0\x05a\xea\0\x01b"), ProxyReason::Malformed);
    let names = b"\x20\0\x1d\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x04name\x25\0\x01k";
    let ssl = &with_tlvs(&[&b"\x20\0\x1a"[..], &names[3..]].concat());
    good(ssl, endpoints("192.0.2.1:51234", "198.51.100.7:443"));
}

#[test]
fn a_wrong_checksum_is_refused() {
    let right = sealed(with_tlvs(b"\x02\0\x01a\x03\0\x04\0\0\0\0"));
    assert!(read(&right).is_ok());
    for at in 16..right.len() {
        for bit in 0..8 {
            let mut wrong = right.clone();
            wrong[at] ^= 1 << bit;
            assert!(
                !matches!(parse(&wrong, MAX), HeaderOutcome::Complete(_) if !lost_its_checksum(&wrong)),
                "{at} {bit}"
            );
        }
    }
    let mut wrong = right.clone();
    wrong[20] ^= 1;
    bad(&wrong, ProxyReason::Checksum);
    // It need not be the last one.
    let mut first = with_tlvs(b"\x03\0\x04\0\0\0\0\x02\0\x01a");
    let sum = crc32c::crc32c(&first);
    first[31..35].copy_from_slice(&sum.to_be_bytes());
    assert!(read(&first).is_ok_and(|received| received.has_checksum));
    // Two of them cannot both be right.
    bad(&sealed(with_tlvs(b"\x03\0\x04\0\0\0\0\x03\0\x04\0\0\0\0")), ProxyReason::Malformed);
    // Without addresses as well.
    assert!(read(&sealed(made(0x21, 0, b"\x03\0\x04\0\0\0\0"))).is_ok_and(|received| received.has_checksum));
    bad(&made(0x21, 0, b"\x03\0\x04\0\0\0\0"), ProxyReason::Checksum);
}

/// A bit that turns the checksum into a TLV of another type leaves a header without one.
fn lost_its_checksum(header: &[u8]) -> bool {
    !matches!(read(header), Ok(received) if received.has_checksum)
}

/// Where ppp differs from the protocol's text, and `v2` from ppp. A newer ppp that fails here makes our own code superfluous.
#[test]
fn ppp_is_not_enough() {
    for local in [made(0x20, 0x11, b""), made(0x20, 0x55, V4)] {
        assert!(v2::Header::try_from(&local[..]).is_err(), "the family of LOCAL is to be ignored");
    }
    let header = made(0x21, 0, b"\x02\0\x01a");
    let unspecified = v2::Header::try_from(&header[..]).unwrap();
    assert_eq!(unspecified.tlvs().count(), 0, "TLVs behind no addresses");
    let header = sealed(with_tlvs(b"\x03\0\x04\0\0\0\x01"));
    assert!(v2::Header::try_from(&header[..]).is_ok(), "checksums are not verified");
    let header = with_tlvs(b"\x20\0\x09\x01\0\0\0\0\x21\0\x02a");
    let nested = v2::Header::try_from(&header[..]).unwrap();
    assert!(nested.tlvs().all(|tlv| tlv.is_ok()), "lengths inside TLVs are not checked");
}
