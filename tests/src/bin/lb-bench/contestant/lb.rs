// SPDX-License-Identifier: MIT OR Apache-2.0
//! lb, by path.

use std::path::PathBuf;

use super::LbPath;
use super::setting::{CONNECT_TIMEOUT, HELLO_TIMEOUT, IDLE_TIMEOUT, Setting, WORKERS, connections_max, text};

/// The names of each backend, in files that [`config`] refers to.
pub fn names(setting: &Setting) -> Vec<(PathBuf, String)> {
    let file = |backend| {
        let lines: String = setting.names_of(backend).map(|name| name + "\n").collect();
        (names_path(setting, backend), lines)
    };
    (0..setting.backends.len()).map(file).collect()
}

fn names_path(setting: &Setting, backend: usize) -> PathBuf {
    setting.file(&format!("names-{}-route-{backend}.txt", setting.names))
}

/// The largest share for every flow that a workload has on path `sockmap`, so that the default of the machine that runs it has no part in what is measured.
const SOCKMAP_MEMORY: &str = "32GiB";

/// For `lb run --config`, with the lines that choose a path.
pub fn config(setting: &Setting, path: &LbPath) -> String {
    let Setting { listen, admin, .. } = setting;
    let ports = path.ports.map(|ports| format!("packet-ports = \"{ports}\"\n")).unwrap_or_default();
    let head = format!(
        r#"[global]
workers = {WORKERS}
max-connections = {}
sockmap-memory = "{SOCKMAP_MEMORY}"
{ports}
[admin]
bind = "{admin}"

[log]
target = "off"
level = "warn"

[frontend.bench]
bind = ["{listen}"]
mode = "tls-passthrough"
client-hello-timeout = "{HELLO_TIMEOUT}s"
{}
"#,
        connections_max(),
        path.settings
    );
    let routes = (0..setting.backends.len()).map(|backend| route(setting, backend));
    std::iter::once(head).chain(routes).collect()
}

fn route(setting: &Setting, backend: usize) -> String {
    let names = text(&names_path(setting, backend));
    let servers = setting.backends[backend].iter().enumerate().map(|(server, address)| {
        format!(
            r#"
[[backend.route-{backend}.server]]
name = "server-{server}"
address = "{address}"
"#
        )
    });
    format!(
        r#"
[[frontend.bench.route]]
sni-file = "{names}"
backend = "route-{backend}"

[backend.route-{backend}]
send-proxy = "v2"
connect-timeout = "{CONNECT_TIMEOUT}s"
idle-timeout = "{IDLE_TIMEOUT}s"
half-close-timeout = "{IDLE_TIMEOUT}s"
{}"#,
        servers.collect::<String>()
    )
}
