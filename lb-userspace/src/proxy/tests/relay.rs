// SPDX-License-Identifier: MIT OR Apache-2.0
//! What of a received header goes on, what is added, and version 1.

use super::super::*;
use std::net::SocketAddr;

use super::read;
use crate::config::{ProxyTlvs, SendProxy};

const NOTHING: ProxyTlvs = ProxyTlvs { authority: false, crc32c: false, alpn: false, unique_id: false };
const ALL: ProxyTlvs = ProxyTlvs { authority: true, crc32c: true, alpn: true, unique_id: true };

fn content() -> Content<'static> {
    Content {
        authority: Some("a.example"),
        alpn: Some(b"h2"),
        unique_id: Some(b"id-7"),
        ..Content::of("192.0.2.1:51234".parse().unwrap(), "198.51.100.7:443".parse().unwrap())
    }
}

/// Types and values of what goes out.
#[track_caller]
fn sent(wanted: ProxyTlvs, content: &Content<'_>) -> Vec<(u8, Vec<u8>)> {
    let header = header(SendProxy::V2(wanted), content);
    let parsed = ppp::v2::Header::try_from(&header[..]).unwrap();
    assert_eq!(parsed.len(), header.len());
    parsed.tlvs().map(Result::unwrap).map(|tlv| (tlv.kind, tlv.value.into_owned())).collect()
}

/// A header from a proxy in front with these TLVs.
fn received(tlvs: &[(u8, &[u8])], has_checksum: bool) -> Received {
    let mut chain = Vec::new();
    tlvs.iter().for_each(|(kind, value)| tlv::append(*kind, value, &mut chain));
    let Content { client, local, .. } = content();
    let wire_len = 28 + chain.len();
    Received {
        wire_len,
        endpoints: Some(Endpoints { client, local }),
        tlvs: chain.into(),
        has_checksum,
        ..Received::plain(crate::config::ProxyVersion::V2, wire_len)
    }
}

#[test]
fn each_tlv_has_its_switch() {
    let check = |wanted: ProxyTlvs, expected: &[(u8, &[u8])]| {
        let found = sent(wanted, &content());
        let found: Vec<_> = found.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        assert_eq!(found, expected, "{wanted:?}");
    };
    check(NOTHING, &[]);
    check(ProxyTlvs { authority: true, ..NOTHING }, &[(2, b"a.example")]);
    check(ProxyTlvs { alpn: true, ..NOTHING }, &[(1, b"h2")]);
    check(ProxyTlvs { unique_id: true, ..NOTHING }, &[(5, b"id-7")]);
    let kinds: Vec<u8> = sent(ALL, &content()).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [1, 2, 5, 3]);
}

#[test]
fn what_is_not_known_is_not_said() {
    let Content { client, local, .. } = content();
    let kinds: Vec<u8> = sent(ALL, &Content::of(client, local)).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [3]);
    let id = [b'x'; 129];
    let too_long = Content { unique_id: Some(&id), alpn: Some(b""), ..Content::of(client, local) };
    assert_eq!(sent(ALL, &too_long).len(), 1);
    let longest = Content { unique_id: Some(&id[..128]), ..Content::of(client, local) };
    assert_eq!(sent(ALL, &longest)[0], (5, vec![b'x'; 128]));
}

#[test]
fn received_tlvs_go_on_and_ours_go_before_them() {
    let before = received(
        &[
            (0xea, b"aws"),
            (1, b"http/1.1"),
            (2, b"their.example"),
            (5, b"theirs"),
            (0x20, b"\x01\0\0\0\0"),
            (0xea, b"again"),
        ],
        false,
    );
    let check = |wanted: ProxyTlvs, content: &Content<'_>, expected: &[(u8, &[u8])]| {
        let found = sent(wanted, &Content { received: Some(&before), ..*content });
        let found: Vec<_> = found.iter().map(|(kind, value)| (*kind, &value[..])).collect();
        assert_eq!(found, expected, "{wanted:?}");
    };
    // Without a switch all that came goes on as it came.
    check(
        NOTHING,
        &content(),
        &[
            (0xea, b"aws"),
            (1, b"http/1.1"),
            (2, b"their.example"),
            (5, b"theirs"),
            (0x20, b"\x01\0\0\0\0"),
            (0xea, b"again"),
        ],
    );
    // The peeked name wins, and so does what else is known here.
    check(
        ProxyTlvs { crc32c: false, ..ALL },
        &content(),
        &[
            (1, b"h2"),
            (2, b"a.example"),
            (5, b"id-7"),
            (0xea, b"aws"),
            (0x20, b"\x01\0\0\0\0"),
            (0xea, b"again"),
        ],
    );
    // What is not known here does not.
    let Content { client, local, .. } = content();
    check(
        ProxyTlvs { crc32c: false, ..ALL },
        &Content::of(client, local),
        &[
            (0xea, b"aws"),
            (1, b"http/1.1"),
            (2, b"their.example"),
            (5, b"theirs"),
            (0x20, b"\x01\0\0\0\0"),
            (0xea, b"again"),
        ],
    );
}

#[test]
fn a_checksum_is_made_anew() {
    for (has_checksum, wanted) in [(true, NOTHING), (true, ALL), (false, ALL)] {
        let before = received(&[(0xea, b"aws")], has_checksum);
        let header = header(SendProxy::V2(wanted), &Content { received: Some(&before), ..content() });
        assert!(read(&header).unwrap().has_checksum);
    }
    let before = received(&[(0xea, b"aws")], false);
    let header = header(SendProxy::V2(NOTHING), &Content { received: Some(&before), ..content() });
    assert!(!read(&header).unwrap().has_checksum);
}

#[test]
fn what_does_not_fit_is_left_out() {
    let (large, id) = (vec![7; 64_900], [b'x'; 128]);
    let before = received(&[(0xe0, &large), (0xe1, &[8; 400]), (0xe2, b"fits")], true);
    let name = "n".repeat(253);
    let full = Content {
        received: Some(&before),
        authority: Some(&name),
        unique_id: Some(&id),
        client: "[2001:db8::1]:1".parse().unwrap(),
        ..content()
    };
    let kinds: Vec<u8> = sent(ALL, &full).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [1, 2, 5, 0xe0, 0xe2, 3]);
}

#[test]
fn version_1_is_a_line() {
    let check = |client: &str, local: &str, expected: &str| {
        let content = Content { client: client.parse().unwrap(), local: local.parse().unwrap(), ..content() };
        let line = header(SendProxy::V1, &content);
        assert_eq!(String::from_utf8_lossy(&line), expected);
        let found = read(&line).unwrap().endpoints.unwrap();
        let is_same =
            |ours: SocketAddr, found: SocketAddr| crate::net::canonical(ours) == crate::net::canonical(found);
        assert!(is_same(content.client, found.client) && is_same(content.local, found.local), "{found:?}");
    };
    check("192.0.2.1:51234", "198.51.100.7:443", "PROXY TCP4 192.0.2.1 198.51.100.7 51234 443\r\n");
    check("[::ffff:192.0.2.1]:1", "198.51.100.7:443", "PROXY TCP4 192.0.2.1 198.51.100.7 1 443\r\n");
    check("[2001:db8::1]:1", "[::1]:65535", "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n");
    check("192.0.2.1:1", "[2001:db8::1]:2", "PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n");
    check("[2001:db8::1]:2", "192.0.2.1:1", "PROXY TCP6 2001:db8::1 ::ffff:c000:201 2 1\r\n");
}
