// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configurations that the contestants ran with, as a report shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Most bytes of a configuration that are kept here; the whole is in a file.
const CONFIG_MAX: usize = 16 << 10;

/// The configurations in a folder by file name, the end of long ones cut off.
///
/// # Errors
/// The folder cannot be read.
pub fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut configs = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        configs.insert(name, shorten(text));
    }
    Ok(configs)
}

fn shorten(mut text: String) -> String {
    if text.len() > CONFIG_MAX {
        let left_out = text.len() - CONFIG_MAX;
        text.truncate(text.floor_char_boundary(CONFIG_MAX));
        text.push_str(&format!("\n… and {left_out} bytes more\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_configuration_is_cut_and_says_so() {
        assert_eq!(shorten("short".to_owned()), "short");
        let text = shorten("ä".repeat(CONFIG_MAX));
        assert!(text.ends_with("bytes more\n") && text.len() < CONFIG_MAX + 100);
    }

    #[test]
    fn every_file_is_read_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.cfg"), "text").unwrap();
        fs::write(folder.path().join("binary"), [0xff]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), BTreeMap::from([("a.cfg".to_owned(), "text".to_owned())]));
    }
}
