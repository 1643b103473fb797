// SPDX-License-Identifier: MIT OR Apache-2.0
//! The build of the fuzz targets, on what other tests leave of the processors: end-to-end tests wait for most of their time, and the
//! build takes minutes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::{FOLDER, last_lines};
use crate::repository::{cargo, executables, has_program, root};

/// A build that goes on.
pub struct Build {
    process: Child,
    // What cargo says, as JSON and for people.
    said: TempDir,
}

const MESSAGES: &str = "messages";
const PROGRESS: &str = "progress";

impl Build {
    /// Starts to build the targets, in their folder, where cargo finds their flags. They have no lock file of their own: the
    /// product's pins what both use, and cargo adds what only they use.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or cargo cannot be started.
    pub fn start() -> Result<Self> {
        let lock = root().join(FOLDER).join("Cargo.lock");
        fs::copy(root().join("Cargo.lock"), &lock)
            .with_context(|| format!("cannot write {}", lock.display()))?;
        let said = tempfile::tempdir().context("cannot make a temporary folder")?;
        let file = |name| File::create(said.path().join(name)).context("cannot write to a temporary folder");
        let mut command = on_idle_processors(cargo("build"));
        command
            .current_dir(root().join(FOLDER))
            .args(["--release", "--bins", "--message-format=json-render-diagnostics"])
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .stdin(Stdio::null())
            .stdout(file(MESSAGES)?)
            .stderr(file(PROGRESS)?);
        let process = command.spawn().context("cannot start cargo")?;
        Ok(Self { process, said })
    }

    /// Waits for the programs.
    ///
    /// # Errors
    ///
    /// The build failed; what cargo said last has been printed.
    pub fn finish(mut self) -> Result<Vec<PathBuf>> {
        let status = self.process.wait().context("cannot wait for cargo")?;
        let read = |name| {
            let said = fs::read(self.said.path().join(name)).context("cannot read what cargo said")?;
            anyhow::Ok(String::from_utf8_lossy(&said).into_owned())
        };
        if !status.success() {
            eprintln!("{}", last_lines(&read(PROGRESS)?));
            bail!("the fuzz targets cannot be built ({status})");
        }
        Ok(executables(&read(MESSAGES)?))
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The same command, which takes only time that nobody else wants (sched(7), `SCHED_IDLE`), where chrt(1) is installed.
fn on_idle_processors(command: Command) -> Command {
    if !has_program("chrt") {
        return command;
    }
    let mut idle = Command::new("chrt");
    idle.args(["--idle", "0"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => idle.env(name, value),
            None => idle.env_remove(name),
        };
    }
    idle
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_command_stays_what_it_is_on_idle_processors() {
        let mut command = Command::new("/bin/cargo");
        command.args(["build", "--bins"]).env("SAID", "yes").env_remove("TAKEN");
        let idle = on_idle_processors(command);
        let line: Vec<_> = std::iter::once(idle.get_program()).chain(idle.get_args()).collect();
        let line = line.join(OsStr::new(" "));
        assert!(line.to_string_lossy().ends_with("/bin/cargo build --bins"), "{}", line.display());
        let changes: Vec<_> = idle.get_envs().collect();
        assert_eq!(changes, [(OsStr::new("SAID"), Some(OsStr::new("yes"))), (OsStr::new("TAKEN"), None)]);
    }
}
