// SPDX-License-Identifier: MIT OR Apache-2.0
//! PROXY protocol headers towards servers (HAProxy's doc/proxy-protocol.txt, version 2). Pure.

use std::net::SocketAddr;

use crate::config::SendProxy;

/// The header for a relayed connection: `client` connected to `local`.
pub fn header(
    settings: SendProxy,
    client: SocketAddr,
    local: SocketAddr,
    authority: Option<&str>,
) -> Vec<u8> {
    let _ = (settings, client, local, authority);
    Vec::new()
}

/// The header of a connection that the balancer makes for itself, such as a health check (command LOCAL).
pub fn local_header(settings: SendProxy) -> Vec<u8> {
    let _ = settings;
    Vec::new()
}
