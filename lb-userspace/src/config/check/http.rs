// SPDX-License-Identifier: MIT OR Apache-2.0
//! The request of types `http` and `https`, and the answer that is expected.

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use toml::de::DeValue;

use super::super::limits::CHECK_HEADERS_MAX;
use super::super::reader::Reader;
use super::super::value::Value;
use super::super::{BytePattern, Probe};
use super::Kind;
use super::pattern;

/// Status codes that count as success where the configuration does not say.
const EXPECT_DEFAULT: (u16, u16) = (200, 399);

/// Headers that say how the connection is used, and the one that has a key of its own.
const RESERVED: [&str; 5] = ["connection", "content-length", "transfer-encoding", "upgrade", "host"];

/// Reads the keys of a request, which only two types have.
pub(super) fn read(reader: &Reader<'_, '_>, kind: Option<Kind>) -> Option<Probe> {
    let is_http = matches!(kind, None | Some(Kind::Http | Kind::Https));
    let field = |key: &'static str| {
        let value = reader.own(key);
        if let (Some(value), false) = (&value, is_http) {
            value.error_with_others("only for types \"http\" and \"https\": no other sends a request");
        }
        value
    };
    let method = field("method").map_or(Some("GET".into()), |value| method(&value));
    let path = field("path").map_or(Some("/".into()), |value| path(&value));
    let host = match field("host") {
        Some(value) => host(&value).map(Some),
        None => Some(None),
    };
    let headers = field("headers").map_or(Some(Vec::new()), |value| headers(&value));
    let expect = field("expect").map_or(Some(vec![EXPECT_DEFAULT]), |value| expect(&value));
    let body = match field("expect-body") {
        Some(value) => body(&value).map(Some),
        None => Some(None),
    };
    let (method, path, host) = (method?, path?, host?);
    Some(Probe::Http { method, path, host, headers: headers?, expect: expect?, body: body? })
}

/// A table of names and values (RFC 9110 sections 5.1 and 5.5).
fn headers(value: &Value<'_, '_>) -> Option<Vec<(String, String)>> {
    let DeValue::Table(table) = value.get() else {
        value.error("must be a table such as { X-Probe = \"lb\" }");
        return None;
    };
    if table.len() > CHECK_HEADERS_MAX {
        value.error_without_text(format!("must be at most {CHECK_HEADERS_MAX} headers"));
        return None;
    }
    let headers: Vec<_> = value.entries(table).iter().map(|(name, value)| header(name, value)).collect();
    headers.into_iter().collect()
}

fn header(name: &str, value: &Value<'_, '_>) -> Option<(String, String)> {
    let text = value.string()?;
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        value.error("the key must be the name of a header: letters, digits and hyphens");
        return None;
    };
    if RESERVED.contains(&parsed.as_str()) {
        let instead = if parsed == "host" { "the key host sets it" } else { "checks set it themselves" };
        value.error(format!("cannot be set here: {instead}"));
        return None;
    }
    if HeaderValue::from_str(text).is_err() {
        value.error("must be visible ASCII and spaces");
        return None;
    }
    Some((parsed.as_str().into(), text.into()))
}

/// Text, or `~` and a regular expression.
fn body(value: &Value<'_, '_>) -> Option<BytePattern> {
    match value.string()?.strip_prefix('~') {
        Some(regex) => pattern::regex(value, regex),
        None => pattern::bytes(value, value.string()?.as_bytes().to_vec()).map(BytePattern::Bytes),
    }
}

/// A method is a token and case-sensitive (RFC 9110 sections 5.6.2 and 9.1).
fn method(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(is_token) {
        value.error("must be an HTTP method such as \"GET\"");
        return None;
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        value.error(format!("methods are case-sensitive: write \"{}\"", text.to_ascii_uppercase()));
        return None;
    }
    if text == "CONNECT" {
        value.error("CONNECT opens a tunnel and has no path");
        return None;
    }
    Some(text.into())
}

/// The request target in origin form (RFC 9112 section 3.2.1).
fn path(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    if !text.starts_with('/') {
        value.error("must begin with \"/\"");
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        value.error("must be visible ASCII without \"#\": percent-encode the rest (RFC 3986 section 2.1)");
        return None;
    }
    // What checks ask with is stricter about some characters, and has a longest path; it would not check at all.
    if text.parse::<Uri>().is_err() {
        value.error("cannot be asked for: percent-encode \"<\", \">\" and \"`\" (RFC 3986 section 2.1)");
        return None;
    }
    Some(text.into())
}

fn host(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    // What RFC 3986 section 3.2 allows in host and port; a full grammar would refuse what servers accept.
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%[]:".contains(&b);
    if text.is_empty() || !text.bytes().all(is_allowed) {
        value.error("must be a host name, and a port if it is not 80");
        return None;
    }
    Some(text.into())
}

/// Reads `200`, `"200-399"`, or an array of those.
fn expect(value: &Value<'_, '_>) -> Option<Vec<(u16, u16)>> {
    let ranges: Vec<_> = value.list().iter().map(status_range).collect();
    ranges.into_iter().collect::<Option<Vec<_>>>().filter(|ranges| !ranges.is_empty())
}

fn status_range(value: &Value<'_, '_>) -> Option<(u16, u16)> {
    let status = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let range = match value.get().as_str() {
        Some(text) => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            status(from.trim()).zip(status(to.trim())).filter(|(from, to)| from <= to)
        }
        None => value.integer().and_then(|code| status(&code.to_string())).map(|code| (code, code)),
    };
    if range.is_none() {
        value.error("must be a status between 100 and 599, such as 200, or a range, such as \"200-399\"");
    }
    range
}
