// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binary's verbs: what they print where, and their exit codes (sysexits(3)).
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

fn lb(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A verb that ends without reading closes the pipe, which is no matter of this test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Runs `lb` and expects an exit code and parts of what it prints on stdout and stderr; an empty part means nothing at all.
fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = lb(args, "");
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}{err}");
    assert!(out.contains(stdout) && (!stdout.is_empty() || out.is_empty()), "{args:?}\n{out}");
    assert!(err.contains(stderr) && (!stderr.is_empty() || err.is_empty()), "{args:?}\n{err}");
}

/// A file with a text, in a folder that lives as long as the first of the pair.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path.to_str().unwrap().into())
}

#[test]
fn usage_is_explained() {
    check(&["--version"], 0, concat!("lb ", env!("CARGO_PKG_VERSION")), "");
    check(&["--help"], 0, "hash-password", "");
    check(&[], 64, "", "Usage: lb <COMMAND>");
    check(&["cehck"], 64, "", "a similar subcommand exists: 'check'");
    check(&["run"], 64, "", "--config <FILE>");
}

#[test]
fn valid_files() {
    let ingress = config("ingress.toml");
    let ingress = ingress.to_str().unwrap();
    check(&["check", ingress], 0, "valid: 1 frontend, 5 backends, 5 servers", "");
    check(&["check", "--config", ingress], 0, "valid", "");
    check(&["check", ingress, "--format", "json"], 0, r#"{"errors":[],"warnings":[]}"#, "");
    check(&["check", ingress, "--explain"], 0, "# File descriptors", "");
    let name = "API.fiscalismia.example.";
    let question = ["check", ingress, "--explain", "--sni", name, "--alpn", "h2", "--from", "192.0.2.1"];
    check(&question, 0, "server api-1 172.24.0.4:443", "");
    check(&["check", ingress, "--explain", "--frontend", "http"], 64, "", "there is no frontend \"http\"");
}

#[test]
fn warnings_do_not_fail() {
    let text = std::fs::read_to_string(config("minimal.toml")).unwrap();
    let idle = "[backend.idle]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n";
    let (_folder, path) = file(&format!("{idle}{text}"));
    let warning = format!("warning: {path}:1:10: backend.idle: no frontend uses it\n");
    check(&["check", &path], 0, "valid, 1 warning: 1 frontend, 2 backends, 2 servers", &warning);
}

#[test]
fn errors_are_a_matter_of_configuration() {
    let (_folder, path) = file("[global]\nworkers = 0\n");
    let text = format!("error: {path}: 3 problems\n  {path}:1:1: there is no");
    check(&["check", &path], 78, "", &text);
    check(&["run", "--config", &path], 78, "", &text);
    check(&["check", &path, "--format", "json"], 78, r#""column":11,"file":"#, "");
}

#[test]
fn what_cannot_be_read_is_no_input() {
    let (folder, path) = file("");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    check(&["check", &path], 66, "", "is not UTF-8 text: save it in that encoding");
    check(&["check", &path, "--format", "json"], 66, "", "is not UTF-8 text");
    let folder = folder.path().to_str().unwrap();
    check(&["check", folder], 66, "", "is a directory");
    let none = format!("{folder}/none.toml");
    let text = format!("error: {none}: there is no such file: give the path of the configuration\n");
    check(&["check", &none], 66, "", &text);
    check(&["run", "--config", &none], 66, "", &text);
}

#[test]
fn a_hashed_password_is_accepted_by_the_configuration() {
    let output = lb(&["hash-password"], "correct horse\n");
    assert_eq!(output.status.code(), Some(0));
    let hash = String::from_utf8(output.stdout).unwrap();
    let text = std::fs::read_to_string(config("minimal.toml")).unwrap();
    let user = format!("[[admin.user]]\nname = \"o\"\npassword-hash = \"{}\"\n", hash.trim());
    let (_folder, path) = file(&format!("{text}[admin]\nbind = \"0.0.0.0:8404\"\n{user}"));
    check(&["check", &path], 0, "valid", "");
    check(&["hash-password"], 65, "", "error: the password is empty");
}
