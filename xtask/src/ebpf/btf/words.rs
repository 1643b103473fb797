// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which words of .BTF and .BTF.ext are numbers of types, and which are names. Both sections are words of 32 bits throughout, but for the
//! names themselves: Documentation/bpf/btf.rst, include/uapi/linux/btf.h.

use anyhow::{Context as _, Result, bail, ensure};

use self::Role::{Name, Plain, Type};

/// The first word of the header of either section: `BTF_MAGIC`, then version 1 without flags.
pub const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;

/// What a word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The number of a type.
    Type,
    /// Where a name begins, among all names.
    Name,
    /// Anything else.
    Plain,
}

/// One word of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it means.
    pub role: Role,
    /// What it is.
    pub value: u32,
}

/// `BTF_KIND_FWD`: a type of which only the name is known.
const FORWARD_DECLARATION: u32 = 7;

/// Bytes of the header of .BTF.ext with relocations: `struct btf_ext_header` in tools/lib/bpf/libbpf_internal.h.
const EXT_HEADER_BYTES: u32 = 32;

/// What the tables of .BTF.ext say of an instruction, in the order of their places in the header: its function (`bpf_func_info`),
/// its line (`bpf_line_info`), what of it the loader adapts to the kernel (`bpf_core_relo`).
const EXT_TABLES: [&[Role]; 3] = [&[Plain, Type], &[Plain, Name, Name, Plain], &[Plain, Type, Name, Plain]];

/// The words of a part of a section.
///
/// # Errors
///
/// It does not consist of words.
pub fn read(bytes: &[u8]) -> Result<Vec<u32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    ensure!(rest.is_empty(), "a part of .BTF does not end with a word");
    Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

/// The records of all types; the first is that of type 1.
///
/// # Errors
///
/// A type is of a kind that the kernel's documentation does not describe, or the last one is cut short.
pub fn types(bytes: &[u8]) -> Result<Vec<Vec<Word>>> {
    let words = read(bytes)?;
    let mut rest = words.as_slice();
    let mut types = Vec::new();
    while !rest.is_empty() {
        let info = *rest.get(1).context("the last type of .BTF is cut short")?;
        let mut record = Vec::new();
        for role in roles(info)? {
            let (value, after) = rest.split_first().context("the last type of .BTF is cut short")?;
            record.push(Word { role, value: *value });
            rest = after;
        }
        types.push(record);
    }
    Ok(types)
}

/// Whether a record is that of a type of which only the name is known.
pub fn is_forward_declaration(record: &[Word]) -> bool {
    kind(record[1].value) == FORWARD_DECLARATION
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// What the words of a type with this `info` (`struct btf_type`) are: its name, `info`, a size or a type, and what comes after.
fn roles(info: u32) -> Result<Vec<Role>> {
    let members = info as usize & 0xffff;
    let (third, times, further): (_, _, &[Role]) = match kind(info) {
        // BTF_KIND_INT: encoding.
        1 => (Plain, 1, &[Plain]),
        // PTR, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, TYPE_TAG.
        2 | 8..=12 | 18 => (Type, 0, &[]),
        // ARRAY: of what, indexed by what, how many.
        3 => (Plain, 1, &[Type, Type, Plain]),
        // STRUCT, UNION: name, type and offset of each member.
        4 | 5 => (Plain, members, &[Name, Type, Plain]),
        // ENUM: name and value of each.
        6 => (Plain, members, &[Name, Plain]),
        // FWD, FLOAT.
        FORWARD_DECLARATION | 16 => (Plain, 0, &[]),
        // FUNC_PROTO: what it returns; name and type of each parameter.
        13 => (Type, members, &[Name, Type]),
        // VAR: linkage; DECL_TAG: which member.
        14 | 17 => (Type, 1, &[Plain]),
        // DATASEC: variable, offset and size of each.
        15 => (Plain, members, &[Type, Plain, Plain]),
        // ENUM64: name and both halves of the value of each.
        19 => (Plain, members, &[Name, Plain, Plain]),
        other => bail!("a type of .BTF is of kind {other}, which is unknown"),
    };
    let further = further.iter().copied().cycle().take(times * further.len());
    Ok([Name, Plain, third].into_iter().chain(further).collect())
}

/// The words of .BTF.ext.
///
/// # Errors
///
/// It is of another version, or its tables do not follow each other as the header says.
pub fn ext(bytes: &[u8]) -> Result<Vec<Word>> {
    let words = read(bytes)?;
    let (header, mut rest) = words
        .split_at_checked(EXT_HEADER_BYTES as usize / 4)
        .context("the section .BTF.ext has no header")?;
    ensure!(
        header[..2] == [MAGIC_AND_VERSION, EXT_HEADER_BYTES],
        "the section .BTF.ext is of another version"
    );
    let mut ext: Vec<Word> = header.iter().map(|value| Word { role: Plain, value: *value }).collect();
    let mut expected_at = 0;
    for (place, roles) in header[2..].chunks_exact(2).zip(EXT_TABLES) {
        ensure!(place[0] == expected_at, "the tables of .BTF.ext do not follow each other");
        let (table, after) =
            rest.split_at_checked(place[1] as usize / 4).context("a table of .BTF.ext is cut short")?;
        add_table(&mut ext, table, roles).context("a table of .BTF.ext cannot be read")?;
        (expected_at, rest) = (expected_at + place[1], after);
    }
    ensure!(rest.is_empty(), "the section .BTF.ext is longer than its header says");
    Ok(ext)
}

/// Adds a table: the size of a record; then for each section of the object its name, how many records, and these.
fn add_table(ext: &mut Vec<Word>, table: &[u32], roles: &[Role]) -> Result<()> {
    let Some((record_bytes, mut rest)) = table.split_first() else { return Ok(()) };
    ensure!(*record_bytes as usize == roles.len() * 4, "its records have {record_bytes} bytes");
    ext.push(Word { role: Plain, value: *record_bytes });
    while let [name, count, after @ ..] = rest {
        let (records, after) =
            after.split_at_checked(*count as usize * roles.len()).context("its last section is cut short")?;
        ext.extend([Word { role: Name, value: *name }, Word { role: Plain, value: *count }]);
        ext.extend(
            records.iter().zip(roles.iter().cycle()).map(|(value, role)| Word { role: *role, value: *value }),
        );
        rest = after;
    }
    ensure!(rest.is_empty(), "its last section is cut short");
    Ok(())
}
