// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: two TLS servers behind which anybody can see what lb does. Each demands a PROXY header, does TLS with a
//! certificate of its own, and answers HTTP with what it saw. Nothing of it is on disk or outside of loopback.

mod certificates;
mod header;
mod server;

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::NamedTempFile;

/// The servers: name and port. config/dev.toml sends `NAME.localhost` to each; a test compares them.
pub const SERVERS: [(&str, u16); 2] = [("app", 9441), ("api", 9442)];

/// Running servers. They end with the process.
#[derive(Debug)]
pub struct Demo {
    /// The certificate that signed the servers' own, in PEM, for clients; removed when this is dropped.
    pub ca: NamedTempFile,
}

/// Where a server listens.
pub fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Demo {
    /// Starts the servers, each on a thread.
    ///
    /// # Errors
    ///
    /// A port is taken, or the temporary file cannot be written.
    pub fn start() -> Result<Self> {
        let authority = certificates::Authority::new()?;
        for (name, port) in SERVERS {
            let tls = authority.server_config(&format!("{name}.localhost"))?;
            let listener = TcpListener::bind(address(port)).with_context(|| {
                format!(
                    "the demo server `{name}` cannot listen on {} (does another demo run?)",
                    address(port)
                )
            })?;
            thread::spawn(move || server::serve(name, &listener, &tls));
        }
        // No secret: whoever may reach the servers may check their certificates, also another user than the one who runs them.
        let readable = Permissions::from_mode(0o644);
        let ca =
            tempfile::Builder::new().prefix("lb-demo-ca-").suffix(".pem").permissions(readable).tempfile();
        let ca = ca.context("cannot make a temporary file")?;
        std::fs::write(ca.path(), authority.pem()).context("cannot write the demo's CA certificate")?;
        Ok(Self { ca })
    }
}

/// Runs the servers until a signal.
///
/// # Errors
///
/// As [`Demo::start`].
pub fn run() -> Result<ExitCode> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let demo = Demo::start()?;
    for (name, port) in SERVERS {
        println!("{name}: {} as {name}.localhost, PROXY header required", address(port));
    }
    println!("CA: {}\nCtrl-C ends it.", demo.ca.path().display());
    signals.forever().next();
    Ok(ExitCode::SUCCESS)
}
