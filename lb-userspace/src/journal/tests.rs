// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a journal keeps, and for how long.

use prometheus_client::metrics::counter::Counter;

use super::*;
use crate::config;
use crate::frontend::{Gate, testing};
use crate::prelude::hello::testing::{ALPN, len16, message, records};
use crate::prelude::hello::{HelloLimits, HelloOutcome, parse};

/// The record lives as long as the connection, and then in the log's queue.
#[test]
fn a_hello_full_of_protocols_leaves_a_short_record() {
    let names: Vec<u8> = [&[255][..], &[0x80; 255]].concat().repeat(63);
    let wire = records(&message(ALPN, &[&len16(&names)[..], &names].concat()), 1 << 14);
    assert!(wire.len() > 16_000);
    let limits = HelloLimits { handshake_max: 16 << 10, wire_max: 64 << 10 };
    let HelloOutcome::Complete(hello) = parse(&wire, limits, &mut Vec::new()) else {
        panic!("no hello");
    };
    let mut journal = journal();
    journal.note_hello(hello);
    let alpn = &journal.hello.as_ref().expect("noted").alpn;
    assert!(alpn.len() <= ALPN_TEXT_MAX && alpn.capacity() <= 2 * ALPN_TEXT_MAX, "{}", alpn.capacity());
    assert_eq!(*alpn, r"\x80".repeat((ALPN_TEXT_MAX - 3) / 4) + "...");
}

#[test]
fn a_hello_without_protocols_leaves_no_text() {
    let mut journal = journal();
    journal.note_hello(ClientHello::default());
    assert_eq!(journal.hello.as_ref().expect("noted").alpn, "");
}

fn journal() -> Journal {
    let (process, frontend) = (Arc::new(Gate::new(1)), Arc::new(testing::frontend()));
    let permit = Permit::take(&process, &frontend).expect("an empty gate");
    let off = config::Log {
        format: config::LogFormat::Json,
        target: config::LogTarget::Off,
        level: config::LogLevel::Info,
    };
    let log = AccessLog::start(&off, Counter::default()).expect("no log");
    let address = "192.0.2.1:443".parse().expect("an address");
    Journal::new(permit, address, address, log)
}
