// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a line looks like. Pure: a record in, bytes out.
//!
//! A record holds short texts only. Whatever a client sent is escaped so that a line is one line of printable ASCII, in every format.

mod json;
mod tcplog;

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Record;
use crate::config::LogFormat;

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
        record.append_line(self.format, &self.zone, line);
    }

    /// The time zone of the formats that show local time.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }
}

impl Record {
    /// Appends the line of this connection, without a line feed. `zone` is for the formats that show local time.
    pub fn append_line(&self, format: LogFormat, zone: &TimeZone, line: &mut Vec<u8>) {
        match format {
            LogFormat::Json => json::append(self, line),
            LogFormat::Tcplog => tcplog::append(self, zone, line),
        }
    }
}

/// A point in time as jiff has it; the epoch, should the clock be outside the years -9999 to 9999.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}
