// SPDX-License-Identifier: MIT OR Apache-2.0
//! Puts the types of an object (sections .BTF and .BTF.ext) into the one order that the sources give. LLVM declares types of which it saw
//! pointers alone last, in the order of addresses in its own memory (`FixupDerivedTypes` in llvm/lib/Target/BPF/BTFDebug.cpp), so that the same
//! sources number them, and lay out their names, in one way or another.

mod words;

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};

use self::words::{MAGIC_AND_VERSION, Role, Word, is_forward_declaration};

/// Bytes of the header of .BTF: `struct btf_header` in include/uapi/linux/btf.h.
const HEADER_BYTES: u32 = 24;

/// Gives both sections with forward declarations in the order in which other types first refer to them, among the numbers that they have,
/// and with names in the order in which they are first used. No record moves but forward declarations, which are all of one size: what
/// relocations say about the sections stays true.
///
/// # Errors
///
/// A section is not what Documentation/bpf/btf.rst describes, or has records that it does not.
pub fn canonical(types: &[u8], ext: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let (types, names) = cut(types).context("the section .BTF cannot be read")?;
    let mut types = words::types(types)?;
    let mut ext = words::ext(ext)?;
    order_forward_declarations(&mut types, &mut ext, names)?;
    let names = order_names(&mut types, &mut ext, names)?;
    let types = bytes(types.iter().flatten());
    Ok((join(&types, &names)?, bytes(&ext)))
}

/// The types and the names of .BTF.
fn cut(section: &[u8]) -> Result<(&[u8], &[u8])> {
    let (header, rest) = section.split_at_checked(HEADER_BYTES as usize).context("it has no header")?;
    // Types elsewhere than at the start would move, and relocations with them.
    let [MAGIC_AND_VERSION, HEADER_BYTES, 0, types_bytes, names_at, names_bytes] = words::read(header)?[..]
    else {
        bail!("it is of another version");
    };
    let part = |at: u32, bytes: u32| rest.get(at as usize..)?.get(..bytes as usize);
    part(0, types_bytes).zip(part(names_at, names_bytes)).context("it is shorter than its header says")
}

/// What [`cut`] takes apart.
fn join(types: &[u8], names: &[u8]) -> Result<Vec<u8>> {
    let (types_bytes, names_bytes) = (u32::try_from(types.len())?, u32::try_from(names.len())?);
    let header = [MAGIC_AND_VERSION, HEADER_BYTES, 0, types_bytes, types_bytes, names_bytes];
    let mut section: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    section.extend(types);
    section.extend(names);
    Ok(section)
}

/// Renumbers forward declarations. One that nothing refers to comes last, by its name.
fn order_forward_declarations(types: &mut [Vec<Word>], ext: &mut [Word], names: &[u8]) -> Result<()> {
    let places: Vec<usize> =
        (0..types.len()).filter(|place| is_forward_declaration(&types[*place])).collect();
    let mut first_uses = HashMap::new();
    for (at, word) in types.iter().flatten().chain(&*ext).filter(|word| word.role == Role::Type).enumerate() {
        first_uses.entry(word.value).or_insert(at);
    }
    let mut declarations = Vec::new();
    for place in &places {
        let (id, declaration) = (id(*place)?, types[*place].clone());
        let first_use = first_uses.get(&id).copied().unwrap_or(usize::MAX);
        declarations.push(((first_use, name(names, declaration[0].value)?), id, declaration));
    }
    declarations.sort_by_key(|(order, ..)| *order);
    let mut new_ids = HashMap::new();
    for (place, (_, old_id, declaration)) in places.into_iter().zip(declarations) {
        new_ids.insert(old_id, id(place)?);
        types[place] = declaration;
    }
    for word in types.iter_mut().flatten().chain(ext).filter(|word| word.role == Role::Type) {
        word.value = new_ids.get(&word.value).copied().unwrap_or(word.value);
    }
    Ok(())
}

/// The number of the type in a place: 0 is `void`, which has no record.
fn id(place: usize) -> Result<u32> {
    Ok(u32::try_from(place)? + 1)
}

/// Lays out names by their first use, each once; the empty one comes first, as the kernel wants it.
fn order_names(types: &mut [Vec<Word>], ext: &mut [Word], names: &[u8]) -> Result<Vec<u8>> {
    let mut laid_out = vec![0];
    let mut offsets = HashMap::from([(&b""[..], 0)]);
    for word in types.iter_mut().flatten().chain(ext).filter(|word| word.role == Role::Name) {
        let name = name(names, word.value)?;
        word.value = match offsets.get(name) {
            Some(offset) => *offset,
            None => {
                let offset = u32::try_from(laid_out.len())?;
                laid_out.extend(name);
                laid_out.push(0);
                offsets.insert(name, offset);
                offset
            }
        };
    }
    Ok(laid_out)
}

/// The name at an offset, without the zero that ends it.
fn name(names: &[u8], offset: u32) -> Result<&[u8]> {
    let rest = names.get(offset as usize..).context("a name of .BTF lies outside of it")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name of .BTF has no end")?;
    Ok(&rest[..end])
}

fn bytes<'a>(words: impl IntoIterator<Item = &'a Word>) -> Vec<u8> {
    words.into_iter().flat_map(|word| word.value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests;
