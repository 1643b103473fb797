// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask ebpf`: builds the BPF object so that it is the same on every machine and in every folder.

mod btf;
mod object;

#[path = "../../../lb-ebpf/digest.rs"]
mod digest;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::repository::{cargo, executable, output, root};

#[cfg(test)]
pub use digest::SOURCES;
pub use digest::{BPF_LINKER_VERSION, TARGET};

/// What `ebpf` can be told.
#[derive(clap::Args)]
pub struct Args {
    /// Writes nothing: fails if the committed object or digest differs from a fresh build
    #[arg(long)]
    pub check: bool,
    /// Builds an object whose programs log, for an agent that is built with `--features bpf-log`, beside the committed one
    #[arg(long, conflicts_with = "check")]
    pub log: bool,
}

/// Builds the object; writes it with its digests, or compares.
///
/// # Errors
///
/// A tool is missing or of another version, the build fails, or, with `--check`, the result differs.
pub fn run(args: &Args) -> Result<()> {
    require_tools()?;
    if args.check {
        let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
        return compare(&build(scratch.path(), Messages::None)?);
    }
    let target_dir = root().join("target/bpf");
    if args.log {
        let object = build(&target_dir, Messages::Logged)?;
        write(digest::LOG_OBJECT, &object)?;
        println!("{}: {} bytes", digest::LOG_OBJECT, object.len());
        return Ok(());
    }
    let object = build(&target_dir, Messages::None)?;
    let digests = digest::Digests::compute(root(), &object)?;
    write(digest::OBJECT, &object)?;
    write(digest::DIGEST, digests.to_string().as_bytes())?;
    println!("{}: {} bytes", digest::OBJECT, object.len());
    Ok(())
}

/// Fails unless the committed object and digests are what a fresh build gives.
fn compare(object: &[u8]) -> Result<()> {
    let digests = digest::Digests::compute(root(), object)?.to_string();
    for (file, fresh) in [(digest::OBJECT, object), (digest::DIGEST, digests.as_bytes())] {
        let committed = fs::read(root().join(file)).with_context(|| format!("cannot read {file}"))?;
        ensure!(
            committed == fresh,
            "{file} differs from a fresh build: run `cargo xtask ebpf` and commit the result"
        );
    }
    println!("{} is what these sources give", digest::OBJECT);
    Ok(())
}

fn write(file: &str, content: &[u8]) -> Result<()> {
    let path = root().join(file);
    let folder = path.parent().context("the object lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Fails with the cure unless the exact tools are here.
fn require_tools() -> Result<()> {
    let toolchain =
        fs::read_to_string(root().join("rust-toolchain.toml")).context("cannot read rust-toolchain.toml")?;
    let rustc = output(Command::new("rustc").current_dir(root()).arg("--version"))?;
    let version = rustc.split_whitespace().nth(1).unwrap_or_default();
    ensure!(
        toolchain.contains(&format!("channel = \"{version}\"")),
        "rustc is {version}, not the version that rust-toolchain.toml names"
    );
    ensure!(has_rust_src()?, "the standard library's sources are missing: run `cargo xtask setup --ebpf`");
    ensure!(
        has_bpf_linker(),
        "bpf-linker {BPF_LINKER_VERSION} is not installed: run `cargo xtask setup --ebpf`"
    );
    Ok(())
}

/// Whether the active tool chain has the sources that `build-std` compiles.
pub fn has_rust_src() -> Result<bool> {
    Ok(sysroot()?.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file())
}

/// Whether bpf-linker is on the search path in the one version that makes the committed object.
pub fn has_bpf_linker() -> bool {
    let version = Command::new("bpf-linker").arg("--version").stderr(Stdio::null()).output();
    version.is_ok_and(|output| output.stdout == format!("bpf-linker {BPF_LINKER_VERSION}\n").as_bytes())
}

fn sysroot() -> Result<PathBuf> {
    let path = output(Command::new("rustc").current_dir(root()).args(["--print", "sysroot"]))?;
    fs::canonicalize(path.trim()).context("the tool chain's folder does not exist")
}

/// Cargo for the BPF target. Unstable options are for this one call: in the environment of a host build, build scripts
/// would find them and switch to code paths for nightly.
pub fn bpf_cargo(verb: &str, target_dir: &Path) -> Command {
    let mut command = cargo(verb);
    for variable in
        ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"]
    {
        command.env_remove(variable);
    }
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", digest::RUSTFLAGS.join("\x1f"))
        .args(["--locked", "--package=lb-ebpf", "--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(target_dir);
    command
}

/// Whether the programs say what they do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Messages {
    None,
    Logged,
}

/// Builds the object and finishes it.
fn build(target_dir: &Path, messages: Messages) -> Result<Vec<u8>> {
    let folders = machine_folders()?;
    let remaps = folders.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let flags: Vec<String> = digest::RUSTFLAGS.map(str::to_owned).into_iter().chain(remaps).collect();
    let mut command = bpf_cargo("build", target_dir);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    if messages == Messages::Logged {
        command.arg("--features=log");
    }
    let messages =
        output(command.args(["--release", "--bin=lb-ebpf", "--message-format=json-render-diagnostics"]))?;
    let linked = executable(&messages).context("cargo built lb-ebpf but did not say where")?;
    let linked = fs::read(&linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let object = object::finish(&linked)?;
    let texts: Vec<String> = folders.iter().map(|(from, _)| from.display().to_string()).collect();
    if let Some(text) = object::find_text(&object, &texts) {
        bail!("the object names {text}, which is this machine's: it would differ elsewhere");
    }
    Ok(object)
}

/// Folders of this machine whose paths the compiler would write down, each with what it writes instead. No such
/// folders should exist: the compiler would copy lines of source from them.
fn machine_folders() -> Result<Vec<(PathBuf, String)>> {
    let metadata =
        output(cargo("metadata").args(["--locked", "--format-version=1", "--filter-platform", TARGET]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let mut folders = vec![(root().to_owned(), "/-/lb".to_owned()), (sysroot()?, "/-/rust".to_owned())];
    folders.extend(registry_folders(&metadata).into_iter().map(|folder| (folder, "/-/crates".to_owned())));
    Ok(folders)
}

/// Where cargo keeps the packages that come from registries: the parents of their folders.
fn registry_folders(metadata: &serde_json::Value) -> BTreeSet<PathBuf> {
    let packages = metadata.get("packages").and_then(serde_json::Value::as_array);
    packages
        .into_iter()
        .flatten()
        .filter(|package| package.get("source").is_some_and(serde_json::Value::is_string))
        .filter_map(|package| Path::new(package.get("manifest_path")?.as_str()?).ancestors().nth(2))
        .map(Path::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_registries_give_the_folders_to_hide() {
        let metadata = serde_json::json!({"packages": [
            {"source": "registry+https://example/", "manifest_path": "/c/src/index/aya-1.0/Cargo.toml"},
            {"source": "registry+https://example/", "manifest_path": "/c/src/index/syn-2.0/Cargo.toml"},
            {"source": null, "manifest_path": "/home/me/lb/lb-ebpf/Cargo.toml"},
        ]});
        assert_eq!(registry_folders(&metadata), BTreeSet::from([PathBuf::from("/c/src/index")]));
    }

    #[test]
    fn the_committed_object_belongs_to_the_committed_sources() {
        let object = fs::read(root().join(digest::OBJECT)).expect("the object is committed");
        let committed = fs::read_to_string(root().join(digest::DIGEST)).expect("its digest is committed");
        let computed = digest::Digests::compute(root(), &object).expect("the sources can be read");
        assert_eq!(committed, computed.to_string(), "run `cargo xtask ebpf`");
    }
}
