// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of version 1 (section 2.1).

use ppp::v1;

use super::*;
use crate::config::ProxyVersion;

#[track_caller]
fn good(line: &str, expected: Option<Endpoints>) {
    let received = read(line.as_bytes()).unwrap_or_else(|reason| panic!("{reason}: {line:?}"));
    assert_eq!((received.wire_len, received.version), (line.len(), ProxyVersion::V1), "{line:?}");
    assert_eq!(received.endpoints, expected, "{line:?}");
}

#[track_caller]
fn bad(line: &[u8], expected: ProxyReason) {
    assert_eq!(parse(line, MAX), HeaderOutcome::Invalid(expected), "{}", line.escape_ascii());
}

#[test]
fn addresses_of_either_family() {
    good(
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        endpoints("192.168.0.1:56324", "192.168.0.11:443"),
    );
    good(
        "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        endpoints("255.255.255.255:65535", "255.255.255.255:65535"),
    );
    good("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", endpoints("0.0.0.0:0", "0.0.0.0:0"));
    good("PROXY TCP6 2001:DB8::1 ::1 1 65535\r\n", endpoints("[2001:db8::1]:1", "[::1]:65535"));
    let longest = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
    assert_eq!(longest.len(), 104);
    let all = format!("[{}]:65535", ["ffff"; 8].join(":"));
    good(&longest, endpoints(&all, &all));
}

/// The protocol's text has hexadecimal digits alone; nginx writes addresses of a dual-stack socket so.
#[test]
fn mapped_addresses_may_have_dots() {
    good(
        "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 2\r\n",
        endpoints("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2"),
    );
}

#[test]
fn what_is_behind_unknown_is_ignored() {
    good("PROXY UNKNOWN\r\n", None);
    good("PROXY UNKNOWN \r\n", None);
    good("PROXY UNKNOWN 192.0.2.1 192.0.2.2 1 2\r\n", None);
    good("PROXY UNKNOWN a b c d e f g h i\r\n", None);
    good("PROXY UNKNOWN \r \n \u{fc}\r\n", None);
    let longest = format!("PROXY UNKNOWN {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
    assert_eq!(longest.len(), 107);
    good(&longest, None);
    assert!(read(b"PROXY UNKNOWN \xff\xfe\r\n").is_ok_and(|received| received.endpoints.is_none()));
}

#[test]
fn a_line_that_does_not_match_exactly_is_none() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNS 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        // Families that do not fit each other or the word.
        "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
        "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        // Addresses.
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.0x1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0..1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n",
        "PROXY TCP6 1::2::3 ::1 1 2\r\n",
        "PROXY TCP6 12345::1 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        // Ports.
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 00\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 +2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 x 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n",
        // One character ends no line.
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rx",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\rx\r\n",
    ] {
        bad(line.as_bytes(), ProxyReason::Malformed);
    }
    bad(b"PROXY TCP4 192.0.2.\xb1 192.0.2.2 1 2\r\n", ProxyReason::Malformed);
    bad(b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n", ProxyReason::Malformed);
}

#[test]
fn a_line_ends_within_107_bytes() {
    let line = |len: usize| format!("{:<1$}\r\n", "PROXY UNKNOWN", len - 2).into_bytes();
    assert!(read(&line(107)).is_ok());
    bad(&line(108), ProxyReason::TooLarge);
    bad(&line(1000), ProxyReason::TooLarge);
    bad(&line(108)[..107], ProxyReason::TooLarge);
    assert_eq!(parse(&line(107)[..106], MAX), HeaderOutcome::NeedMore(1));
    assert_eq!(parse(&line(107)[..105], MAX), HeaderOutcome::NeedMore(2));
}

#[test]
fn what_begins_otherwise_is_missing() {
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x16\x03\x01",
        b"PROXX",
        b"proxy ",
        b"P ",
        b"\r\nPROXY ",
        b"\0",
        b" PROXY",
    ] {
        bad(other, ProxyReason::Missing);
    }
}

/// Where ppp differs from the protocol's text, and `v1` from ppp. A newer ppp that fails here makes our own code superfluous.
#[test]
fn ppp_is_not_enough() {
    let with_sign = "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n";
    assert!(v1::Header::try_from(with_sign).is_ok(), "a port is digits");
    let words = "PROXY UNKNOWN a b c d e f g h i\r\n";
    assert!(v1::Header::try_from(words).is_err(), "the rest of the line must be ignored");
    let bytes = &b"PROXY UNKNOWN \xff\r\n"[..];
    assert!(v1::Header::try_from(bytes).is_err(), "the rest of the line must be ignored");
}
