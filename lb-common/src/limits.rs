// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bounds that are part of a protocol or a promise rather than of a configuration.

/// Bytes of a TLS record's header: type, version, length (RFC 8446 section 5.1).
pub const TLS_RECORD_HEADER: usize = 5;

/// Most bytes of one TLS plaintext record's fragment (RFC 8446 section 5.1: 2^14).
pub const TLS_PLAINTEXT_MAX: usize = 1 << 14;

/// Bytes of a TLS handshake message's header: type, length (RFC 8446 section 4).
pub const TLS_HANDSHAKE_HEADER: usize = 4;

/// Largest handshake message that is looked at for a ClientHello, in bytes, its 4-byte header included.
pub const CLIENT_HELLO_MAX: usize = 16 * 1024;

/// Longest host name (RFC 1035 section 2.3.4), in bytes, without a trailing dot.
pub const HOST_NAME_MAX: usize = 253;

/// Longest label of a host name (RFC 1035 section 2.3.4), in bytes.
pub const HOST_LABEL_MAX: usize = 63;
