// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a line looks like. Pure: a record in, bytes out.
//!
//! Whatever a client sent is clipped and escaped so that a line is one line of printable ASCII, in every format.

mod json;
mod tcplog;

use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Record;
use crate::config::LogFormat;

/// Most bytes of one text that a client chose; what follows is replaced by `...`. A host name has at most 253.
const TEXT_MAX: usize = 256;

/// Makes lines of records.
#[derive(Debug)]
pub(super) struct Formatter {
    format: LogFormat,
    /// For the formats that show local time.
    zone: TimeZone,
}

impl Formatter {
    /// A formatter for the system's time zone (TZ, else /etc/localtime).
    pub(super) fn new(format: LogFormat) -> Self {
        Self::with_zone(format, TimeZone::system())
    }

    /// A formatter for a time zone.
    pub(super) fn with_zone(format: LogFormat, zone: TimeZone) -> Self {
        Self { format, zone }
    }

    /// Appends the line of a record, without a line feed.
    pub(super) fn append(&self, record: &Record, line: &mut Vec<u8>) {
        match self.format {
            LogFormat::Json => json::append(record, line),
            LogFormat::Tcplog => tcplog::append(record, &self.zone, line),
        }
    }

    /// The time zone of the formats that show local time.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

/// A point in time as jiff has it; the epoch, should the clock be outside the years -9999 to 9999.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An address as its owner knows it: an IPv4 client of an IPv6 socket (RFC 4291 section 2.5.5.2) is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => (ip, v6.port()).into(),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// At most [`TEXT_MAX`] bytes of a text that a client chose.
struct Clipped<'a>(&'a str);

impl fmt::Display for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= TEXT_MAX {
            return f.write_str(self.0);
        }
        f.write_str(&self.0[..self.0.floor_char_boundary(TEXT_MAX)])?;
        f.write_str("...")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let check = |address: &str, expected: &str| {
            assert_eq!(canonical(address.parse().unwrap()).to_string(), expected);
        };
        check("[::ffff:192.0.2.7]:443", "192.0.2.7:443");
        check("[2001:db8::1]:443", "[2001:db8::1]:443");
        check("[::192.0.2.7]:443", "[::c000:207]:443");
        check("192.0.2.7:443", "192.0.2.7:443");
    }

    #[test]
    fn long_texts_are_clipped_between_characters() {
        assert_eq!(Clipped(&"a".repeat(TEXT_MAX)).to_string(), "a".repeat(TEXT_MAX));
        assert_eq!(Clipped(&"a".repeat(TEXT_MAX + 1)).to_string(), "a".repeat(TEXT_MAX) + "...");
        assert_eq!(Clipped(&format!("a{}", "é".repeat(TEXT_MAX))).to_string().len(), TEXT_MAX - 1 + 3);
    }
}
