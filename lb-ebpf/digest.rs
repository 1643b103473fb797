// SPDX-License-Identifier: MIT OR Apache-2.0
//! Says whether the committed BPF object belongs to the sources beside it. Compiled into xtask, which builds the object, and into
//! lb-userspace's build script, which embeds it: neither needs the BPF tool chain for this.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

/// The linker that the object is built with: the last that borrows the LLVM of Rust 1.95 instead of bringing its own.
pub const BPF_LINKER_VERSION: &str = "0.10.4";

/// The target that the object is built for; every kernel that lb runs on is little-endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// Flags for the compiler. The architecture only matters to probes, which lb has none of: it is fixed, so that the object is
/// the same on all. Debug information is what the linker makes BTF of. The third version of the instruction set has additions that
/// return the value before (Linux 5.12).
pub const RUSTFLAGS: [&str; 4] =
    ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];

/// The committed object, from the root of the repository.
pub const OBJECT: &str = "lb-ebpf/prebuilt/lb-ebpf.o";

/// The object with messages of the programs, never committed.
#[allow(dead_code, reason = "not everybody who has this file needs it")]
pub const LOG_OBJECT: &str = "target/bpf-log/lb-ebpf.o";

/// The committed digests, from the root of the repository.
pub const DIGEST: &str = "lb-ebpf/prebuilt/digest";

/// Files that decide what the object is; a folder stands for all that is in it. Of lb-common only the modules that the programs
/// use, and those that these do: a test of xtask sees to that.
pub const SOURCES: [&str; 18] = [
    "lb-ebpf/Cargo.toml",
    "lb-ebpf/digest.rs",
    "lb-ebpf/src",
    "lb-common/src/labelled.rs",
    "lb-common/src/layout.rs",
    "lb-common/src/packet/checksum.rs",
    "lb-common/src/packet/flow",
    "lb-common/src/packet/icmp.rs",
    "lb-common/src/packet/ip.rs",
    "lb-common/src/packet/offer.rs",
    "lb-common/src/packet/options.rs",
    "lb-common/src/packet/reason.rs",
    "lb-common/src/packet/record.rs",
    "lb-common/src/packet/sequence.rs",
    "lb-common/src/packet/tcp.rs",
    "lb-common/src/packet/too_big.rs",
    "lb-common/src/verdict.rs",
    "rust-toolchain.toml",
];

/// Manifests of which only some tables decide what the object is, and what cargo locked for them.
pub const MANIFESTS: [(&str, &[&[&str]]); 3] = [
    ("lb-ebpf/Cargo.toml", &[]),
    ("lb-common/Cargo.toml", &[&["dependencies"], &["features"]]),
    (
        "Cargo.toml",
        &[
            &["profile", "release"],
            &["workspace", "package", "edition"],
            &["workspace", "dependencies", "aya-ebpf"],
        ],
    ),
];

/// The file with the locked versions.
pub const LOCK: &str = "Cargo.lock";

/// What the file at [`DIGEST`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// SHA-256, in hexadecimal, of everything that the object is built from.
    pub sources: String,
    /// SHA-256, in hexadecimal, of the object itself.
    pub object: String,
}

impl Digests {
    /// Computes both for the sources under `root` and an object built of them.
    ///
    /// # Errors
    ///
    /// A source, the root manifest or the lock file cannot be read or is not what cargo writes.
    pub fn compute(root: &Path, object: &[u8]) -> Result<Self> {
        Ok(Self { sources: of_sources(root)?, object: hex(Sha256::digest(object).as_slice()) })
    }
}

impl std::fmt::Display for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "sources {}\nobject {}", self.sources, self.object)
    }
}

/// Hashes the sources, the versions of what they depend on and the settings that the root manifest makes for them.
fn of_sources(root: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |label: &str, content: &[u8]| {
        for part in [label.as_bytes(), content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    };
    for file in files(root)? {
        let label = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        add(&label, &read(&file)?);
    }
    add(
        "recipe",
        [BPF_LINKER_VERSION, TARGET].into_iter().chain(RUSTFLAGS).collect::<Vec<_>>().join(" ").as_bytes(),
    );
    let mut direct = Vec::new();
    for (manifest, paths) in MANIFESTS {
        let manifest = table(&root.join(manifest))?;
        for path in paths {
            add(&path.join("."), at(&manifest, path).map_or_else(String::new, canonical).as_bytes());
        }
        let dependencies = manifest.get("dependencies").and_then(Value::as_table);
        direct.extend(dependencies.into_iter().flatten().map(|(name, _)| name.clone()));
    }
    add("locked", locked(&table(&root.join(LOCK))?, direct).join("\n").as_bytes());
    Ok(hex(hash.finalize().as_slice()))
}

/// Every file behind [`SOURCES`], in an order that does not depend on the file system.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut pending: Vec<PathBuf> = SOURCES.iter().map(|source| root.join(source)).collect();
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if !path.is_dir() {
            files.push(path);
            continue;
        }
        let entries = fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?;
        for entry in entries {
            pending.push(entry.with_context(|| format!("cannot list {}", path.display()))?.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Name, version and checksum of every package that is `needed`, directly or not, sorted.
fn locked(lock: &Table, mut needed: Vec<String>) -> Vec<String> {
    let packages: Vec<&Table> = lock
        .get("package")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_table)
        .collect();
    let text =
        |package: &Table, key: &str| package.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut found = BTreeMap::new();
    while let Some(dependency) = needed.pop() {
        // `name`, or `name version` where the lock file has several of that name.
        let mut words = dependency.split_whitespace();
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        for package in &packages {
            let key = (text(package, "name"), text(package, "version"));
            let is_it = key.0 == name && version.is_none_or(|version| key.1 == version);
            // Members of the workspace have no checksum; what they depend on is in their manifests.
            let checksum = text(package, "checksum");
            if !is_it || checksum.is_empty() || found.contains_key(&key) {
                continue;
            }
            let further = package.get("dependencies").and_then(Value::as_array);
            needed.extend(further.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
            found.insert(key, checksum);
        }
    }
    found.into_iter().map(|((name, version), checksum)| format!("{name} {version} {checksum}")).collect()
}

/// The value behind a path of keys.
fn at<'a>(manifest: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (last, tables) = path.split_last()?;
    tables.iter().try_fold(manifest, |table, key| table.get(*key)?.as_table())?.get(*last)
}

/// A value as text, keys sorted, whichever order the toml crate was told to keep.
fn canonical(value: &Value) -> String {
    let Value::Table(table) = value else { return value.to_string() };
    let sorted: BTreeMap<&String, String> =
        table.iter().map(|(key, value)| (key, canonical(value))).collect();
    format!("{sorted:?}")
}

fn table(path: &Path) -> Result<Table> {
    let text = String::from_utf8(read(path)?).with_context(|| format!("{} is not text", path.display()))?;
    text.parse().with_context(|| format!("{} is not TOML", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
