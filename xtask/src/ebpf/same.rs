// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether two builds gave the same object. The linker does not always write types of which it has only the names (section .BTF) in the
//! same order: then their numbers differ, and where their names stand. Neither code nor relocations depend on that.

use object::{Object as _, ObjectSection as _};

/// Bytes of the header of the section (include/uapi/linux/btf.h, struct btf_header), and where in it stands how much is types.
const HEADER_BYTES: usize = 24;
const TYPES_BYTES_AT: usize = 12;

/// Whether two objects are the same, but for the order of types.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one == other || differ_in_order(one, other).unwrap_or(false)
}

/// Whether they differ in the order of types alone; `None`: one is no object with types.
fn differ_in_order(one: &[u8], other: &[u8]) -> Option<bool> {
    let ((before, types, after), (other_before, other_types, other_after)) = (cut(one)?, cut(other)?);
    let is_rest_same = (before, after) == (other_before, other_after);
    Some(is_rest_same && Types::read(types)? == Types::read(other_types)?)
}

/// What stands before, in and behind the section with types.
fn cut(object: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let file = object::File::parse(object).ok()?;
    let (at, length) = file.section_by_name(".BTF")?.file_range()?;
    let (before, rest) = object.split_at_checked(usize::try_from(at).ok()?)?;
    let (types, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((before, types, after))
}

/// What a section says, whatever the order.
#[derive(Debug, PartialEq, Eq)]
struct Types<'a> {
    /// How much is types and how much is names, among others.
    header: &'a [u8],
    /// All names, sorted.
    names: Vec<&'a [u8]>,
}

impl<'a> Types<'a> {
    fn read(section: &'a [u8]) -> Option<Self> {
        let (header, rest) = section.split_at_checked(HEADER_BYTES)?;
        let length = u32::from_le_bytes(header[TYPES_BYTES_AT..][..4].try_into().ok()?);
        let mut names: Vec<_> = rest.get(length as usize..)?.split(|byte| *byte == 0).collect();
        names.sort_unstable();
        Some(Self { header, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section with so many bytes of types, and these names.
    fn section(types: u8, names: &[u8]) -> Vec<u8> {
        let mut section = vec![0; HEADER_BYTES + usize::from(types)];
        section[TYPES_BYTES_AT] = types;
        section.extend(names);
        section
    }

    #[test]
    fn only_the_order_may_differ() {
        let one = section(8, b"\0one\0two\0");
        let check = |other: Vec<u8>, expected| {
            assert_eq!(Types::read(&one) == Types::read(&other), expected, "{other:?}");
        };
        check(section(8, b"\0two\0one\0"), true);
        check(section(8, b"\0two\0six\0"), false);
        check(section(8, b"\0one\0two\0two\0"), false);
        check(section(12, b"\0one\0two\0"), false);
        assert_eq!(Types::read(&[0; 3]), None);
    }

    #[test]
    fn what_is_no_object_is_the_same_as_itself_alone() {
        assert!(same(b"text", b"text") && !same(b"text", b"test"));
    }
}
