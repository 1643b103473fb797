// SPDX-License-Identifier: MIT OR Apache-2.0
//! PROXY headers.

use std::hint::black_box;
use std::net::SocketAddr;

use lb::config::{ProxyTlvs, SendProxy};
use lb::proxy::{Content, header};

use super::Case;

/// Rounds that callgrind sees.
const ROUNDS: u64 = 1024;
const V4: [&str; 2] = ["198.51.100.7:50123", "203.0.113.1:443"];
const V6: [&str; 2] = ["[2001:db8::7]:50123", "[2001:db8:1::1]:443"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("proxy/ipv4", V4, false, false),
        case("proxy/ipv4-authority", V4, true, false),
        case("proxy/ipv4-crc32c", V4, false, true),
        case("proxy/ipv4-authority-crc32c", V4, true, true),
        case("proxy/ipv6-authority-crc32c", V6, true, true),
    ]
}

fn case(name: &str, addresses: [&str; 2], authority: bool, crc32c: bool) -> Case {
    let settings = SendProxy::V2(ProxyTlvs { authority, crc32c, ..ProxyTlvs::default() });
    let [client, local]: [SocketAddr; 2] = addresses.map(|text| text.parse().expect("an address"));
    Case::new(name, ROUNDS, move || {
        let authority = black_box(Some("www.shop.example"));
        let content = Content { authority, ..Content::of(black_box(client), black_box(local)) };
        black_box(header(black_box(settings), &content));
    })
}
