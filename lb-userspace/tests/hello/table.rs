// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows: bytes and what must come of them.

use lb::prelude::hello::{AlpnList, ClientHello, HelloLimits, HelloOutcome, parse};

use crate::build::{
    ALPN, ECH, Parts, SERVER_NAME, alpn, client_hello, handshake, host_name, list16, records, sni,
};
use crate::oracle::{LIMITS, ours};
use crate::random::Random;

#[track_caller]
fn check(wire: &[u8], expected: HelloOutcome) {
    assert_eq!(ours(wire), expected, "{}", wire.escape_ascii());
}

#[track_caller]
fn check_name(parts: &Parts, expected: Option<&str>) {
    let wire = parts.wire();
    let server_name = expected.map(str::to_owned);
    check(
        &wire,
        HelloOutcome::Complete(ClientHello { server_name, wire_len: wire.len(), ..Default::default() }),
    );
}

#[track_caller]
fn check_extension(kind: u16, content: &[u8], expected: HelloOutcome) {
    check(&Parts::minimal().with(kind, content.to_vec()).wire(), expected);
}

#[test]
fn what_cannot_begin_tls_is_told_from_the_first_byte_on() {
    for wire in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-x\r\n",
        b"\0",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x17\x03\x03",
        b"\x15\x03\x01\0\x02",
        b"\x16G",
        b"\x16\x02",
        b"\x16\x03\x01\x41",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\xff",
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\0\x05\x02",
        b"\x16\x03\x01\0\x05\0",
        // An SSLv2 ClientHello that offers SSL 3.0 (RFC 6101 appendix E).
        b"\x80\x2e\x01\x03\0\0\x15\0\0\0\x10",
    ] {
        check(wire, HelloOutcome::NotTls);
        for end in 1..wire.len() {
            assert!(matches!(ours(&wire[..end]), HelloOutcome::NotTls | HelloOutcome::NeedMore(1..)));
        }
    }
}

#[test]
fn beginnings_say_how_much_is_missing() {
    check(b"", HelloOutcome::NeedMore(6));
    check(b"\x16", HelloOutcome::NeedMore(5));
    check(b"\x16\x03\x01\x40", HelloOutcome::NeedMore(2));
    check(b"\x16\x03\x01\x02\0", HelloOutcome::NeedMore(1));
    check(b"\x16\x03\x01\x02\0\x01", HelloOutcome::NeedMore(3));
    check(b"\x16\x03\x01\x02\0\x01\0\x01", HelloOutcome::NeedMore(1 + 0x100));
    check(b"\x16\x03\x01\x02\0\x01\0\x01\xfc", HelloOutcome::NeedMore(0x1fc));
    check(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", HelloOutcome::NeedMore(0x1fa));
    // The message goes on in at least one further record.
    check(b"\x16\x03\x01\x01\0\x01\0\x01\xfc", HelloOutcome::NeedMore(0x1fc + 5));
    check(b"\x16\x03\x01\0\x01\x01", HelloOutcome::NeedMore(3 + 5));
    check(b"\x16\x03\x01\0\x01\x01\x16\x03", HelloOutcome::NeedMore(3 + 3));
    check(b"\x16\x03\x01\0\x01\x01\x16\x03\x03\0\x03", HelloOutcome::NeedMore(3));
    check(b"\x16\x03\x01\0\x01\x01\x16\x03\x03\0\x02", HelloOutcome::NeedMore(3 + 5));
}

#[test]
fn records_that_break_off_are_malformed() {
    let message = Parts::minimal().sni("a.example").handshake();
    let first = records(&message[..50], &[50]);
    for second in [
        &b"\x14"[..],
        b"\x15\x03\x03\0\x02",
        b"\x17\x03\x03\0\x05",
        b"\x16\x02",
        b"\x16\x03\x03\0\0",
        b"\x16\x03\x03\x40\x01",
        b"G",
    ] {
        check(&[&first, second].concat(), HelloOutcome::Malformed);
    }
    // A zero-length fragment of a handshake message is forbidden wherever it stands (RFC 8446 section 5.1).
    let rest = records(&message[50..], &[1 << 14]);
    check(&[&first[..], b"\x16\x03\x03\0\0", &rest].concat(), HelloOutcome::Malformed);
}

#[test]
fn names_are_found_in_every_shape() {
    let minimal = Parts::minimal();
    check_name(&minimal, None);
    check_name(&minimal.clone().sni("a.example"), Some("a.example"));
    check_name(&minimal.clone().sni("WWW.A.Example"), Some("www.a.example"));
    check_name(&minimal.clone().sni("a.example."), Some("a.example"));
    check_name(&minimal.clone().sni("_dmarc.a-b.example"), Some("_dmarc.a-b.example"));
    check_name(&Parts { extensions: None, ..minimal.clone() }, None);
    check_name(&Parts { extensions: Some(vec![]), ..minimal.clone() }, None);
    check_name(&Parts { session_id: vec![], ..minimal.clone() }.sni("a.example"), Some("a.example"));
    check_name(&Parts::old(Some("old.example")), Some("old.example"));
    check_name(&minimal.clone().sni("a.example").padded_to(16 * 1024), Some("a.example"));
    check_name(&minimal.clone().sni("127.0.0.1"), None);
    check_name(&minimal.clone().sni("::1"), None);
    // The record version is not looked at (RFC 8446 section 5.1), and neither is legacy_version.
    let mut wire = Parts { version: 0x0301, ..minimal }.sni("a.example").wire();
    wire[2] = 0xff;
    assert!(matches!(ours(&wire), HelloOutcome::Complete(_)));
}

#[test]
fn a_browsers_hello_gives_name_alpn_and_ech() {
    let mut random = Random(1);
    for _ in 0..100 {
        let wire = Parts::browser("Shop.Example", &mut random).wire();
        let expected = ClientHello {
            server_name: Some("shop.example".to_owned()),
            alpn: AlpnList::from_names(&["h2", "http/1.1"]),
            has_ech: true,
            wire_len: wire.len(),
        };
        assert!(wire.len() > 1_700, "post-quantum size");
        check(&wire, HelloOutcome::Complete(expected));
    }
}

#[test]
fn a_rustls_hello_gives_name_and_alpn() {
    let wire = client_hello("api.example", &["h2"]);
    let HelloOutcome::Complete(hello) = ours(&wire) else { panic!("{:?}", ours(&wire)) };
    assert_eq!(hello.server_name.as_deref(), Some("api.example"));
    assert_eq!(hello.alpn.to_string(), "h2");
    assert!(!hello.has_ech);
}

#[test]
fn bytes_behind_the_hello_are_not_looked_at() {
    let parts = Parts::minimal().sni("a.example");
    let alone = parts.wire();
    let expected = ours(&alone);
    for behind in [&b"\x17\x03\x03\0\x05early"[..], b"GET", b"\x16", &alone] {
        check(&[&alone, behind].concat(), expected.clone());
    }
    // A second message in the same record.
    let both = [parts.handshake(), vec![0x14, 0, 0, 1, 0]].concat();
    check(&records(&both, &[1 << 14]), expected);
}

#[test]
fn broken_server_names_are_malformed() {
    let entry = host_name("a.example");
    for content in [
        &[][..],
        &[0],
        &[0, 0],
        &sni(""),
        &sni("."),
        &sni("a..b"),
        &sni("a b"),
        &sni("a\0"),
        &sni("a\n"),
        &sni(b"m\xc3\xbcnchen"),
        &sni("*.example"),
        &sni("a".repeat(64)),
        &sni(["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".")),
        // Lengths: the list's too long, too short; the name's too long, too short.
        &[&[0, entry.len() as u8 + 1][..], &entry].concat(),
        &[&[0, entry.len() as u8 - 1][..], &entry].concat(),
        &list16(b"\0\0\x0aa.example"),
        &list16(b"\0\0\x08a.exampl\0"),
        &list16(b"\0\0"),
        // Two names, the same or another.
        &list16(&[entry.clone(), entry.clone()].concat()),
        &list16(&[entry.clone(), host_name("b.example")].concat()),
        // A name type that nobody defined, in front.
        &list16(&[b"\x01\0\x01x", &entry[..]].concat()),
    ] {
        check_extension(SERVER_NAME, content, HelloOutcome::Malformed);
    }
    check(&Parts::minimal().sni("a.example").sni("a.example").wire(), HelloOutcome::Malformed);
}

/// HAProxy took the 16-bit length of a host name at its word until April 2026 (commit ed267f9bc): a hello of 65 bytes with the
/// length 0xffff read 50 KB behind it.
#[test]
fn a_name_length_beyond_the_hello_is_malformed() {
    let mut parts = Parts { session_id: vec![], ciphers: vec![0x1301], ..Parts::minimal() };
    for (list_len, name_len) in [(0xffff, 0xffff), (8, 0xffff), (8, 6), (0xffff, 5)] {
        let content =
            [u16::to_be_bytes(list_len).as_slice(), &[0], &u16::to_be_bytes(name_len), b"abcde"].concat();
        parts.extensions = Some(vec![(SERVER_NAME, content)]);
        assert_eq!(parts.wire().len(), 66);
        check(&parts.wire(), HelloOutcome::Malformed);
    }
    parts.extensions = Some(vec![(SERVER_NAME, sni("abcde"))]);
    check_name(&parts, Some("abcde"));
}

/// HAProxy compared the handshake's length with the bytes at hand four bytes off (commits 265393651 and 8f507ae75).
#[test]
fn the_handshake_length_counts_from_behind_its_header() {
    let wire = Parts::minimal().sni("a.example").wire();
    for missing in 1..=8 {
        check(&wire[..wire.len() - missing], HelloOutcome::NeedMore(missing));
    }
}

#[test]
fn an_unknown_name_type_behind_the_name_ends_the_list() {
    let content = list16(&[&host_name("a.example")[..], b"\x05whatever"].concat());
    check_name(&Parts::minimal().with(SERVER_NAME, content), Some("a.example"));
}

#[test]
fn broken_alpn_lists_are_malformed() {
    for content in [
        &[][..],
        b"\0",
        b"\0\0",
        b"\0\x01\0",
        b"\0\x03\x02h",
        b"\0\x03\x03h2",
        b"\0\x02\x02h2",
        b"\0\x04\x02h2",
        b"\0\x04\x02h2\0",
    ] {
        check_extension(ALPN, content, HelloOutcome::Malformed);
    }
    check(
        &Parts::minimal().with(ALPN, alpn(&["h2"])).with(ALPN, alpn(&["h2"])).wire(),
        HelloOutcome::Malformed,
    );
}

#[test]
fn contents_of_other_extensions_are_the_servers_business() {
    for kind in [1, 5, 10, 11, 13, 15, 22, 23, 28, 42, 43, 45, 48, 49, 13172, 0xff01, 0xffce, 0x0a0a] {
        for content in [&[][..], &[0xff], &[0xff; 3]] {
            check_name(&Parts { extensions: None, ..Parts::minimal() }.with(kind, content.to_vec()), None);
        }
    }
    assert!(matches!(
        ours(&Parts::minimal().with(ECH, vec![]).wire()),
        HelloOutcome::Complete(ClientHello { has_ech: true, .. })
    ));
}

#[test]
fn lengths_inside_the_message_must_fit() {
    let body = Parts { session_id: vec![7; 4], ..Parts::minimal() }.sni("a.example").body();
    let extensions_at = 2 + 32 + 5 + 2 + 6 + 2;
    let patched = |at: usize, value: u8| {
        let mut body = body.clone();
        body[at] = value;
        records(&handshake(&body), &[1 << 14])
    };
    assert!(matches!(ours(&patched(0, 3)), HelloOutcome::Complete(_)), "nothing changed");
    for (at, value) in [
        (34, 33),              // session id longer than 32
        (34, 255),             // … than the message
        (40, 5),               // odd length of ciphers
        (40, 0),               // none
        (39, 0xff),            // more than the message
        (47, 0),               // no compression
        (47, 0xff),            // more than the message
        (extensions_at, 0xff), // extensions longer than the message
        (extensions_at + 1, body[extensions_at + 1] - 1),
        (extensions_at + 1, body[extensions_at + 1] + 1),
        (extensions_at + 5, body[extensions_at + 5] + 1), // the first extension shifts the others
        (extensions_at + 4, 0xff),                        // … ends behind the block
    ] {
        assert_eq!(ours(&patched(at, value)), HelloOutcome::Malformed, "byte {at} = {value}");
    }
    for end in 0..body.len() {
        if end != extensions_at {
            let cut = records(&handshake(&body[..end]), &[1 << 14]);
            assert_eq!(ours(&cut), HelloOutcome::Malformed, "cut at {end}");
        }
    }
    check(&records(&handshake(&[&body[..], &[0]].concat()), &[1 << 14]), HelloOutcome::Malformed);
}

#[test]
fn limits_are_applied_as_soon_as_they_can_be() {
    let limited = |wire: &[u8], handshake_max, wire_max| {
        parse(wire, HelloLimits { handshake_max, wire_max }, &mut Vec::new())
    };
    let wire = Parts::minimal().sni("a.example").padded_to(1000).wire();
    assert!(matches!(limited(&wire, 1000, 1005), HelloOutcome::Complete(_)));
    for (handshake_max, wire_max) in [(999, 1005), (1000, 1004), (100, 100)] {
        assert_eq!(limited(&wire, handshake_max, wire_max), HelloOutcome::TooLarge);
        assert_eq!(limited(&wire[..9], handshake_max, wire_max), HelloOutcome::TooLarge);
        assert!(matches!(limited(&wire[..7], handshake_max, wire_max), HelloOutcome::NeedMore(_)));
    }
    // 65,536 bytes at least, by the first byte of the length.
    check(b"\x16\x03\x01\0\x40\x01\x01", HelloOutcome::TooLarge);
    // One-byte records: the cap on wire bytes bites when the records that are surely missing go over it.
    let tiny = records(&Parts::minimal().sni("a.example").padded_to(1000).handshake(), &[1]);
    assert_eq!(tiny.len(), 6000);
    assert!(matches!(limited(&tiny, 1000, 6000), HelloOutcome::Complete(_)));
    assert_eq!(limited(&tiny, 1000, 5999), HelloOutcome::TooLarge);
    assert!(matches!(limited(&tiny[..5992], 1000, 5999), HelloOutcome::NeedMore(_)));
    assert_eq!(limited(&tiny[..1500], 1000, 1500), HelloOutcome::TooLarge);
    // 16 KiB and a header are the largest by default.
    check(&Parts::minimal().padded_to(16 * 1024 + 1).wire(), HelloOutcome::TooLarge);
    assert!(matches!(
        ours(&records(&Parts::minimal().padded_to(LIMITS.handshake_max).handshake(), &[1])),
        HelloOutcome::Complete(_)
    ));
}

#[test]
fn the_scratch_is_reused_and_never_mixed_up() {
    let mut scratch = vec![0xff; 40];
    for name in ["long-name-that-comes-first.example", "b.example"] {
        let wire = records(&Parts::minimal().sni(name).handshake(), &[7]);
        let HelloOutcome::Complete(hello) = parse(&wire, LIMITS, &mut scratch) else {
            panic!("not complete")
        };
        assert_eq!(hello.server_name.as_deref(), Some(name));
    }
}
