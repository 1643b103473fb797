// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of application protocols (RFC 7301).

use std::ascii::EscapeDefault;
use std::fmt::{self, Write as _};

/// ALPN protocol names in wire form (RFC 7301 section 3.1): each behind one length byte. Checked when made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlpnList(Box<[u8]>);

impl AlpnList {
    /// Takes the names of a protocol_name_list without its length; `None` if one is empty or longer than the list.
    pub(super) fn from_wire(list: &[u8]) -> Option<Self> {
        let mut rest = list;
        while let [len, names @ ..] = rest {
            if *len == 0 {
                return None;
            }
            rest = names.get(usize::from(*len)..)?;
        }
        Some(Self(list.into()))
    }

    /// Makes a list of `names`. Those that the protocol cannot carry, empty or longer than 255 bytes, are left out.
    pub fn from_names(names: &[&str]) -> Self {
        let mut wire = Vec::new();
        for name in names {
            if let Ok(len @ 1..) = u8::try_from(name.len()) {
                wire.push(len);
                wire.extend_from_slice(name.as_bytes());
            }
        }
        Self(wire.into())
    }

    /// The names in the client's order, each 1 to 255 bytes, any bytes.
    pub fn iter(&self) -> AlpnIter<'_> {
        AlpnIter(&self.0)
    }

    /// What [`fmt::Display`] shows, in at most `max_bytes` bytes: `...` at the end, 3 of them, stands for what does not fit. An
    /// escape is whole or absent. Nothing longer is made on the way.
    pub fn to_clipped_string(&self, max_bytes: usize) -> String {
        const MARK: &str = "...";
        if let Some(text) = self.plain().filter(|text| text.len() <= max_bytes) {
            return text;
        }
        let mut text = String::new();
        // The beginning that leaves room for the mark.
        let mut kept_bytes = 0;
        for piece in self.pieces() {
            if text.len() + MARK.len() <= max_bytes {
                kept_bytes = text.len();
            }
            if text.len() + piece.len() > max_bytes {
                text.truncate(kept_bytes);
                text.push_str(MARK);
                break;
            }
            write!(text, "{piece}").expect("a String takes every byte");
        }
        text
    }

    /// What [`fmt::Display`] shows where nothing is escaped, as in every list that is in use; `None` elsewhere.
    fn plain(&self) -> Option<String> {
        let is_plain =
            |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'"' | b'\'' | b'\\');
        let mut text = String::with_capacity(self.0.len());
        for name in self {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(str::from_utf8(name).ok().filter(|_| name.iter().all(is_plain))?);
        }
        Some(text)
    }

    /// The ASCII characters of each byte and separator: what is not printable ASCII, and a comma in a name, is escaped.
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        self.iter().enumerate().flat_map(|(position, name)| {
            let separator = (position > 0).then_some(Piece::Separator);
            separator.into_iter().chain(name.iter().map(|&byte| Piece::of(byte)))
        })
    }

    /// Whether the client offers nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the client offers `name`.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.iter().any(|offered| offered == name)
    }
}

impl<'a> IntoIterator for &'a AlpnList {
    type Item = &'a [u8];
    type IntoIter = AlpnIter<'a>;

    fn into_iter(self) -> AlpnIter<'a> {
        self.iter()
    }
}

/// The names separated by commas, fit for a log: what is not printable ASCII, and a comma in a name, as `\x2c`.
impl fmt::Display for AlpnList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().try_for_each(|piece| piece.fmt(f))
    }
}

/// What is shown of one byte of a name, or between two names.
enum Piece {
    Separator,
    /// A comma in a name.
    Comma,
    Byte(EscapeDefault),
}

impl Piece {
    fn of(byte: u8) -> Self {
        if byte == b',' { Self::Comma } else { Self::Byte(std::ascii::escape_default(byte)) }
    }

    /// Its length as shown, in bytes.
    fn len(&self) -> usize {
        match self {
            Self::Separator => 1,
            Self::Comma => 4,
            Self::Byte(escaped) => escaped.len(),
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Separator => f.write_str(","),
            Self::Comma => f.write_str("\\x2c"),
            Self::Byte(escaped) => escaped.fmt(f),
        }
    }
}

/// The names of an [`AlpnList`].
#[derive(Clone, Debug)]
pub struct AlpnIter<'a>(&'a [u8]);

impl<'a> Iterator for AlpnIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&len, rest) = self.0.split_first()?;
        let (name, behind) = rest.split_at_checked(usize::from(len))?;
        self.0 = behind;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_and_names_agree() {
        let list = AlpnList::from_wire(b"\x02h2\x08http/1.1").unwrap();
        assert_eq!(list, AlpnList::from_names(&["h2", "http/1.1"]));
        assert_eq!(list.iter().collect::<Vec<_>>(), [&b"h2"[..], b"http/1.1"]);
        assert!(list.contains(b"h2") && list.contains(b"http/1.1"));
        assert!(!list.contains(b"h") && !list.contains(b"h2\x08http/1.1") && !list.contains(b""));
        assert!(!list.is_empty() && AlpnList::default().is_empty());
        assert_eq!(AlpnList::default().iter().next(), None);
    }

    #[test]
    fn names_that_cannot_be_carried_are_left_out() {
        let longest = "x".repeat(255);
        let list = AlpnList::from_names(&["", &"x".repeat(256), "h3", &longest]);
        assert_eq!(list.iter().collect::<Vec<_>>(), [b"h3", longest.as_bytes()]);
    }

    #[test]
    fn broken_lists_are_refused() {
        for wire in [&b"\x00"[..], b"\x02h2\x00", b"\x03h2", b"\x02h2\x08http/1.", b"\xff"] {
            assert_eq!(AlpnList::from_wire(wire), None, "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn display_is_one_safe_line() {
        let shown = |names: &[&[u8]]| {
            let wire: Vec<u8> = names.iter().flat_map(|name| [&[name.len() as u8], *name].concat()).collect();
            AlpnList::from_wire(&wire).unwrap().to_string()
        };
        assert_eq!(shown(&[]), "");
        assert_eq!(shown(&[b"h2", b"http/1.1"]), "h2,http/1.1");
        for byte in 0..=u8::MAX {
            let list = AlpnList::from_wire(&[2, b'a', byte, 1, b'b']).unwrap();
            assert_eq!(list.to_clipped_string(100), list.to_string(), "{byte}");
        }
        assert_eq!(shown(&[b"a,b", b"\x0a\x0a", b"\xfa\"\\", b","]), r#"a\x2cb,\n\n,\xfa\"\\,\x2c"#);
    }

    #[test]
    fn clipped_texts_end_between_escapes() {
        let check = |names: &[&str], max_bytes: usize, expected: &str| {
            assert_eq!(AlpnList::from_names(names).to_clipped_string(max_bytes), expected);
        };
        check(&["h2", "http/1.1"], 11, "h2,http/1.1");
        check(&["h2", "http/1.1"], 10, "h2,http...");
        check(&["\n\n\n\n"], 8, r"\n\n\n\n");
        check(&["\n\n\n\n"], 7, r"\n\n...");
        check(&["\u{1}\u{1}\u{1}"], 11, r"\x01\x01...");
        check(&["\u{1}\u{1}\u{1}"], 10, r"\x01...");
        check(&["a,,"], 9, r"a\x2c\x2c");
        check(&["a,,"], 8, r"a\x2c...");
        check(&["a,,"], 7, "a...");
        check(&["abcd"], 3, "...");
        check(&[], 3, "");
    }
}
