// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modules of a kernel, in an order in which they can be loaded. Packages hold no list of what needs what (depmod(8) makes it where
//! they are installed), so the modules themselves are asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSection as _};

/// The modules of one kernel.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
}

/// One module, not compressed.
pub struct Module {
    /// Its name as the kernel lists it.
    pub name: String,
    /// What init_module(2) takes.
    pub image: Vec<u8>,
}

impl Modules {
    /// All modules below a folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut pending = vec![folder.to_owned()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { files })
    }

    /// The named modules and what they need, each after what it needs. What is no module counts as built into the kernel.
    ///
    /// # Errors
    /// A module cannot be read or unpacked.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut modules = Vec::new();
        for name in names {
            self.add(name, &mut modules)?;
        }
        Ok(modules)
    }

    fn add(&self, name: &str, modules: &mut Vec<Module>) -> Result<()> {
        let Some(file) = self.files.get(name) else { return Ok(()) };
        if modules.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let image = unpacked(file)?;
        for needed in needed_by(&image).with_context(|| file.display().to_string())? {
            self.add(&needed, modules)?;
        }
        modules.push(Module { name: name.to_owned(), image });
        Ok(())
    }
}

/// A module's name by its file's, which may have dashes where the name has underscores.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let (stem, end) = name.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&end).then(|| stem.replace('-', "_"))
}

/// The module itself.
fn unpacked(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(program).args(["--decompress", "--stdout"]).arg(file).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program} cannot unpack {}", file.display());
    Ok(output.stdout)
}

/// What a module needs: the key `depends` of its section `.modinfo` (include/linux/moduleparam.h, scripts/mod/modpost.c).
fn needed_by(image: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(image).context("not an ELF object")?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    let text = section.data().context("section .modinfo cannot be read")?;
    Ok(dependencies(text))
}

/// The names in the key `depends` of lines that end in a zero byte.
fn dependencies(modinfo: &[u8]) -> Vec<String> {
    let lines = modinfo.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
    let names = lines.filter_map(|line| line.strip_prefix("depends=")).flat_map(|names| names.split(','));
    names.filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_by_its_file() {
        for (file, expected) in [
            ("/m/net/sched/sch_netem.ko", Some("sch_netem")),
            ("/m/nf-tables.ko.xz", Some("nf_tables")),
            ("/m/modules.builtin", None),
            ("/m/a.kops", None),
        ] {
            assert_eq!(module_name(Path::new(file)).as_deref(), expected, "{file}");
        }
    }

    #[test]
    fn needs_are_listed_with_commas() {
        assert_eq!(dependencies(b"license=GPL\0depends=a,b-c\0name=x\0"), ["a", "b_c"]);
        assert!(dependencies(b"license=GPL\0depends=\0").is_empty());
    }
}
