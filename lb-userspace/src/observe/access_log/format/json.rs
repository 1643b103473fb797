// SPDX-License-Identifier: MIT OR Apache-2.0
//! Format `json`: one object a line, ASCII alone.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::slice::EscapeAscii;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::ser::{Formatter, Serializer as JsonSerializer};

use super::super::Record;
use super::timestamp;
use crate::net::canonical;

/// The object. Fields that do not apply are absent.
#[derive(Serialize)]
struct Line<'a> {
    /// When it was accepted, RFC 3339, UTC.
    time: Shown<String>,
    id: u64,
    client: Shown<SocketAddr>,
    local: Shown<SocketAddr>,
    /// Absent where the client itself is the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Shown<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_id: Option<Shown<EscapeAscii<'a>>>,
    frontend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<&'a str>,
    /// Absent where no ClientHello was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    ech: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_exception: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_address: Option<Shown<SocketAddr>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_ms: Option<f64>,
    /// Absent where it did not wait for a place on a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    /// The shortest that was measured, on path `packet` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_rtt_min_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_rtt_min_ms: Option<f64>,
    total_ms: f64,
    received_bytes: u64,
    sent_bytes: u64,
    retries: u32,
    redispatched: bool,
    close: &'a str,
    termination: &'a str,
}

/// Appends the object of a record.
pub(super) fn append(record: &Record, line: &mut Vec<u8>) {
    let proxied = record.proxied.as_deref();
    let [client_rtt, server_rtt] =
        record.translated.as_ref().map_or([None; 2], |translated| translated.round_trips);
    let object = Line {
        time: Shown(format!("{:.3}", timestamp(record.accepted_at))),
        id: record.id,
        client: Shown(canonical(record.client)),
        local: Shown(canonical(record.local)),
        peer: proxied.and_then(|proxied| proxied.peer).map(|peer| Shown(canonical(peer))),
        unique_id: proxied
            .and_then(|proxied| proxied.unique_id.as_deref())
            .map(|id| Shown(id.escape_ascii())),
        frontend: &record.frontend,
        sni: record.sni.as_deref(),
        alpn: Some(&*record.alpn).filter(|names| !names.is_empty()),
        ech: record.hello_time.map(|_| record.has_ech),
        hello_exception: record.hello_exception.map(|reason| reason.label()),
        backend: record.backend.as_deref(),
        server: record.server.as_deref(),
        server_address: record.server_address.map(|address| Shown(canonical(address))),
        path: record.path.map(|path| path.label()),
        hello_ms: record.hello_time.map(milliseconds),
        queue_ms: record.queued.map(|queued| milliseconds(queued.duration)),
        connect_ms: record.connect_time.map(milliseconds),
        client_rtt_min_ms: client_rtt.map(milliseconds),
        server_rtt_min_ms: server_rtt.map(milliseconds),
        total_ms: milliseconds(record.total_time),
        received_bytes: record.received_bytes,
        sent_bytes: record.sent_bytes,
        retries: record.retries,
        redispatched: record.is_redispatched,
        close: record.close.label(),
        termination: record.close.termination_state(record.is_server_silent),
    };
    object
        .serialize(&mut JsonSerializer::with_formatter(line, Ascii))
        .expect("a Vec takes every byte and the object has no map keys that are not text");
}

/// Milliseconds with microseconds behind the point.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A value that is written as the text it displays.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Compact JSON that escapes what is not printable ASCII (RFC 8259 section 7), not only what it must: a terminal or an old
/// log viewer shall not interpret bytes that a client chose.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // Nearly every text is plain, and bytes are looked at faster than characters.
        if fragment.bytes().all(|byte| byte < b'\x7f') {
            return writer.write_all(fragment.as_bytes());
        }
        for run in fragment.split_inclusive(is_escaped) {
            let plain = run.trim_end_matches(is_escaped);
            writer.write_all(plain.as_bytes())?;
            for unit in run[plain.len()..].encode_utf16() {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

/// DEL and non-ASCII; serde_json itself escapes the other control characters, quotes and backslashes.
fn is_escaped(character: char) -> bool {
    !character.is_ascii() || character == '\x7f'
}

#[cfg(test)]
mod tests {
    use super::super::super::Proxied;
    use super::super::super::tests::{failed_record, hostile_record, record};
    use super::*;

    fn check(record: &Record, expected: &str) {
        let mut line = Vec::new();
        append(record, &mut line);
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn a_finished_connection() {
        check(
            &record(),
            "{\"time\":\"2026-10-05T07:08:09.123Z\",\"id\":42,\"client\":\"198.51.100.7:50123\",\"local\":\"203.0.113.1:443\",\
             \"frontend\":\"https\",\"sni\":\"www.example\",\"alpn\":\"h2,http/1.1\",\"ech\":false,\"backend\":\"web\",\
             \"server\":\"web-1\",\"server_address\":\"172.24.0.3:443\",\"path\":\"splice\",\"hello_ms\":1.5,\
             \"connect_ms\":0.25,\"total_ms\":61002.0,\"received_bytes\":1234,\"sent_bytes\":567890,\"retries\":0,\
             \"redispatched\":false,\"close\":\"finished\",\"termination\":\"--\"}",
        );
    }

    #[test]
    fn what_does_not_apply_is_absent() {
        check(
            &failed_record(),
            "{\"time\":\"2026-10-05T07:08:09.123Z\",\"id\":43,\"client\":\"[2001:db8::7]:50123\",\
             \"local\":\"[2001:db8::1]:443\",\"frontend\":\"https\",\"hello_exception\":\"timeout\",\"total_ms\":5000.001,\
             \"received_bytes\":0,\"sent_bytes\":0,\"retries\":2,\"redispatched\":true,\"close\":\"hello-rejected\",\
             \"termination\":\"PR\"}",
        );
    }

    #[test]
    fn a_proxy_in_front_and_an_identity_are_shown() {
        let proxied = Proxied {
            peer: Some("[::ffff:192.0.2.9]:7".parse().unwrap()),
            unique_id: Some(b"id \"7\"\\\xff\n"[..].into()),
        };
        let mut line = Vec::new();
        append(&Record { proxied: Some(Box::new(proxied)), ..record() }, &mut line);
        let object: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            (&object["peer"], &object["client"]),
            (&"192.0.2.9:7".into(), &"198.51.100.7:50123".into())
        );
        assert_eq!(object["unique_id"], r#"id \"7\"\\\xff\n"#);
    }

    #[test]
    fn a_hostile_name_stays_one_ascii_text() {
        let mut line = Vec::new();
        append(&hostile_record(), &mut line);
        let line = String::from_utf8(line).unwrap();
        let expected = r#""sni":"a\n\u001b[2J\"\\\u007f \u00e9\ud83d\udc80.example","alpn":"h2\r\n\u0000""#;
        assert!(line.contains(expected), "{line}");
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["sni"], hostile_record().sni.unwrap());
    }
}
