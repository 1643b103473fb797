// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines of the access log.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use lb::config::LogFormat;
use lb::observe::access_log::Record;
use lb_common::reason::{CloseReason, PathKind};

use super::Case;

/// Rounds that callgrind sees.
const ROUNDS: u64 = 1024;

pub(super) fn cases() -> Vec<Case> {
    vec![case("log/json", LogFormat::Json), case("log/tcplog", LogFormat::Tcplog)]
}

fn case(name: &str, format: LogFormat) -> Case {
    // A zone with rules that no file of the machine says.
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a rule as in POSIX");
    let record = record();
    let mut line = Vec::new();
    Case::new(name, ROUNDS, move || {
        line.clear();
        black_box(&record).append_line(format, &zone, &mut line);
        black_box(&line);
    })
}

/// A connection that went well.
fn record() -> Record {
    Record {
        id: 1_234_567,
        accepted_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123),
        client: ([198, 51, 100, 7], 50123).into(),
        local: ([203, 0, 113, 1], 443).into(),
        proxied: None,
        frontend: "https".into(),
        sni: Some("www.shop.example".into()),
        alpn: "h2,http/1.1".into(),
        has_ech: false,
        hello_exception: None,
        backend: Some("web".into()),
        server: Some("web-1".into()),
        server_address: Some(([172, 24, 0, 3], 443).into()),
        path: Some(PathKind::Splice),
        hello_time: Some(Duration::from_micros(1_512)),
        queued: None,
        connect_time: Some(Duration::from_micros(257)),
        total_time: Duration::from_micros(61_002_345),
        received_bytes: 1_234,
        sent_bytes: 567_890,
        retries: 0,
        is_redispatched: false,
        close: CloseReason::Finished,
        is_server_silent: false,
        translated: None,
        counts: [9, 8, 7, 6],
    }
}
