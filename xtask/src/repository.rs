// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where things are, and how the tools of the repository are called.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Cargo, started in the root of the repository, as the one that runs this, and as from a shell.
///
/// What `cargo run` says of xtask itself stays here. The build script of ring 0.17 asks to be run again when variables change that it
/// has from cargo, and cargo compares those of its own environment: with xtask's, all that needs TLS would be built again, for minutes,
/// each time that somebody builds by xtask after building from a shell, or the other way round.
pub fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_crate(name)) {
        command.env_remove(name);
    }
    command.current_dir(root()).arg(verb);
    command
}

/// Whether cargo sets a variable for one crate (The Cargo Book, "Environment variables Cargo sets for crates").
fn is_of_crate(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

/// Runs a command whose output a person should see.
///
/// # Errors
///
/// It cannot be started, or fails.
pub fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", name(command));
    }
    Ok(())
}

/// Runs a command for its standard output; its standard error stays visible.
///
/// # Errors
///
/// It cannot be started, or fails, or prints something else than text.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", name(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something else than text", name(command)))
}

/// The command as a person would name it: program and first argument.
fn name(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("?"));
    let verb = command.get_args().next().unwrap_or_default();
    format!("`{} {}`", program.display(), verb.display())
}

/// Builds the agent in release mode, which `run`, the tests and the benchmarks share.
///
/// # Errors
///
/// The build fails; cargo has said why.
pub fn agent() -> Result<PathBuf> {
    let messages = output(cargo("build").args([
        "--locked",
        "--release",
        "--package=lb-userspace",
        "--bin=lb",
        "--message-format=json-render-diagnostics",
    ]))?;
    executable(&messages).context("cargo built lb but did not say where")
}

/// The last executable that cargo's JSON messages name.
pub fn executable(messages: &str) -> Option<PathBuf> {
    executables(messages).pop()
}

/// All executables that cargo's JSON messages name (The Cargo Book, "External tools").
pub fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect()
}

/// Whether a program is on the search path.
pub fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether a continuous integration system runs this: nobody can answer questions, and everything must be able to run.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Whether this runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargo_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"lb_common"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"lb"},"executable":"/t/release/lb"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages), Some(PathBuf::from("/t/release/lb")));
        assert_eq!(executables(r#"{"reason":"build-finished","success":true}"#), Vec::<PathBuf>::new());
    }

    #[test]
    fn cargo_is_started_as_from_a_shell() {
        let command = cargo("build");
        // `cargo test` sets them as `cargo run` does.
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_PRE", "CARGO_MANIFEST_DIR"] {
            assert!(std::env::var_os(name).is_some(), "{name}");
            assert!(command.get_envs().any(|change| change == (OsStr::new(name), None)), "{name}");
        }
        assert!(!command.get_envs().any(|(name, _)| name == "CARGO_HOME"));
    }

    #[test]
    fn a_command_is_named_by_program_and_verb() {
        assert_eq!(name(Command::new("/usr/bin/cargo").args(["fmt", "--check"])), "`cargo fmt`");
    }
}
