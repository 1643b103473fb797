// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: installs what the tests need, and asks before it becomes root.

mod packages;
mod peers;
mod wheels;

use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::ebpf::{BPF_LINKER_VERSION, has_bpf_linker, has_rust_src};
use crate::repository::{cargo, execute, has_program, is_root, root};

/// Runs as root, in one go, so that the password is asked for once.
const INSTALL_PACKAGES: &str = include_str!("install-packages.sh");

/// What `setup` can be told.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Installs also what `cargo xtask ebpf` needs: rust-src and bpf-linker
    #[arg(long)]
    pub ebpf: bool,
    /// Installs also what `cargo xtask bench` compares lb with: a newer HAProxy, Envoy, sozu, and clients; takes some minutes
    #[arg(long)]
    pub bench: bool,
    /// Installs also what virtual machines need: QEMU for `cargo xtask vm`, and Vagrant, which checks its file
    #[arg(long)]
    pub vm: bool,
    /// Does not ask before it uses sudo
    #[arg(long)]
    pub yes: bool,
}

/// Installs what is missing.
///
/// # Errors
///
/// The person at the terminal says no, there is no way to become root, or an installation fails.
pub fn run(args: &Args) -> Result<()> {
    install_packages(args.yes)?;
    if args.ebpf {
        install_rust_src()?;
        install_bpf_linker()?;
    }
    if args.bench {
        install(packages::missing(&packages::BENCH_PACKAGES)?, args.yes)?;
        peers::install()?;
    }
    if args.vm {
        install(packages::missing(&packages::VM_PACKAGES)?, args.yes)?;
    }
    Ok(())
}

/// Installs the Debian packages, and then the Python ones, that tests use and that are missing.
///
/// # Errors
///
/// As [`run`].
pub fn install_packages(is_agreed: bool) -> Result<()> {
    install(packages::missing(&packages::PACKAGES)?, is_agreed)?;
    wheels::install_for_tests()
}

fn install(missing: Vec<&str>, is_agreed: bool) -> Result<()> {
    if missing.is_empty() {
        println!("packages: all are installed");
        return Ok(());
    }
    let list = missing.join(" ");
    ensure!(has_program("apt-get"), "this is no Debian: install yourself what these packages hold: {list}");
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        ensure!(has_program("sudo"), "not root and no sudo: as root, run `apt-get install {list}`");
        println!("These packages are missing: {list}");
        ensure!(is_agreed || is_confirmed("Install them with sudo?")?, "not installed: {list}");
        let mut command = Command::new("sudo");
        command.arg("sh");
        command
    };
    execute(command.args(["-c", INSTALL_PACKAGES, "install-packages"]).args(missing)).context("packages")
}

/// Asks the person at the terminal; where there is none, the answer is no.
fn is_confirmed(question: &str) -> Result<bool> {
    if !stdin().is_terminal() {
        bail!("nobody is here to be asked (no terminal): pass --yes to `cargo xtask setup`");
    }
    print!("{question} [y/N] ");
    stdout().flush()?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(is_yes(&answer))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn install_rust_src() -> Result<()> {
    if has_rust_src()? {
        println!("rust-src: installed");
        return Ok(());
    }
    execute(Command::new("rustup").current_dir(root()).args(["component", "add", "rust-src"])).context(
        "rust-src could not be installed; where rustup's server is out of reach, the folder `library` of Rust's sources \
         belongs into $(rustc --print sysroot)/lib/rustlib/src/rust",
    )
}

fn install_bpf_linker() -> Result<()> {
    if has_bpf_linker() {
        println!("bpf-linker: {BPF_LINKER_VERSION} is installed");
        return Ok(());
    }
    execute(
        cargo("install")
            .args(["bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"])
            .stdin(Stdio::null()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for (answer, expected) in
            [("y\n", true), ("Yes\n", true), ("\n", false), ("n\n", false), ("yep\n", false)]
        {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }
}
