// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names: of servers on the network (patterns of routes), and of things in the configuration.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::limits::{HOST_LABEL_MAX, HOST_NAME_MAX};
use regex::RegexBuilder;

use super::limits::NAME_MAX;
use super::value::Value;
use super::{NamePattern, Policy};

/// Largest compiled regular expression, in bytes; a name of 253 bytes needs far less.
const REGEX_SIZE_MAX: usize = 1 << 20;

impl NamePattern {
    /// Reads a name, `*.` and a name, or `~` and a regular expression (syntax of the regex crate).
    ///
    /// # Errors
    /// What is wrong with the text, as a sentence for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(pattern) = text.strip_prefix('~') {
            return parse_regex(pattern);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => parse_name(suffix).map(|suffix| Self::Wildcard(format!(".{suffix}"))),
            None => parse_name(text).map(Self::Exact),
        }
    }

    /// Whether the pattern matches a name (lower case, no trailing dot).
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            Self::Regex(regex) => regex.is_match(name),
        }
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Wildcard(a), Self::Wildcard(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
            Self::Regex(regex) => write!(f, "~{}", regex.as_str()),
        }
    }
}

fn parse_regex(pattern: &str) -> Result<NamePattern, String> {
    if pattern.is_empty() {
        return Err("the regular expression behind ~ is missing".into());
    }
    match RegexBuilder::new(pattern).size_limit(REGEX_SIZE_MAX).build() {
        Ok(regex) => Ok(NamePattern::Regex(regex)),
        Err(regex::Error::CompiledTooBig(_)) => Err("the regular expression is too large".into()),
        // The last line of the crate's message says what; the lines before draw the place.
        Err(err) => {
            let text = err.to_string();
            let last = text.lines().last().unwrap_or_default();
            Err(format!("bad regular expression: {}", last.trim_start_matches("error: ")))
        }
    }
}

/// Reads a host name and normalises it: lower case, no trailing dot.
///
/// Labels are letters, digits and hyphens (RFC 5890 section 2.3.1), and underscores and hyphens anywhere, since such names are in use.
///
/// # Errors
/// What is wrong with the text, as a sentence for the user.
pub fn parse_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    // A file may hold a million names: one look at each byte is enough for those that are right.
    if is_name(name.as_bytes()) {
        return Ok(name.to_ascii_lowercase());
    }
    if name.is_empty() {
        return Err("must not be empty".into());
    }
    if !name.is_ascii() {
        return Err("names go over the wire in ASCII: write this one in punycode (xn--…, RFC 3492)".into());
    }
    if name == "*" {
        return Err(
            "\"*\" alone is not a pattern: for every other name, set default-backend or on-unknown-name"
                .into(),
        );
    }
    if name.contains('*') {
        return Err("\"*\" may only stand for the first labels, as in \"*.example.com\"".into());
    }
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if address.parse::<IpAddr>().is_ok() {
        return Err("is an address: clients name hosts only (RFC 6066 section 3)".into());
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        return Err(match bad {
            ':' => "is a name without a port: the port is the frontend's".into(),
            _ => format!("\"{}\" may not stand in a name", bad.escape_default()),
        });
    }
    if name.len() > HOST_NAME_MAX {
        return Err(format!("is longer than {HOST_NAME_MAX} characters"));
    }
    check_labels(name)?;
    Ok(name.to_ascii_lowercase())
}

/// Reads the name of a host or a service that is asked of DNS, and normalises it as [`parse_name`] does.
///
/// # Errors
/// What is wrong with the text, as a sentence for the user.
pub(super) fn parse_host(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.contains('*') {
        return Err("\"*\" may not stand in the name of a host".into());
    }
    if name
        .rsplit('.')
        .next()
        .is_some_and(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err("is neither an address nor a name: no name ends in a number".into());
    }
    parse_name(text)
}

/// What [`parse_name`] allows, without the reasons.
fn is_name(name: &[u8]) -> bool {
    let (mut label_len, mut is_number) = (0, true);
    for &byte in name {
        if byte == b'.' {
            if label_len == 0 {
                return false;
            }
            (label_len, is_number) = (0, true);
            continue;
        }
        label_len += 1;
        is_number &= byte.is_ascii_digit();
        let is_allowed = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !is_allowed || label_len > HOST_LABEL_MAX {
            return false;
        }
    }
    name.len() <= HOST_NAME_MAX && label_len > 0 && !is_number
}

fn check_labels(name: &str) -> Result<(), String> {
    if name.split('.').any(str::is_empty) {
        return Err("has an empty label: one dot between labels, none in front".into());
    }
    if name.split('.').any(|label| label.len() > HOST_LABEL_MAX) {
        return Err(format!("has a label of more than {HOST_LABEL_MAX} characters"));
    }
    // Such a name is an IPv4 address to every client, if a broken one (WHATWG URL standard, "ends in a number checker").
    if name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        return Err("ends in a number, as addresses do: clients name hosts only (RFC 6066 section 3)".into());
    }
    Ok(())
}

/// Reads the name of a frontend, backend or server.
pub(super) fn parse_own_name(value: &Value<'_, '_>, name: &str) -> Option<Arc<str>> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(is_allowed) {
        value.error(format!("names are 1 to {NAME_MAX} letters, digits, \"-\", \"_\" and \".\""));
        return None;
    }
    if name == Policy::REJECT {
        value.error("is what policies call closing a connection: choose another name");
        return None;
    }
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::prelude::hello::{self, HelloLimits, HelloOutcome};

    /// A ClientHello (RFC 8446 section 4.1.2) in one record, with nothing but this server name (RFC 6066 section 3).
    fn hello(name: &[u8]) -> Vec<u8> {
        let behind_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
        let list = behind_length(&[&[0], &behind_length(name)[..]].concat());
        let extensions = behind_length(&[&[0, 0], &behind_length(&list)[..]].concat());
        let body = [&[3, 3], &[7; 32][..], &[0, 0, 2, 0x13, 1, 1, 0], &extensions].concat();
        let handshake = [&[1, 0], &behind_length(&body)[..]].concat();
        [&[22, 3, 1], &behind_length(&handshake)[..]].concat()
    }

    /// The name of a ClientHello as routes see it.
    fn asked(name: &str) -> Option<String> {
        let limits = HelloLimits { handshake_max: 1 << 14, wire_max: 1 << 15 };
        match hello::parse(&hello(name.as_bytes()), limits, &mut Vec::new()) {
            HelloOutcome::Complete(hello) => hello.server_name,
            _ => None,
        }
    }

    /// Names, and what is almost one: near the bounds of lengths, with digits, dots and characters out of place.
    fn almost_names() -> impl Strategy<Value = String> {
        let label = prop_oneof![
            8 => "[a-zA-Z0-9_-]{1,8}",
            2 => "[0-9]{1,3}",
            2 => "[a-z]{62,64}",
            1 => "[a-z.*:\\[\\] é\\x00-\\x7f]{0,3}",
        ];
        (prop::collection::vec(label, 0..6), "\\.{0,2}").prop_map(|(labels, end)| labels.join(".") + &end)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The grammar stands here, where it explains itself, and in the ClientHello's parser, where it must be quick.
        #[test]
        fn a_configured_name_is_one_that_clients_can_ask_for(name in almost_names()) {
            prop_assert_eq!(parse_name(&name).ok(), asked(&name), "{}", name.escape_debug());
            let without_dot = name.strip_suffix('.').unwrap_or(&name);
            prop_assert_eq!(is_name(without_dot.as_bytes()), parse_name(&name).is_ok(), "{}", name.escape_debug());
        }
    }

    #[test]
    fn names_are_normalised() {
        let check = |text: &str, expected: &str| {
            assert_eq!(NamePattern::parse(text).map(|p| p.to_string()), Ok(expected.into()), "{text}");
        };
        check("www.Example.COM", "www.example.com");
        check("www.example.", "www.example");
        check("localhost", "localhost");
        check("_acme-challenge.example", "_acme-challenge.example");
        check("-edge-.example", "-edge-.example");
        check("xn--bcher-kva.example", "xn--bcher-kva.example");
        check("*.Example.com", "*.example.com");
        check("~^[a-z]+\\.Example$", "~^[a-z]+\\.Example$");
    }

    #[test]
    fn patterns_match_whole_labels() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(NamePattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        };
        check("a.example", "a.example", true);
        check("a.example", "b.a.example", false);
        check("*.example", "a.example", true);
        check("*.example", "b.a.example", true);
        check("*.example", "example", false);
        check("*.example", ".example", false);
        check("~^a", "a.example", true);
        check("~^b", "a.example", false);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, part: &str| {
            let message = NamePattern::parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("", "must not be empty");
        check(".", "must not be empty");
        check("*.", "must not be empty");
        check("bücher.example", "punycode");
        check("*", "default-backend");
        check("*a.example", "first labels");
        check("a.*.example", "first labels");
        check("*.*.example", "first labels");
        check("10.0.0.1", "is an address");
        check("::1", "is an address");
        check("[::1]", "is an address");
        check("1.2.3", "ends in a number");
        check("a.example:443", "without a port");
        check("https://a.example", "without a port");
        check("a b.example", "\" \" may not stand");
        check("a\nb", "\"\\n\" may not stand");
        check("a..example", "empty label");
        check(".example", "empty label");
        check(&"a".repeat(64), "more than 63");
        check(&format!("{}aa", "a.".repeat(126)), "longer than 253");
        check("~", "missing");
        check("~(a", "unclosed group");
        check("~(?:a{1000}){1000}", "too large");
    }
}
