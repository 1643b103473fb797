// SPDX-License-Identifier: MIT OR Apache-2.0
//! Refuses to embed a BPF object that was not built from the sources beside it. Builds nothing, so that stable Rust is enough.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

#[path = "../lb-ebpf/digest.rs"]
mod digest;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let manifests = digest::MANIFESTS.map(|(manifest, _)| manifest);
    let others = [digest::LOCK, digest::OBJECT, digest::DIGEST];
    for input in digest::SOURCES.into_iter().chain(manifests).chain(others) {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    if std::env::var_os("CARGO_FEATURE_BPF_LOG").is_some() && !root.join(digest::LOG_OBJECT).exists() {
        println!("cargo::error={} is missing: run `cargo xtask ebpf --log`", digest::LOG_OBJECT);
    }
    match is_current(&root) {
        Ok(true) => {}
        // Fails the build all the same, and with nothing but this sentence (The Cargo Book, "cargo::error").
        Ok(false) => {
            println!(
                "cargo::error={} was not built from these sources: run `cargo xtask ebpf` (after `cargo xtask setup --ebpf`)",
                digest::OBJECT
            );
        }
        Err(error) => println!("cargo::error=the BPF object cannot be checked: {error:#}"),
    }
}

fn is_current(root: &Path) -> Result<bool> {
    let object =
        fs::read(root.join(digest::OBJECT)).with_context(|| format!("cannot read {}", digest::OBJECT))?;
    let committed = fs::read_to_string(root.join(digest::DIGEST))
        .with_context(|| format!("cannot read {}", digest::DIGEST))?;
    Ok(digest::Digests::compute(root, &object)?.to_string() == committed)
}
