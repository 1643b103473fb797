// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real clients: curl, OpenSSL and Chromium.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::{Authority, Identity};
use crate::net::{Namespace, bracketed};
use crate::process::{Process, output, text};
use crate::size;

/// What curl got.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its exit code; 0 is success (curl(1), EXIT CODES).
    pub code: i32,
    /// The body.
    pub body: String,
    /// The port that its connection came from.
    pub local_port: u16,
    /// What it said about errors.
    pub complaint: String,
}

/// Fetches `https://name/path` from an address; the certificate must be for `name` and of the authority.
#[track_caller]
pub fn curl(place: &Namespace, authority: &Authority, name: &str, server: SocketAddr, path: &str) -> Fetched {
    let mut command = curl_command(authority, name, server, path);
    let output = place.enter(|| output(&mut command));
    let (stdout, complaint) = (text(&output.stdout), text(&output.stderr));
    let (body, local_port) = stdout.rsplit_once('\n').expect("curl prints the port behind the body");
    let local_port = local_port.parse().expect("a port");
    let code = output.status.code().expect("curl exits by itself");
    Fetched { code, body: body.to_owned(), local_port, complaint }
}

/// The command behind [`curl`], for tests that need the process. Prints the local port as the last line.
pub fn curl_command(authority: &Authority, name: &str, server: SocketAddr, path: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*", "--cacert"]);
    command.arg(authority.certificate());
    let target = format!("{name}:443:{}:{}", bracketed(server.ip()), server.port());
    command.args(["--connect-to", &target, "--write-out", "\\n%{local_port}"]);
    command.arg(format!("https://{name}{path}"));
    command
}

/// Opens a TLS connection with `openssl s_client`, asks for `/`, and returns everything that it printed.
#[track_caller]
pub fn openssl(place: &Namespace, authority: &Authority, name: &str, server: SocketAddr) -> Output {
    let script = "printf 'GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' \"$1\" \
                  | timeout 60 openssl s_client -connect \"$2\" -servername \"$1\" -CAfile \"$3\" \
                    -verify_return_error -verify_hostname \"$1\" -ign_eof -showcerts 2>&1";
    let target = format!("{}:{}", bracketed(server.ip()), server.port());
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", name, &target]).arg(authority.certificate());
    place.enter(|| output(&mut command))
}

/// The SHA-256 fingerprint of the first certificate in what openssl printed.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn shown_fingerprint(printed: &str, scratch: &Path) -> String {
    let begin = printed.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
    let file = scratch.join("shown.pem");
    std::fs::write(&file, &printed[begin..]).expect("a temporary file");
    Identity::fingerprint(&file)
}

/// Opens `https://name:port/` of an address in headless Chromium and returns the page's document. The only certificate error
/// that it overlooks is an unknown authority of exactly this server's key.
#[track_caller]
pub fn chromium(place: &Namespace, identity: &Identity, server: SocketAddr) -> String {
    chromium_at(place, identity, server, "/")
}

/// The same with another path; the document is what it is when all that the page waits for is there. On a busy machine Chromium at times closes the
/// page at once, says nothing and calls that success: then it is asked again, twice at most. A page that does not load is a document, too.
#[track_caller]
pub fn chromium_at(place: &Namespace, identity: &Identity, server: SocketAddr, path: &str) -> String {
    let mut documents = (0..3).map(|_| dump(place, identity, server, path));
    documents.find(|document| !document.trim().is_empty()).expect("Chromium says nothing, three times")
}

#[track_caller]
fn dump(place: &Namespace, identity: &Identity, server: SocketAddr, path: &str) -> String {
    let profile = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new("timeout");
    command.args([size("60", "600"), "chromium", "--dump-dom"]);
    command.args(chromium_arguments(profile.path(), identity, server, path));
    let output = place.enter(|| output(&mut command));
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// A headless Chromium that stays on a page.
#[derive(Debug)]
pub struct Browser {
    /// The process; the browser's others end with it.
    pub process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Opens `https://name:port` with a path, as [`chromium`] does.
    #[track_caller]
    pub fn open(place: &Namespace, identity: &Identity, server: SocketAddr, path: &str) -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("chromium");
        command.args(chromium_arguments(profile.path(), identity, server, path));
        Self { process: place.spawn(&mut command), _profile: profile }
    }

    /// Closes it.
    #[track_caller]
    pub fn close(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait();
    }
}

fn chromium_arguments(profile: &Path, identity: &Identity, server: SocketAddr, path: &str) -> Vec<String> {
    let name = &identity.name;
    let mut arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        "--disable-dev-shm-usage",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--host-resolver-rules=MAP {name} {}", bracketed(server.ip())));
    arguments.push(format!("--ignore-certificate-errors-spki-list={}", identity.key_pin()));
    arguments.push(format!("--user-data-dir={}", profile.display()));
    arguments.push(format!("https://{name}:{}{path}", server.port()));
    arguments
}
