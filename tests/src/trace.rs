// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process asks of the kernel, in the words of strace(1).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::wait::until_steady;

/// A trace that a process writes while it runs.
#[derive(Debug)]
pub struct Trace {
    file: PathBuf,
    _files: TempDir,
}

/// A system call that has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name and arguments, as C would write them, and what it returned.
    pub text: String,
}

impl Trace {
    /// A trace of nobody yet.
    ///
    /// # Panics
    /// If there is no room for temporary files.
    pub fn new() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        Self { file: files.path().join("trace"), _files: files }
    }

    /// What starts a program so that these calls of it are traced. The process is then the program, not strace.
    pub fn wrapper(&self, calls: &str) -> Vec<String> {
        let file = self.file.to_string_lossy();
        let words = ["strace", "-D", "-f", "-qq", "-yy", "-e", "signal=none", "-e"];
        let what = [&format!("trace={calls}"), "-o", &file];
        words.iter().copied().chain(what).map(str::to_owned).collect()
    }

    /// The calls so far, once nobody has made one for a second.
    #[track_caller]
    pub fn calls(&self) -> Vec<Call> {
        let calm = std::time::Duration::from_secs(1);
        let size = || std::fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        until_steady("the end of the trace", calm, size);
        parse(&read(&self.file))
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}

impl Call {
    /// Its name.
    pub fn name(&self) -> &str {
        self.text.split('(').next().unwrap_or_default()
    }

    /// What it returned, if that is a number that is not negative.
    pub fn returned(&self) -> Option<usize> {
        let (_, result) = self.text.rsplit_once(" = ")?;
        result.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// Whether its first argument is the socket of a connection with this peer.
    pub fn is_on(&self, peer: SocketAddr) -> bool {
        let first = self.text.split(", ").next().unwrap_or_default();
        first.contains(&format!("->{peer}]>"))
            || first.contains(&format!("->[::ffff:{}]:{}]>", peer.ip(), peer.port()))
    }

    /// How many bytes it took out of its first argument.
    pub fn taken(&self) -> usize {
        let is_reading = matches!(self.name(), "read" | "readv" | "recvfrom" | "recvmsg" | "splice");
        if is_reading && !self.text.contains("MSG_PEEK") { self.returned().unwrap_or(0) } else { 0 }
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).expect("strace (strace) must be installed")
}

/// Calls of several threads, each put together from the line where it begins and the one where it ends.
fn parse(text: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(beginning) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning);
        } else if let Some((_, end)) = rest.split_once(" resumed>").filter(|_| rest.starts_with("<... ")) {
            let beginning = begun.remove(thread).unwrap_or_default();
            calls.push(Call { text: format!("{beginning}{end}") });
        } else {
            calls.push(Call { text: rest.to_owned() });
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_put_together_and_understood() {
        let text = "7 recvfrom(9<TCP:[10.1.0.1:5000->10.1.0.2:40000]>,  <unfinished ...>\n\
                    8 splice(9<TCP:[10.1.0.1:5000->10.1.0.2:40000]>, NULL, 5<pipe:[1]>, NULL, 65536, 0) = 70\n\
                    7 <... recvfrom resumed>\"\\26\"..., 512, MSG_PEEK, NULL, NULL) = 12\n\
                    7 read(9<TCP:[10.1.0.1:5000->10.1.0.2:40000]>, 0x7f, 9) = -1 EAGAIN (Resource temporarily unavailable)\n";
        let peer = "10.1.0.2:40000".parse().expect("an address");
        let calls = parse(text);
        let names: Vec<&str> = calls.iter().map(Call::name).collect();
        assert_eq!(names, ["splice", "recvfrom", "read"]);
        assert_eq!(calls.iter().map(Call::returned).collect::<Vec<_>>(), [Some(70), Some(12), None]);
        assert_eq!(calls.iter().map(Call::taken).collect::<Vec<_>>(), [70, 0, 0]);
        assert!(calls.iter().all(|call| call.is_on(peer)));
        assert!(!calls[0].is_on("10.1.0.2:4000".parse().expect("an address")));
    }
}
