// SPDX-License-Identifier: MIT OR Apache-2.0
//! ClientHellos for tests.

/// application_layer_protocol_negotiation (RFC 7301 section 3.1).
pub(crate) const ALPN: u16 = 16;
/// padding (RFC 7685).
pub(crate) const PADDING: u16 = 21;

/// A ClientHello message with one extension.
pub(crate) fn message(extension: u16, content: &[u8]) -> Vec<u8> {
    let extension = [&extension.to_be_bytes()[..], &len16(content), content].concat();
    let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let body = [&fixed[..], &len16(&extension), &extension].concat();
    let [_, len @ ..] = u32::try_from(body.len()).expect("a short message").to_be_bytes();
    [&[1][..], &len, &body].concat()
}

/// A message on the wire, in records of so many bytes.
pub(crate) fn records(message: &[u8], fragment_len: usize) -> Vec<u8> {
    message.chunks(fragment_len).flat_map(|part| [&[22, 3, 1][..], &len16(part), part].concat()).collect()
}

/// A length of two bytes.
pub(crate) fn len16(content: &[u8]) -> [u8; 2] {
    u16::try_from(content.len()).expect("a short list").to_be_bytes()
}
