// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host names as clients send them.

use std::net::IpAddr;

use lb_common::limits::{HOST_LABEL_MAX, HOST_NAME_MAX};

/// What a client put where a host name belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HostName {
    /// A name, in the form that routes are written in: lower case, no trailing dot.
    Usable(String),
    /// An IPv4 or IPv6 literal. RFC 6066 section 3 forbids it; old clients send it, and servers treat it as no name.
    Literal,
    /// Neither.
    Invalid,
}

/// Judges and normalises the bytes of a host_name.
pub(super) fn host_name(raw: &[u8]) -> HostName {
    let name = raw.strip_suffix(b".").unwrap_or(raw);
    if !is_host_name(name) {
        let is_literal = std::str::from_utf8(raw).is_ok_and(|text| text.parse::<IpAddr>().is_ok());
        return if is_literal { HostName::Literal } else { HostName::Invalid };
    }
    String::from_utf8(name.to_ascii_lowercase()).map_or(HostName::Invalid, HostName::Usable)
}

/// Whether these are labels of letters, digits, hyphens and underscores, the last of which is not a number.
///
/// Hyphens may stand anywhere, as such names are in use. A number at the end makes an IPv4 address of the whole
/// (WHATWG URL standard, "ends in a number checker"), whether it is a good one or not.
fn is_host_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > HOST_NAME_MAX {
        return false;
    }
    let mut label_len = 0;
    let mut is_number = true;
    for &byte in name {
        match byte {
            b'0'..=b'9' => {}
            b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' => is_number = false,
            b'.' if label_len > 0 => {
                (label_len, is_number) = (0, true);
                continue;
            }
            _ => return false,
        }
        label_len += 1;
        if label_len > HOST_LABEL_MAX {
            return false;
        }
    }
    label_len > 0 && !is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &[u8], expected: &str) {
        assert_eq!(host_name(raw), HostName::Usable(expected.to_owned()), "{}", raw.escape_ascii());
    }

    #[test]
    fn names_are_normalised() {
        check(b"a.example", "a.example");
        check(b"A.ExAmPlE", "a.example");
        check(b"a.example.", "a.example");
        check(b"localhost", "localhost");
        check(b"_acme.xn--mnchen-3ya.example", "_acme.xn--mnchen-3ya.example");
        check(b"r4---sn-h0jeened.-edge-.example", "r4---sn-h0jeened.-edge-.example");
        check(b"1.2.3.4a", "1.2.3.4a");
        check(b"0.a", "0.a");
        let longest = [[b'a'; 63].as_slice(), &[b'b'; 63], &[b'c'; 63], &[b'd'; 61]].join(&b'.');
        assert_eq!(longest.len(), HOST_NAME_MAX);
        check(&longest, std::str::from_utf8(&longest).unwrap());
        check(&[&longest[..], b"."].concat(), std::str::from_utf8(&longest).unwrap());
    }

    #[test]
    fn literals_are_no_names() {
        for raw in ["127.0.0.1", "::1", "2001:db8::1", "::ffff:192.0.2.1"] {
            assert_eq!(host_name(raw.as_bytes()), HostName::Literal, "{raw}");
        }
    }

    #[test]
    fn everything_else_is_invalid() {
        let too_long = [[b'a'; 63].as_slice(), &[b'b'; 63], &[b'c'; 63], &[b'd'; 62]].join(&b'.');
        let long_label = [b'a'; 64];
        for raw in [
            &b""[..],
            b".",
            b"..",
            b".a",
            b"a..",
            b"a..b",
            b"a b",
            b" a",
            b"a\0",
            b"\0",
            b"a\0.example",
            b"a\n",
            b"a\x7f",
            b"m\xc3\xbcnchen.example",
            b"\xff",
            b"*.example",
            b"a/b",
            b"a:443",
            b"[::1]",
            b"1.2.3",
            b"1.2.3.4.",
            b"256.1.1.1",
            b"fe80::1%eth0",
            b"a.123",
            b"~.*",
            &too_long,
            &long_label,
        ] {
            assert_eq!(host_name(raw), HostName::Invalid, "{}", raw.escape_ascii());
        }
    }
}
