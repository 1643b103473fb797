// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ClientHello, from peeked bytes to what routing needs. Pure: no sockets, no time.
//!
//! `records` walks the TLS records and finds where the handshake message ends; only then `message` reads it, once, with every
//! length checked against the one that encloses it.

use lb_common::limits::{TLS_HANDSHAKE_HEADER, TLS_RECORD_HEADER};

mod alpn;
mod message;
mod name;
mod records;
#[cfg(test)]
pub(crate) mod testing;

pub use alpn::{AlpnIter, AlpnList};
use records::Walk;

/// The caps on a ClientHello.
#[derive(Clone, Copy, Debug)]
pub struct HelloLimits {
    /// Most bytes of handshake message, its header included.
    pub handshake_max: usize,
    /// Most bytes on the wire, record headers included.
    pub wire_max: usize,
}

/// What routing and the log need of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, lower case, without a trailing dot; `None`: no usable name.
    pub server_name: Option<String>,
    /// The ALPN protocols in the client's order.
    pub alpn: AlpnList,
    /// The encrypted_client_hello extension (RFC 9849) is present: `server_name` is the outer name.
    pub has_ech: bool,
    /// Bytes on the wire up to the end of the handshake message, record headers included.
    pub wire_len: usize,
}

/// What the bytes so far are. Every outcome but [`HelloOutcome::NeedMore`] is final: further bytes do not change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloOutcome {
    /// A whole ClientHello. Bytes behind it (early data, a further message in the same record) were not looked at.
    Complete(ClientHello),
    /// The beginning of one; at least this many further bytes, never 0, must arrive before it can be complete.
    NeedMore(usize),
    /// Cannot begin a TLS ClientHello.
    NotTls,
    /// Began as TLS and broke the grammar.
    Malformed,
    /// Longer than the limits.
    TooLarge,
}

/// Looks at `wire`, the bytes received so far. `scratch` holds re-assembled handshakes, so that they cost no allocation.
///
/// Bytes that are not TLS are told from the first one on. A message in one record is read in place.
pub fn parse(wire: &[u8], limits: HelloLimits, scratch: &mut Vec<u8>) -> HelloOutcome {
    let (handshake, wire_len) = match records::walk(wire, limits) {
        Walk::InOneRecord { len } => {
            let wire_len = TLS_RECORD_HEADER + len;
            (&wire[TLS_RECORD_HEADER..wire_len], wire_len)
        }
        Walk::InRecords { len, wire_len } => {
            records::join(&wire[..wire_len], len, scratch);
            (scratch.as_slice(), wire_len)
        }
        Walk::NeedMore(bytes) => return HelloOutcome::NeedMore(bytes),
        Walk::NotTls => return HelloOutcome::NotTls,
        Walk::Malformed => return HelloOutcome::Malformed,
        Walk::TooLarge => return HelloOutcome::TooLarge,
    };
    match message::read(&handshake[TLS_HANDSHAKE_HEADER..]) {
        Ok(hello) => HelloOutcome::Complete(ClientHello { wire_len, ..hello }),
        Err(message::Malformed) => HelloOutcome::Malformed,
    }
}
