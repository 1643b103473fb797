// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log as a whole, on real targets; and the records that the tests of its parts share.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use super::*;
use crate::config::{LogFormat, LogLevel, LogTarget};

/// A connection that went well.
pub(super) fn record() -> Record {
    let accepted_at: Timestamp = "2026-10-05T07:08:09.123456Z".parse().unwrap();
    Record {
        id: 42,
        accepted_at: accepted_at.into(),
        client: "[::ffff:198.51.100.7]:50123".parse().unwrap(),
        local: "[::ffff:203.0.113.1]:443".parse().unwrap(),
        proxied: None,
        frontend: "https".into(),
        sni: Some("www.example".into()),
        alpn: "h2,http/1.1".into(),
        has_ech: false,
        hello_exception: None,
        backend: Some("web".into()),
        server: Some("web-1".into()),
        server_address: Some("172.24.0.3:443".parse().unwrap()),
        path: Some(PathKind::Splice),
        hello_time: Some(Duration::from_micros(1500)),
        queued: None,
        connect_time: Some(Duration::from_micros(250)),
        total_time: Duration::from_millis(61_002),
        received_bytes: 1234,
        sent_bytes: 567_890,
        retries: 0,
        is_redispatched: false,
        close: CloseReason::Finished,
        is_server_silent: false,
        translated: None,
        counts: [9, 8, 7, 6],
    }
}

/// A connection that came to nothing.
pub(super) fn failed_record() -> Record {
    Record {
        id: 43,
        client: "[2001:db8::7]:50123".parse().unwrap(),
        local: "[2001:db8::1]:443".parse().unwrap(),
        proxied: None,
        sni: None,
        alpn: String::new(),
        hello_exception: Some(HelloReason::Timeout),
        backend: None,
        server: None,
        server_address: None,
        path: None,
        hello_time: None,
        connect_time: None,
        total_time: Duration::from_micros(5_000_001),
        received_bytes: 0,
        sent_bytes: 0,
        retries: 2,
        is_redispatched: true,
        close: CloseReason::HelloRejected,
        is_server_silent: false,
        translated: None,
        counts: [1, 1, 0, 0],
        ..record()
    }
}

/// A connection whose client would like to write lines of its own, or to command the reader's terminal.
pub(super) fn hostile_record() -> Record {
    Record { sni: Some("a\n\x1b[2J\"\\\x7f é\u{1f480}.example".into()), alpn: "h2\r\n\0".into(), ..record() }
}

fn start(target: LogTarget, dropped: &Counter) -> AccessLog {
    let settings = Log { format: LogFormat::Json, target, level: LogLevel::Info };
    AccessLog::start(&settings, dropped.clone()).unwrap()
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn every_line_reaches_the_file_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let dropped = Counter::default();
    let log = start(LogTarget::File(path.clone()), &dropped);
    for id in 0..5000 {
        log.clone().log(Record { id, ..hostile_record() });
    }
    assert_eq!(log.flush(Duration::from_secs(30)), 0);
    let text = fs::read_to_string(&path).unwrap();
    let ids =
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_u64());
    assert!(ids.eq((0..5000).map(Some)));
    assert_eq!(dropped.get(), 0);
}

/// What the end of an agent with so many connections is to its log.
#[test]
fn a_burst_at_the_end_reaches_the_file() {
    const CONNECTIONS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let dropped = Counter::default();
    let log = start(LogTarget::File(path.clone()), &dropped);
    log.hurry(Duration::from_secs(60));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..CONNECTIONS / 4).for_each(|_| log.log(record())));
        }
    });
    assert_eq!(log.flush(Duration::from_secs(60)), 0);
    assert_eq!((lines(&path), dropped.get()), (CONNECTIONS, 0));
}

#[test]
fn a_rotated_file_is_left_and_a_new_one_begun() {
    let directory = tempfile::tempdir().unwrap();
    let (path, rotated) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
    let log = start(LogTarget::File(path.clone()), &Counter::default());
    log.log(record());
    assert_eq!(log.flush(Duration::from_secs(30)), 0);
    fs::rename(&path, &rotated).unwrap();
    log.reopen();
    log.log(record());
    log.log(record());
    assert_eq!(log.flush(Duration::from_secs(30)), 0);
    assert_eq!((lines(&rotated), lines(&path)), (1, 2));
}

#[test]
fn a_full_disk_is_counted() {
    let dropped = Counter::default();
    let log = start(LogTarget::File("/dev/full".into()), &dropped);
    for _ in 0..100 {
        log.log(record());
    }
    assert!(log.flush(Duration::from_secs(30)) < 100, "the first loss is warned about at once");
    assert_eq!(dropped.get(), 100);
}

#[test]
fn a_blocked_pipe_blocks_nobody_and_loses_only_what_is_counted() {
    const RECORDS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let reader = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
    let dropped = Counter::default();
    let log = start(LogTarget::File(path), &dropped);

    let begun = Instant::now();
    for _ in 0..RECORDS {
        log.log(record());
    }
    let missing = log.flush(Duration::from_millis(100));
    assert!(begun.elapsed() < Duration::from_secs(10), "a producer or the flush waited for the reader");
    let lost = usize::try_from(dropped.get()).unwrap();
    assert!((1..=RECORDS as u64).contains(&missing), "{missing}");
    // One queue, at most one batch, and what fits into the pipe is all that can be on its way.
    assert!((RECORDS - 2 * queue::CAPACITY - 1000..RECORDS).contains(&lost), "{lost}");

    rustix::io::ioctl_fionbio(&reader, false).unwrap();
    drop(log);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count() + lost, RECORDS, "the thread writes the rest and ends");
    assert!(text.lines().all(|line| line.starts_with('{') && line.ends_with('}')));
}

#[test]
fn off_is_nowhere() {
    let dropped = Counter::default();
    let log = start(LogTarget::Off, &dropped);
    log.log(record());
    log.reopen();
    log.hurry(Duration::from_secs(60));
    assert_eq!(log.flush(Duration::from_secs(60)), 0);
    assert!(log.handle.is_none());
    assert_eq!(dropped.get(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let settings = Log {
        format: LogFormat::Json,
        target: LogTarget::File("/nonexistent/access.log".into()),
        level: LogLevel::Info,
    };
    let error = AccessLog::start(&settings, Counter::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with("cannot open log file /nonexistent/access.log: "));
}
