// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attributes of netlink messages (netlink(7), include/uapi/linux/netlink.h): length and kind, two bytes each, and the value, padded to four
//! bytes. Pure.

/// Without the bits that say what a value is made of (NLA_TYPE_MASK).
const KIND: u16 = !(3 << 14);

/// Bytes of length and kind.
const HEADER: usize = 4;

/// An attribute with a value of less than 64 KiB.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = ((HEADER + value.len()) as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// The value of the first attribute of a kind; `None`: there is none, or one is cut off before it.
pub fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_at_checked(HEADER)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) & KIND == wanted {
            return attributes.get(HEADER..len);
        }
        attributes = attributes.get(len.max(HEADER).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found() {
        let all = [attribute(1, b"five!"), attribute(2 | 1 << 15, b""), attribute(3, b"four")].concat();
        assert_eq!(all.len(), 12 + 4 + 8);
        let check = |kind, expected: Option<&[u8]>| assert_eq!(find(&all, kind), expected, "{kind}");
        check(1, Some(b"five!"));
        check(2, Some(b""));
        check(3, Some(b"four"));
        check(4, None);
        assert_eq!(find(&all[..all.len() - 1], 3), None, "cut off");
        // A length of nothing leads on, and not round and round.
        assert_eq!(find(&[0; 8], 3), None);
    }
}
