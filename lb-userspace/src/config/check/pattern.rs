// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes and regular expressions that answers are compared with.

use regex::bytes::RegexBuilder;

use super::super::BytePattern;
use super::super::limits::CHECK_BYTES_MAX;
use super::super::value::Value;

/// Largest compiled regular expression, in bytes.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// Takes bytes if there are some and not too many.
pub(super) fn bytes(value: &Value<'_, '_>, bytes: Vec<u8>) -> Option<Vec<u8>> {
    if bytes.is_empty() || bytes.len() > CHECK_BYTES_MAX {
        value.error(format!("must be 1 to {CHECK_BYTES_MAX} bytes"));
        return None;
    }
    Some(bytes)
}

/// Reads pairs of hexadecimal digits, with white space between them if wanted.
pub(super) fn hex(value: &Value<'_, '_>) -> Option<Vec<u8>> {
    let digits: Vec<u8> = value.string()?.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let Some(decoded) = digits.chunks(2).map(pair).collect() else {
        value.error("must be pairs of hexadecimal digits, such as \"00 00 00 08 04 d2 16 2f\"");
        return None;
    };
    bytes(value, decoded)
}

/// Reads a regular expression over bytes (syntax of the regex crate, flag u off).
pub(super) fn regex(value: &Value<'_, '_>, text: &str) -> Option<BytePattern> {
    if text.is_empty() || text.len() > CHECK_BYTES_MAX {
        value.error(format!("must be a regular expression of 1 to {CHECK_BYTES_MAX} bytes"));
        return None;
    }
    match RegexBuilder::new(text).unicode(false).size_limit(REGEX_SIZE_MAX).build() {
        Ok(regex) => Some(BytePattern::Regex(regex)),
        Err(regex::Error::CompiledTooBig(_)) => {
            value.error("the regular expression is too large");
            None
        }
        // The last line of the crate's message says what; the lines before draw the place.
        Err(err) => {
            let text = err.to_string();
            let last = text.lines().last().unwrap_or_default();
            value.error(format!("bad regular expression: {}", last.trim_start_matches("error: ")));
            None
        }
    }
}
