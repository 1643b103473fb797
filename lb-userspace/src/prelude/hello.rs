// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ClientHello, from peeked bytes to what routing needs. Pure: no sockets, no time.

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

/// ALPN protocol names in wire form (RFC 7301 section 3.1): each behind one length byte. Checked when made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnList(Box<[u8]>);

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloOutcome {
    /// A whole ClientHello.
    Complete(ClientHello),
    /// The beginning of one; at least this many further bytes must arrive before looking again is worth it.
    NeedMore(usize),
    /// Cannot begin a TLS ClientHello.
    NotTls,
    /// Began as TLS and broke the grammar.
    Malformed,
    /// Longer than the limits.
    TooLarge,
}

/// Looks at `wire`, the bytes received so far. `scratch` holds re-assembled handshakes, so that they cost no allocation.
pub fn parse(wire: &[u8], limits: HelloLimits, scratch: &mut Vec<u8>) -> HelloOutcome {
    let _ = (wire, limits, scratch);
    HelloOutcome::NotTls
}

impl AlpnList {
    /// Whether nothing is offered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for AlpnList {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
