// SPDX-License-Identifier: MIT OR Apache-2.0
//! Type-length-value vectors behind the addresses of a version 2 header (section 2.2).

/// Bytes of a TLV before its value: type, length.
pub(super) const TLV_HEADER: usize = 3;

/// Bytes of the value of PP2_TYPE_CRC32C (section 2.2.3).
pub(super) const CRC32C_BYTES: usize = 4;

/// Most bytes of the value of PP2_TYPE_UNIQUE_ID (section 2.2.5).
pub const UNIQUE_ID_MAX: usize = 128;

/// Bytes of the value of PP2_TYPE_SSL before the TLVs inside: `client` and `verify` (section 2.2.6).
const SSL_HEADER: usize = 5;

/// The registered types that mean something here; all others are carried along.
pub mod kind {
    /// PP2_TYPE_ALPN: the protocol in use on top of the connection.
    pub const ALPN: u8 = 0x01;
    /// PP2_TYPE_AUTHORITY: the name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// PP2_TYPE_CRC32C: the checksum of the whole header.
    pub const CRC32C: u8 = 0x03;
    /// PP2_TYPE_NOOP: padding.
    pub const NOOP: u8 = 0x04;
    /// PP2_TYPE_UNIQUE_ID: what identifies the connection across proxies.
    pub const UNIQUE_ID: u8 = 0x05;
    /// PP2_TYPE_SSL: what a proxy that ended TLS knows of it; holds TLVs itself.
    pub const SSL: u8 = 0x20;
}

/// One vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Its type.
    pub kind: u8,
    /// Its value.
    pub value: &'a [u8],
    /// Where the value begins in the chain, in bytes.
    pub at: usize,
}

impl Tlv<'_> {
    /// Bytes of the whole vector.
    pub(super) fn len(&self) -> usize {
        TLV_HEADER + self.value.len()
    }

    /// Whether the lengths inside the value fit.
    pub(super) fn is_sound(&self) -> bool {
        match self.kind {
            kind::CRC32C => self.value.len() == CRC32C_BYTES,
            kind::UNIQUE_ID => self.value.len() <= UNIQUE_ID_MAX,
            kind::SSL => self.value.get(SSL_HEADER..).is_some_and(|inside| Chain::new(inside).is_some()),
            _ => true,
        }
    }
}

/// Vectors one behind the other, which fill their place exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain<'a>(&'a [u8]);

impl<'a> Chain<'a> {
    /// The chain that these bytes are; `None` if one of them is longer than its place, or bytes are left that are none.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (.., rest) = split(rest)?;
        }
        Some(Self(bytes))
    }

    /// The vectors, in order.
    pub fn iter(self) -> impl Iterator<Item = Tlv<'a>> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let at = self.0.len() - rest.len() + TLV_HEADER;
            let (kind, value, behind) = split(rest)?;
            rest = behind;
            Some(Tlv { kind, value, at })
        })
    }

    /// The value of the first vector of a type.
    pub fn find(self, kind: u8) -> Option<&'a [u8]> {
        self.iter().find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
    }
}

/// Type and value of the first vector, and what is behind it.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, behind) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((kind, value, behind))
}

/// Appends a vector. A value of more than 65,535 bytes is left out: no length says how long it is.
pub(super) fn append(kind: u8, value: &[u8], to: &mut Vec<u8>) {
    let Ok(len) = u16::try_from(value.len()) else { return };
    to.push(kind);
    to.extend_from_slice(&len.to_be_bytes());
    to.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains() {
        let check = |bytes: &[u8], expected: Option<&[(u8, &[u8])]>| {
            let found = Chain::new(bytes)
                .map(|chain| chain.iter().map(|tlv| (tlv.kind, tlv.value)).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{bytes:?}");
        };
        check(b"", Some(&[]));
        check(b"\x04\0\0", Some(&[(4, b"")]));
        check(b"\xe0\0\x02ab\x04\0\x01c", Some(&[(0xe0, b"ab"), (4, b"c")]));
        // Cut in type and length, cut in the value, bytes behind the last one.
        check(b"\x04", None);
        check(b"\x04\0", None);
        check(b"\x04\0\x01", None);
        check(b"\xe0\0\x02a", None);
        check(b"\x04\xff\xffx", None);
        check(b"\x04\0\0\x04\0", None);
    }

    #[test]
    fn positions_are_those_of_values() {
        let chain = Chain::new(b"\xe0\0\x02ab\x03\0\x04wxyz").expect("a chain");
        let found: Vec<_> = chain.iter().map(|tlv| tlv.at).collect();
        assert_eq!(found, [3, 8]);
        assert_eq!(chain.find(kind::CRC32C), Some(&b"wxyz"[..]));
        assert_eq!(chain.find(kind::SSL), None);
    }

    #[test]
    fn lengths_inside_values_are_checked() {
        let check = |kind: u8, value: &[u8], expected: bool| {
            assert_eq!(Tlv { kind, value, at: 0 }.is_sound(), expected, "{kind} {value:?}");
        };
        check(kind::CRC32C, &[0; 4], true);
        check(kind::CRC32C, &[0; 3], false);
        check(kind::CRC32C, &[0; 5], false);
        check(kind::UNIQUE_ID, &[0; 128], true);
        check(kind::UNIQUE_ID, &[0; 129], false);
        check(kind::UNIQUE_ID, &[], true);
        check(kind::SSL, b"\x01\0\0\0", false);
        check(kind::SSL, b"\x01\0\0\0\0", true);
        check(kind::SSL, b"\x01\0\0\0\0\x21\0\x07TLSv1.3", true);
        check(kind::SSL, b"\x01\0\0\0\0\x21\0\x08TLSv1.3", false);
        check(kind::SSL, b"\x01\0\0\0\0\x21\0\x06TLSv1.3", false);
        check(kind::SSL, b"\x01\0\0\0\0\x21", false);
        check(0xea, &[0; 1000], true);
    }

    #[test]
    fn what_no_length_can_say_is_left_out() {
        let mut bytes = Vec::new();
        append(0xe0, &[7; 65_535], &mut bytes);
        assert_eq!(bytes.len(), 65_538);
        append(0xe0, &[7; 65_536], &mut bytes);
        assert_eq!(bytes.len(), 65_538);
    }
}
