// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handshake message over TLS records (RFC 8446 section 5.1): where it ends, or how much is missing. Reads headers only.

use lb_common::limits::{TLS_HANDSHAKE_HEADER, TLS_PLAINTEXT_MAX, TLS_RECORD_HEADER};

use super::HelloLimits;

/// Record type `handshake` (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// Major version of every TLS record since SSL 3.0; the minor one is ignored, as RFC 8446 section 5.1 asks.
const MAJOR_VERSION: u8 = 3;
/// Handshake type `client_hello` (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

/// What the records so far hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// The whole message, `len` bytes with its header, in the first record.
    InOneRecord { len: usize },
    /// The whole message, `len` bytes with its header, in several records that end at or behind `wire_len`.
    InRecords { len: usize, wire_len: usize },
    /// A part of it, and at least this many bytes missing on the wire.
    NeedMore(usize),
    /// The first record is not one of TLS, or does not begin with a ClientHello.
    NotTls,
    /// A later record is not one of a handshake.
    Malformed,
    /// The message or its records are over the limits.
    TooLarge,
}

/// The handshake message as far as it came.
#[derive(Default)]
struct Message {
    /// The first bytes; those that have not come yet are zero.
    header: [u8; TLS_HANDSHAKE_HEADER],
    /// How many bytes of the message came, the header included.
    received: usize,
}

/// Follows the records until the message is whole, the bytes end or something is wrong.
///
/// Decisions are taken in the order of the bytes that cause them and never from bytes that may still be missing, so that an
/// outcome is the same however the bytes arrive.
pub(super) fn walk(wire: &[u8], limits: HelloLimits) -> Walk {
    let mut message = Message::default();
    let mut at = 0;
    loop {
        let is_first = at == 0;
        let record_len = match record_header(&wire[at..]) {
            RecordHeader::Whole(len) => len,
            // The byte behind the first header tells a ClientHello from everything else; it is not waited for longer.
            RecordHeader::Partial(_) if is_first => {
                return Walk::NeedMore(TLS_RECORD_HEADER + 1 - wire.len());
            }
            RecordHeader::Partial(have) => return Walk::NeedMore(wire_len_of(message.missing()) - have),
            RecordHeader::Wrong if is_first => return Walk::NotTls,
            RecordHeader::Wrong => return Walk::Malformed,
        };
        at += TLS_RECORD_HEADER;
        let fragment = &wire[at..wire.len().min(at + record_len)];
        if is_first {
            match fragment.first() {
                Some(&CLIENT_HELLO) => {}
                Some(_) => return Walk::NotTls,
                None => return Walk::NeedMore(1),
            }
        }
        message.learn(fragment);
        let missing = message.missing();
        let needed = needed(missing, record_len);
        if message.len() > limits.handshake_max || at + needed > limits.wire_max {
            return Walk::TooLarge;
        }
        if missing <= fragment.len() {
            let len = message.len();
            return if is_first {
                Walk::InOneRecord { len }
            } else {
                Walk::InRecords { len, wire_len: at + missing }
            };
        }
        if fragment.len() < record_len {
            return Walk::NeedMore(needed - fragment.len());
        }
        message.received += record_len;
        at += record_len;
    }
}

/// Copies the handshake message of `len` bytes out of `wire`, which [`walk`] found to hold it, into `scratch`.
pub(super) fn join(wire: &[u8], len: usize, scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.reserve(len);
    let mut rest = wire;
    while let RecordHeader::Whole(record_len) = record_header(rest) {
        let fragment_end = rest.len().min(TLS_RECORD_HEADER + record_len);
        scratch.extend_from_slice(&rest[TLS_RECORD_HEADER..fragment_end]);
        rest = &rest[fragment_end..];
    }
}

impl Message {
    /// Takes the header's bytes that are in `fragment`, without counting them as received.
    fn learn(&mut self, fragment: &[u8]) {
        let Some(unknown) = self.header.get_mut(self.received..) else { return };
        let known = unknown.len().min(fragment.len());
        unknown[..known].copy_from_slice(&fragment[..known]);
    }

    /// The least that the whole message can have, by the header so far: exact once that is whole.
    fn len(&self) -> usize {
        let [_, high, middle, low] = self.header;
        TLS_HANDSHAKE_HEADER + usize::from(high) * 0x1_0000 + usize::from(middle) * 0x100 + usize::from(low)
    }

    /// The least that is missing of the message. The walk ends when it is 0, so `received` is never more than the length.
    fn missing(&self) -> usize {
        self.len() - self.received
    }
}

/// The least bytes from the beginning of a record's fragment to the end of a message of which `missing` bytes are to come.
fn needed(missing: usize, record_len: usize) -> usize {
    match missing.checked_sub(record_len) {
        None | Some(0) => missing,
        Some(behind) => record_len + wire_len_of(behind),
    }
}

/// The least bytes that `handshake_len` bytes of handshake take on the wire, in records of their own.
fn wire_len_of(handshake_len: usize) -> usize {
    handshake_len + TLS_RECORD_HEADER * handshake_len.div_ceil(TLS_PLAINTEXT_MAX)
}

/// The beginning of a record.
enum RecordHeader {
    /// A handshake record with a fragment of so many bytes, 1 to [`TLS_PLAINTEXT_MAX`].
    Whole(usize),
    /// Can still become one; so many bytes are there.
    Partial(usize),
    /// Is none: also an empty one, which RFC 8446 section 5.1 forbids.
    Wrong,
}

/// Reads a record's header, each byte as early as it can be judged.
fn record_header(wire: &[u8]) -> RecordHeader {
    const LEN_MAX_HIGH: u8 = (TLS_PLAINTEXT_MAX >> 8) as u8;
    match *wire {
        [] | [HANDSHAKE] | [HANDSHAKE, MAJOR_VERSION] | [HANDSHAKE, MAJOR_VERSION, _] => {}
        [HANDSHAKE, MAJOR_VERSION, _, high] if high <= LEN_MAX_HIGH => {}
        [HANDSHAKE, MAJOR_VERSION, _, high, low, ..] => {
            return match usize::from(u16::from_be_bytes([high, low])) {
                len @ 1..=TLS_PLAINTEXT_MAX => RecordHeader::Whole(len),
                _ => RecordHeader::Wrong,
            };
        }
        _ => return RecordHeader::Wrong,
    }
    RecordHeader::Partial(wire.len())
}
