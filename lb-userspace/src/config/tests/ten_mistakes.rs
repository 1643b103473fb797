// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ten mistakes in one file make ten messages.

use super::parse;

const TEN: &str = r#"[global]
workers = "four"
drain-timeout = 30

[frontend.https]
bind = [":443"]
mode = "tls-passthru"
client-hello-timeout = "2m"
on-unkown-name = "reject"

[[frontend.https.route]]
sni = ["shop.example", "*shop.example"]
backend = "shp"

[backend.shop]
balance = "roundrobin"

[[backend.shop.server]]
name = "shop-1"
address = "10.0.0.1"
"#;

#[test]
fn ten_mistakes_make_ten_messages() {
    let problems = parse(TEN).unwrap_err();
    let expected = r#"error: conf/t.toml: 10 problems
  conf/t.toml:2:11: global.workers = "four": must be a whole number between 1 and 1024
  conf/t.toml:3:17: global.drain-timeout = 30: the unit is missing: write it in quotes, such as "5s"
  conf/t.toml:6:9: frontend.https.bind = ":443": the address is missing: must be IP:port or [IPv6]:port, such as "0.0.0.0:443" or "[::]:443"
  conf/t.toml:7:8: frontend.https.mode = "tls-passthru": must be one of "tcp" and "tls-passthrough"; did you mean "tls-passthrough"?
  conf/t.toml:8:24: frontend.https.client-hello-timeout = "2m": must be between 10ms and 1m
  conf/t.toml:9:1: frontend.https.on-unkown-name: unknown key; did you mean "on-unknown-name"?
  conf/t.toml:12:24: frontend.https.route.1.sni[2] = "*shop.example": "*" may only stand for the first labels, as in "*.example.com"
  conf/t.toml:13:11: frontend.https.route.1.backend = "shp": must be the name of a backend; there is no such backend; did you mean "shop"?
  conf/t.toml:16:11: backend.shop.balance = "roundrobin": must be one of "round-robin", "least-connections", "random", "source" and "maglev"; did you mean "round-robin"?
  conf/t.toml:20:11: backend.shop.server.1.address = "10.0.0.1": the port is missing"#;
    assert_eq!(problems.to_string(), expected);
}
