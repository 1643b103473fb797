// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of application protocols (RFC 7301).

use std::fmt;

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
        for (position, name) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            for (position, part) in name.split(|&byte| byte == b',').enumerate() {
                if position > 0 {
                    f.write_str("\\x2c")?;
                }
                part.escape_ascii().fmt(f)?;
            }
        }
        Ok(())
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
        assert_eq!(shown(&[b"a,b", b"\x0a\x0a", b"\xfa\"\\", b","]), r#"a\x2cb,\n\n,\xfa\"\\,\x2c"#);
    }
}
