// SPDX-License-Identifier: MIT OR Apache-2.0
//! sozu by `cargo install`, as it is released, and with its feature `splice`.
//!
//! A name is a frontend of its own, and each is sent to each worker when it starts, so it takes no million of them. With `splice` a
//! flow holds two pipes for its life.

use super::setting::{CONNECT_TIMEOUT, HELLO_TIMEOUT, IDLE_TIMEOUT, Setting, WORKERS, connections_max, text};

/// Where `cargo install --root` puts it.
pub const PROGRAM: &str = "sozu/bin/sozu";

/// The same with the feature.
pub const WITH_SPLICE: &str = "sozu-splice/bin/sozu";

/// For `sozu start -c`.
pub fn config(setting: &Setting) -> String {
    let (Setting { listen, .. }, connections) = (setting, connections_max());
    // Where it is told things, which it leaves behind; the port tells two of them apart.
    let socket = text(&setting.scratch.join(format!("sozu-{}.sock", listen.port())));
    let clusters = (0..setting.backends.len()).map(|backend| cluster(setting, backend));
    format!(
        "\
command_socket = \"{socket}\"
command_buffer_size = 16384000
max_command_buffer_size = 163840000
log_level = \"error\"
log_target = \"stdout\"
worker_count = {WORKERS}
worker_automatic_restart = false
worker_timeout = 60
max_connections = {connections}
max_buffers = {}
activate_listeners = true
disable_cluster_metrics = true

[[listeners]]
protocol = \"tcp\"
address = \"{listen}\"
sni_preread_timeout = {HELLO_TIMEOUT}
connect_timeout = {CONNECT_TIMEOUT}
front_timeout = {IDLE_TIMEOUT}
back_timeout = {IDLE_TIMEOUT}
{}",
        2 * connections,
        clusters.collect::<String>()
    )
}

fn cluster(setting: &Setting, backend: usize) -> String {
    let Setting { listen, .. } = setting;
    let frontends = setting
        .names_of(backend)
        .map(|name| format!("    {{ address = \"{listen}\", hostname = \"{name}\" }},\n"));
    let backends =
        setting.backends[backend].iter().map(|server| format!("    {{ address = \"{server}\" }},\n"));
    format!(
        "
[clusters.route-{backend}]
protocol = \"tcp\"
send_proxy = true
frontends = [
{}]
backends = [
{}]
",
        frontends.collect::<String>(),
        backends.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::setting::tests::setting;
    use super::*;

    #[test]
    fn each_cluster_has_its_names_and_its_servers() {
        let config = config(&setting(20, Path::new("/")));
        let (_, cluster) = config.split_once("[clusters.route-3]").unwrap();
        let (cluster, _) = cluster.split_once("[clusters.route-4]").unwrap();
        assert_eq!(cluster.matches("hostname").count(), 2);
        assert!(cluster.contains("10.2.0.2:2004"), "{cluster}");
    }
}
