// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are no TOML: every error of syntax, in words, and nothing that only follows from one.

use super::{edited, errors};

fn check(text: &str, expected: &[&str]) {
    assert_eq!(errors(text), expected, "{text}");
}

#[test]
fn each_broken_line_is_reported_once() {
    check(
        &edited("\"tls-passthrough\"", "tls-passthrough"),
        &["3:8: text must be in quotes: \"tls-passthrough\""],
    );
    check(&edited("\"b\"", "web"), &["4:19: text must be in quotes: \"web\""]);
    check(&edited("\"b\"", "\"b"), &["4:21: the closing quote is missing"]);
    check(&edited("\"b\"", ""), &["4:19: the value behind \"=\" is missing"]);
    check(&edited("mode = ", "mode "), &["3:6: \"=\" and a value are missing behind the key"]);
    check(
        &edited("mode", "bind = \"127.0.0.1:2\"\nmode"),
        &["3:1: the key \"bind\" stands twice in this table"],
    );
    check(&edited("", "drain = 30s\n"), &["9:9: text must be in quotes: \"30s\""]);
    check(
        &edited("\"127.0.0.1:1\"", "[\"127.0.0.1:1\""),
        &["2:8: the array that begins here is not closed: \"]\" is missing"],
    );
    check(
        &edited("\"127.0.0.1:1\"", "\"\\x\""),
        &["2:11: too few unicode value digits, expected unicode hexadecimal value"],
    );
}

#[test]
fn several_lines_and_what_does_not_depend_on_them() {
    let text = edited("\"tls-passthrough\"", "tls-passthrough")
        .replace("\"s\"", "'s")
        .replace("10.0.0.1:1", "10.0.0.1");
    check(
        &text,
        &[
            "3:8: text must be in quotes: \"tls-passthrough\"",
            "7:10: the closing quote is missing",
            "8:11: backend.b.server.1.address = \"10.0.0.1\": the port is missing",
        ],
    );
}

#[test]
fn what_stands_below_a_broken_header_is_not_judged() {
    check(
        &edited("[backend.b]", "[backend.b\nbalance = \"round-robin\""),
        &["5:11: unclosed table, expected `]`"],
    );
}

#[test]
fn carriage_returns_and_a_byte_order_mark_are_fine() {
    check(&format!("\u{feff}{}", edited("", "").replace('\n', "\r\n")), &[]);
}
