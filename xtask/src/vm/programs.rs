// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of this repository that run inside a virtual machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::repository::{agent, cargo, output};

/// Where they are, after a build.
pub struct Programs {
    /// The agent.
    pub agent: PathBuf,
    /// The end-to-end tests.
    pub e2e: PathBuf,
    /// The agent's unit tests.
    pub unit: PathBuf,
    /// A server that tests start, which they know by this path.
    pub peer: PathBuf,
    /// What runs the tests there.
    pub guest: PathBuf,
    /// What checks the unit where systemd runs it.
    pub service: PathBuf,
}

impl Programs {
    /// Builds them as `cargo xtask test` does.
    ///
    /// # Errors
    /// A build fails; cargo has said why.
    pub fn build() -> Result<Self> {
        let agent = agent()?;
        let mut command = cargo("test");
        command.args(["--locked", "--workspace", "--lib", "--test=e2e", "--no-run"]);
        let messages = output(command.arg("--message-format=json-render-diagnostics"))?;
        let built = |name: &str, is_test: bool| {
            executable(&messages, name, is_test).with_context(|| format!("cargo did not say where {name} is"))
        };
        Ok(Self {
            agent,
            e2e: built("e2e", true)?,
            unit: built("lb", true)?,
            peer: built("lb-peer", false)?,
            guest: built("lb-guest", false)?,
            service: built("lb-service", false)?,
        })
    }
}

/// The names of all tests in a program of Rust's test harness (The rustc book, "Tests").
///
/// # Errors
/// It cannot be started.
pub fn tests(program: &Path) -> Result<Vec<String>> {
    let listed = output(Command::new(program).args(["--list", "--format=terse"]))?;
    Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// The executable of a target, built as a test or not (The Cargo Book, "External tools"). A library comes before a program of its name.
fn executable(messages: &str, name: &str, is_test: bool) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = messages.filter(|message| {
        let is = |pointer: &str, expected: &Value| message.pointer(pointer) == Some(expected);
        is("/target/name", &name.into())
            && is("/profile/test", &is_test.into())
            && message["executable"].is_string()
    });
    let first = found.next()?;
    let is_library = |message: &Value| message.pointer("/target/kind/0") == Some(&"lib".into());
    let chosen = if is_library(&first) { first } else { found.find(is_library).unwrap_or(first) };
    chosen["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_of_a_library_are_not_those_of_its_program() {
        let messages = concat!(
            r#"{"target":{"name":"lb","kind":["bin"]},"profile":{"test":true},"executable":"/t/bin"}"#,
            "\n",
            r#"{"target":{"name":"lb","kind":["lib"]},"profile":{"test":true},"executable":"/t/lib"}"#,
            "\n",
            r#"{"target":{"name":"lb","kind":["bin"]},"profile":{"test":false},"executable":"/t/lb"}"#,
            "\n",
            r#"{"target":{"name":"lb","kind":["lib"]},"profile":{"test":false},"executable":null}"#,
        );
        assert_eq!(executable(messages, "lb", true), Some("/t/lib".into()));
        assert_eq!(executable(messages, "lb", false), Some("/t/lb".into()));
        assert_eq!(executable(messages, "e2e", true), None);
    }
}
