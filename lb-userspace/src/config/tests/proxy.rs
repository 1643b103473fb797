// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors in what concerns the PROXY protocol, with their places and words.

use super::references::check;

#[test]
fn send_proxy() {
    let because = "needs send-proxy = \"v2\" beside it: without a header there is nothing to add to";
    check(
        "[[backend.b.server]]",
        "send-proxy-authority = true\nsend-proxy-crc32c = true\n[[backend.b.server]]",
        &[
            &format!("6:24: backend.b.send-proxy-authority = true: {because}"),
            &format!("7:21: backend.b.send-proxy-crc32c = true: {because}"),
        ],
    );
    let because = "needs send-proxy = \"v2\": v1 has no TLVs, its line has room for addresses alone";
    check(
        "[[backend.b.server]]",
        "send-proxy = \"v1\"\nsend-proxy-alpn = true\nsend-proxy-unique-id = false\n[[backend.b.server]]",
        &[
            &format!("7:19: backend.b.send-proxy-alpn = true: {because}"),
            &format!("8:24: backend.b.send-proxy-unique-id = false: {because}"),
        ],
    );
    check(
        "[[backend.b.server]]",
        "send-proxy = \"v3\"\nsend-proxy-alpn = true\n[[backend.b.server]]",
        &[r#"6:14: backend.b.send-proxy = "v3": must be one of "v1", "v2" and "off""#],
    );
}

#[test]
fn accept_proxy() {
    let without = "needs accept-proxy-from beside it: without it nobody's PROXY header is read";
    check(
        "bind =",
        "accept-proxy-from = []\nproxy-header-timeout = \"1s\"\nproxy-header-max = \"1KiB\"\nbind =",
        &[
            &format!("3:24: frontend.f.proxy-header-timeout = \"1s\": {without}"),
            &format!("4:20: frontend.f.proxy-header-max = \"1KiB\": {without}"),
        ],
    );
    let must = "must be an address or a network, such as \"10.0.0.1\", \"10.0.0.0/8\" or \"2001:db8::/32\"";
    check(
        "bind =",
        "accept-proxy-from = [\"10.0.0.0/33\", \"lb.example\", 10, \"10.1.0.0/8\", \"::ffff:10.0.0.0/104\", \"::ffff:10.0.0.1\"]\n\
         proxy-header-timeout = \"2m\"\nproxy-header-max = \"64KiB\"\nbind =",
        &[
            &format!("2:22: frontend.f.accept-proxy-from[1] = \"10.0.0.0/33\": {must}"),
            &format!("2:37: frontend.f.accept-proxy-from[2] = \"lb.example\": {must}"),
            "2:51: frontend.f.accept-proxy-from[3] = 10: must be a string in quotes",
            r#"2:55: frontend.f.accept-proxy-from[4] = "10.1.0.0/8": has bits behind its prefix: write "10.0.0.0/8", or "10.1.0.0" for the one address"#,
            r#"2:69: frontend.f.accept-proxy-from[5] = "::ffff:10.0.0.0/104": is an IPv4 network in IPv6 clothes: write "10.0.0.0/8""#,
            r#"2:92: frontend.f.accept-proxy-from[6] = "::ffff:10.0.0.1": is an IPv4 network in IPv6 clothes: write "10.0.0.1""#,
            r#"3:24: frontend.f.proxy-header-timeout = "2m": must be between 10ms and 1m"#,
        ],
    );
}
