// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns what the linker wrote into what is committed: without debug sections, which hold paths and hashes of the machine, and with types
//! in one order.

use anyhow::{Context as _, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use super::btf;

/// Removes DWARF and everything that only it refers to. BTF stays, since the verifier's messages and bpftool read it, but in
/// [canonical](btf::canonical) order.
///
/// # Errors
///
/// `linked` is not an ELF object, or its BTF is missing or not understood.
pub fn finish(linked: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(linked).context("the linked object is not an ELF object")?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    // Drops the symbols and relocations of the deleted sections.
    elf.delete_orphans();
    order_types(&mut elf)?;
    // LLVM keeps the sections' names in the symbols' string table, which the writer does not.
    if !elf.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let section = elf.sections.add();
        section.name = ".shstrtab".into();
        section.sh_type = SHT_STRTAB;
        section.data = SectionData::SectionString;
    }
    let mut finished = Vec::new();
    elf.write(&mut finished).context("the finished object cannot be written")?;
    Ok(finished)
}

/// Puts BTF in canonical order.
fn order_types(elf: &mut Builder<'_>) -> Result<()> {
    let (types, ext) = (section(elf, ".BTF")?.clone(), section(elf, ".BTF.ext")?.clone());
    let (types, ext) = btf::canonical(&types, &ext)?;
    *section(elf, ".BTF")? = types;
    *section(elf, ".BTF.ext")? = ext;
    Ok(())
}

/// The bytes of a section.
fn section<'a>(elf: &'a mut Builder<'_>, name: &str) -> Result<&'a mut Vec<u8>> {
    let mut sections = elf.sections.iter_mut();
    let found = sections.find(|section| section.name.as_slice() == name.as_bytes());
    match found.map(|section| &mut section.data) {
        Some(SectionData::Data(bytes)) => Ok(bytes.to_mut()),
        _ => bail!("the linked object has no section {name}"),
    }
}

/// The first of `texts` that occurs in the object: something of the machine got in.
pub fn find_text<'a>(object: &[u8], texts: &'a [String]) -> Option<&'a str> {
    let occurs = |text: &&String| object.windows(text.len().max(1)).any(|window| window == text.as_bytes());
    texts.iter().find(occurs).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(finish(b"not ELF").is_err());
    }

    #[test]
    fn a_path_of_the_machine_is_found() {
        let texts = ["/home/me/lb".to_owned(), "/home/me/.cargo".to_owned()];
        assert_eq!(find_text(b"\0/home/me/.cargo/registry\0", &texts), Some("/home/me/.cargo"));
        assert_eq!(find_text(b"\0/crates/aya\0", &texts), None);
        assert_eq!(find_text(b"", &texts), None);
    }
}
