// SPDX-License-Identifier: MIT OR Apache-2.0
//! nginx stream of Debian.
//!
//! It sends version 1 of the PROXY protocol: version 2 towards servers came with 1.31.4. It always copies.

use std::path::PathBuf;

pub use lb_tests::servers::STREAM_MODULE;

use super::setting::{CONNECT_TIMEOUT, HELLO_TIMEOUT, IDLE_TIMEOUT, Setting, WORKERS, connections_max, text};

/// The list of names that [`config`] refers to.
pub fn names(setting: &Setting) -> (PathBuf, String) {
    let lines = setting.routes().map(|(name, backend)| format!("{name} route-{backend};\n"));
    (names_path(setting), lines.collect())
}

fn names_path(setting: &Setting) -> PathBuf {
    setting.file(&format!("names-{}.nginx", setting.names))
}

/// For `nginx -c`.
pub fn config(setting: &Setting) -> String {
    let Setting { listen, .. } = setting;
    // Of both sides, and what listens; each worker may get all of them.
    let connections = 2 * connections_max() + 1_000;
    let (names, pid) = (text(&names_path(setting)), text(&setting.file("nginx.pid")));
    // nginx looks for the smallest table in which no bucket overflows; its limits are for about a thousand names.
    let table = setting.names.next_power_of_two().max(2048) * 2;
    let upstreams = setting.backends.iter().enumerate().map(|(backend, servers)| {
        let servers = servers.iter().map(|server| format!("server {server}; "));
        format!("    upstream route-{backend} {{ {}}}\n", servers.collect::<String>())
    });
    format!(
        "\
load_module {STREAM_MODULE};
worker_processes {WORKERS};
daemon off;
pid {pid};
error_log stderr error;
events {{ worker_connections {connections}; }}
stream {{
    access_log off;
    map_hash_max_size {table};
    map_hash_bucket_size 256;
    map $ssl_preread_server_name $backend {{ include {names}; }}
{}    server {{
        listen {listen} reuseport backlog=4096;
        ssl_preread on;
        preread_timeout {HELLO_TIMEOUT}s;
        proxy_connect_timeout {CONNECT_TIMEOUT}s;
        proxy_timeout {IDLE_TIMEOUT}s;
        proxy_half_close on;
        proxy_protocol on;
        proxy_pass $backend;
    }}
}}
",
        upstreams.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::setting::tests::setting;
    use super::*;

    #[test]
    fn nginx_takes_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let setting = setting(10_000, folder.path());
        let (path, lines) = names(&setting);
        std::fs::write(path, lines).unwrap();
        let path = setting.file("nginx.conf");
        std::fs::write(&path, config(&setting)).unwrap();
        let output = Command::new("nginx")
            .args(["-t", "-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&path)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
