// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the running kernel has a field, by its own description of its types (BTF, Documentation/bpf/btf.rst). The layout of its
//! structures is no promise: it differs from version to version and from build to build.

use std::fs;
use std::io;

/// The kernel's description.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// BTF_MAGIC.
const MAGIC: u16 = 0xeb9f;

/// Bytes of struct btf_type, and of one struct btf_member behind it.
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;

/// Why a field was not found.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel was built without CONFIG_DEBUG_INFO_BTF, or /sys is not mounted.
    #[error("cannot read {VMLINUX}")]
    Missing(#[source] io::Error),
    /// It is no BTF, or of a kind that came after this was written.
    #[error("{VMLINUX} cannot be understood")]
    Damaged,
    /// This kernel has no such field.
    #[error("struct {structure} has no field {field}")]
    NoField {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Where struct tcp_sock has what the programs look at, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSock {
    /// `write_seq`
    pub write_seq: u32,
    /// `copied_seq`
    pub copied_seq: u32,
}

/// Asks the running kernel.
///
/// # Errors
/// See [`BtfError`].
pub fn tcp_sock() -> Result<TcpSock, BtfError> {
    let text = fs::read(VMLINUX).map_err(BtfError::Missing)?;
    let field = |name| offset(&text, "tcp_sock", name);
    Ok(TcpSock { write_seq: field("write_seq")?, copied_seq: field("copied_seq")? })
}

/// Where a structure has a field of its own, in bytes.
fn offset(text: &[u8], structure: &'static str, field: &'static str) -> Result<u32, BtfError> {
    let no_field = BtfError::NoField { structure, field };
    find(text, structure.as_bytes(), field.as_bytes()).ok_or(BtfError::Damaged)?.ok_or(no_field)
}

/// `None`: the description is damaged.
fn find(text: &[u8], structure: &[u8], field: &[u8]) -> Option<Option<u32>> {
    if half(text, 0)? != MAGIC {
        return None;
    }
    // struct btf_header: magic, version, flags, its own length, then offset and length of types and of strings.
    let [header_len, types, types_len, strings] = [4, 8, 12, 16].map(|at| word(text, at));
    let body = text.get(header_len? as usize..)?;
    let mut types = body.get(types? as usize..)?.get(..types_len? as usize)?;
    let strings = body.get(strings? as usize..)?;
    let is_named = |at: u32, name: &[u8]| {
        let rest = strings.get(at as usize..);
        rest.is_some_and(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)))
    };
    while !types.is_empty() {
        let info = word(types, 4)?;
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let rest = types.get(TYPE_LEN..)?;
        let members = rest.get(..behind(kind, count)?)?;
        if kind == STRUCT && is_named(word(types, 0)?, structure) {
            let found = members
                .chunks_exact(MEMBER_LEN)
                .find(|member| word(member, 0).is_some_and(|name| is_named(name, field)));
            // With the kind flag, the upper byte is the width of a bit field.
            let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
            return Some(found.and_then(|member| word(member, 8)).map(|bits| (bits & mask) / 8));
        }
        types = &rest[members.len()..];
    }
    Some(None)
}

/// BTF_KIND_STRUCT.
const STRUCT: u32 = 4;

/// Bytes behind a struct btf_type of this kind with so many members; `None`: an unknown kind.
fn behind(kind: u32, count: usize) -> Option<usize> {
    match kind {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => Some(0),
        // Integer, variable, declaration tag.
        1 | 14 | 17 => Some(4),
        // Array.
        3 => Some(12),
        // Structure, union, section, 64-bit enumeration.
        4 | 5 | 15 | 19 => Some(count * MEMBER_LEN),
        // Enumeration, function prototype.
        6 | 13 => Some(count * 8),
        _ => None,
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An integer, and `struct pair { int first; int second; }` behind it.
    fn pair(info: u32) -> Vec<u8> {
        let strings = b"\0int\0pair\0first\0second\0";
        let types = [[1, 1 << 24, 4, 32].as_slice(), &[5, info, 8, 10, 1, 0, 16, 1, 32]].concat();
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types.len() as u32 * 4, types.len() as u32 * 4, 23];
        let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn a_field_is_where_the_description_says() {
        let text = pair(STRUCT << 24 | 2);
        assert_eq!(
            [offset(&text, "pair", "first"), offset(&text, "pair", "second")].map(Result::ok),
            [Some(0), Some(4)]
        );
        for (structure, field) in [("pair", "third"), ("pai", "first"), ("pair", "secon")] {
            let error = offset(&text, structure, field);
            assert!(matches!(error, Err(BtfError::NoField { .. })), "{structure}.{field}: {error:?}");
        }
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_damaged() {
        let text = pair(STRUCT << 24 | 2);
        let types_end = 24 + 13 * 4;
        for length in [0, 1, 10, 24, 40, types_end - 1] {
            let error = offset(&text[..length], "pair", "second");
            assert!(matches!(error, Err(BtfError::Damaged)), "{length} bytes: {error:?}");
        }
        let error = offset(&pair(31 << 24), "pair", "second");
        assert!(matches!(error, Err(BtfError::Damaged)), "{error:?}");
    }

    #[test]
    fn this_kernel_describes_its_connections() {
        match tcp_sock() {
            Ok(TcpSock { write_seq, copied_seq }) => {
                let are_words = [write_seq, copied_seq].iter().all(|at| *at > 0 && at.is_multiple_of(4));
                assert!(are_words && write_seq != copied_seq, "{write_seq} {copied_seq}");
            }
            Err(BtfError::Missing(error)) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
            Err(error) => panic!("{error}"),
        }
    }
}
