// SPDX-License-Identifier: MIT OR Apache-2.0
//! Format `tcplog`: HAProxy's `option tcplog` (HAProxy configuration manual, sections 8.2.2 and 8.2.4), followed by fields that
//! HAProxy's line has no place for:
//!
//! ```text
//! %ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq sni= path= close= up=
//! ```
//!
//! At the end come ` peer=`, if the client came through a proxy, and ` unique_id=`, if the connection has one.
//!
//! What never happens here reads as HAProxy prints it then: servers have no queues of their own, so `%sq` is 0.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::super::{Proxied, Record};
use super::timestamp;
use crate::net::canonical;

/// Appends the line of a record.
pub(super) fn append(record: &Record, zone: &TimeZone, line: &mut Vec<u8>) {
    let client = canonical(record.client);
    let accepted_at = timestamp(record.accepted_at).to_zoned(zone.clone()).strftime("%d/%b/%Y:%H:%M:%S%.3f");
    put(line, format_args!("{}:{} [{accepted_at}] ", client.ip(), client.port()));
    put_word(line, &record.frontend);
    line.push(b' ');
    // As in HAProxy, the frontend stands for itself where no backend was chosen.
    put_word(line, record.backend.as_deref().unwrap_or(&record.frontend));
    line.push(b'/');
    match &record.server {
        Some(server) => put_word(line, server),
        None => line.extend_from_slice(b"<NOSRV>"),
    }
    let (queue_ms, position) = match record.queued {
        Some(queued) => (whole_milliseconds(queued.duration), queued.position),
        None if record.server.is_some() => (0, 0),
        None => (-1, 0),
    };
    let connect_ms = record.connect_time.map_or(-1, whole_milliseconds);
    let total_ms = whole_milliseconds(record.total_time);
    let [process, frontend, backend, server] = record.counts;
    let redispatched = if record.is_redispatched { "+" } else { "" };
    put(
        line,
        format_args!(
            " {queue_ms}/{connect_ms}/{total_ms} {} {} {process}/{frontend}/{backend}/{server}/{redispatched}{} 0/{position}",
            record.sent_bytes,
            record.close.termination_state(record.is_server_silent),
            record.retries,
        ),
    );
    line.extend_from_slice(b" sni=");
    put_optional_word(line, record.sni.as_deref());
    line.extend_from_slice(b" path=");
    put_optional_word(line, record.path);
    put(line, format_args!(" close={} up={}", record.close, record.received_bytes));
    if let Some(proxied) = record.proxied.as_deref() {
        put_proxied(line, proxied);
    }
}

/// What PROXY headers add, where they do.
fn put_proxied(line: &mut Vec<u8>, Proxied { peer, unique_id }: &Proxied) {
    if let Some(peer) = peer.map(canonical) {
        put(line, format_args!(" peer={}:{}", peer.ip(), peer.port()));
    }
    if let Some(id) = unique_id {
        line.extend_from_slice(b" unique_id=");
        id.iter().for_each(|&byte| put_byte(line, byte));
    }
}

fn whole_milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn put(line: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a Vec takes every byte");
}

/// A word, or `-` for none. A word that is itself `-` is escaped, so that it cannot be taken for none.
fn put_optional_word<W: Display>(line: &mut Vec<u8>, word: Option<W>) {
    match word.map(|word| word.to_string()) {
        None => line.push(b'-'),
        Some(word) if word == "-" => line.extend_from_slice(b"\\x2d"),
        Some(word) => put_word(line, &word),
    }
}

/// A word that stays one word: bytes that are not graphic ASCII, quotes and backslashes become `\xHH`.
fn put_word(line: &mut Vec<u8>, word: &str) {
    word.bytes().for_each(|byte| put_byte(line, byte));
}

fn put_byte(line: &mut Vec<u8>, byte: u8) {
    if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\') {
        line.push(byte);
    } else {
        put(line, format_args!("\\x{byte:02x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{failed_record, hostile_record, record};
    use super::*;

    fn line(record: &Record, zone: &TimeZone) -> String {
        let mut line = Vec::new();
        append(record, zone, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_finished_connection() {
        assert_eq!(
            line(&record(), &TimeZone::UTC),
            "198.51.100.7:50123 [05/Oct/2026:07:08:09.123] https web/web-1 0/0/61002 567890 -- 9/8/7/6/0 0/0 \
             sni=www.example path=splice close=finished up=1234"
        );
    }

    #[test]
    fn a_connection_that_waited() {
        let queued =
            Some(super::super::super::Queued { duration: Duration::from_micros(12_900), position: 3 });
        let waited = line(&Record { queued, ..record() }, &TimeZone::UTC);
        assert!(waited.contains(" https web/web-1 12/0/61002 567890 -- 9/8/7/6/0 0/3 sni="), "{waited}");
        let gone = Record { queued, server: None, connect_time: None, ..record() };
        let gone = line(&gone, &TimeZone::UTC);
        assert!(gone.contains(" https web/<NOSRV> 12/-1/61002 "), "{gone}");
    }

    #[test]
    fn a_rejected_connection_in_local_time() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(
            line(&failed_record(), &zone),
            "2001:db8::7:50123 [05/Oct/2026:09:08:09.123] https https/<NOSRV> -1/-1/5000 0 PR 1/1/0/0/+2 0/0 \
             sni=- path=- close=hello-rejected up=0"
        );
    }

    #[test]
    fn a_failed_connect_names_the_last_server() {
        let record = Record {
            close: lb_common::reason::CloseReason::ConnectTimeout,
            connect_time: None,
            path: None,
            sni: Some("-".into()),
            ..record()
        };
        assert_eq!(
            line(&record, &TimeZone::UTC),
            "198.51.100.7:50123 [05/Oct/2026:07:08:09.123] https web/web-1 0/-1/61002 567890 sC 9/8/7/6/0 0/0 \
             sni=\\x2d path=- close=connect-timeout up=1234"
        );
    }

    #[test]
    fn a_proxy_in_front_and_an_identity_are_shown() {
        let with =
            |proxied: Proxied| line(&Record { proxied: Some(Box::new(proxied)), ..record() }, &TimeZone::UTC);
        let peer = Some("[2001:db8::9]:7".parse().unwrap());
        let both = with(Proxied { peer, unique_id: Some(b"id 7\\\xff"[..].into()) });
        assert!(both.ends_with(r" up=1234 peer=2001:db8::9:7 unique_id=id\x207\x5c\xff"), "{both}");
        let one = with(Proxied { peer: None, unique_id: Some(b"7"[..].into()) });
        assert!(one.ends_with(" up=1234 unique_id=7"), "{one}");
    }

    #[test]
    fn a_hostile_name_stays_one_word() {
        let line = line(&hostile_record(), &TimeZone::UTC);
        let expected = r" sni=a\x0a\x1b[2J\x22\x5c\x7f\x20\xc3\xa9\xf0\x9f\x92\x80.example path=";
        assert!(line.contains(expected), "{line}");
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
    }
}
