// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names: of servers on the network (patterns of routes), and of things in the configuration.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::limits::HOST_NAME_MAX;
use regex::RegexBuilder;

use super::limits::NAME_MAX;
use super::value::Value;
use super::{NamePattern, Policy};

/// Longest label of a host name, in bytes (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 63;

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

fn check_labels(name: &str) -> Result<(), String> {
    if name.split('.').any(str::is_empty) {
        return Err("has an empty label: one dot between labels, none in front".into());
    }
    if name.split('.').any(|label| label.len() > LABEL_MAX) {
        return Err(format!("has a label of more than {LABEL_MAX} characters"));
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
    use super::*;

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
