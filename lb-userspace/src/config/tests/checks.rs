// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mistakes in checks over TLS, scripts, requests and observation, with their places and words.

use super::{VALID, errors};

/// Adds a check, whose keys begin in line 10, and expects exactly these errors.
fn check(keys: &str, expected: &[&str]) {
    assert_eq!(errors(&format!("{VALID}[backend.b.check]\n{keys}\n")), expected, "{keys}");
}

#[test]
fn types() {
    check(
        "type = \"htps\"\nsni = \"a\"\nscript = []",
        &[
            r#"10:8: backend.b.check.type = "htps": must be one of "tcp", "tls", "http", "https" and "script"; did you mean "https"?"#,
            r#"12:10: backend.b.check.script = []: must not be empty"#,
        ],
    );
}

#[test]
fn certificates() {
    check(
        "type = \"tls\"",
        &[
            r#"9:1: backend.b.check: ca-file is missing: write ca-file = "…" with the certificates that the server's must come from, or verify = "none""#,
        ],
    );
    check(
        "type = \"https\"\nverify = \"none\"\nca-file = \"ca.pem\"",
        &[
            r#"12:11: backend.b.check.ca-file = "ca.pem": needs verify = "required": with "none" every certificate will do"#,
        ],
    );
    check(
        "type = \"tls\"\nca-file = \"missing.pem\"",
        &[
            r#"11:11: backend.b.check.ca-file = "missing.pem": cannot read conf/missing.pem: entity not found"#,
        ],
    );
    check(
        "type = \"tls\"\nca-file = \"names.txt\"",
        &[
            r#"11:11: backend.b.check.ca-file = "names.txt": conf/names.txt is not a list of certificates in PEM"#,
        ],
    );
    check(
        "type = \"tls\"\nverify = \"optional\"\nsni = \"10.0.0.1\"\nalpn = \"\"",
        &[
            r#"11:10: backend.b.check.verify = "optional": must be one of "required" and "none""#,
            r#"12:7: backend.b.check.sni = "10.0.0.1": is an address: clients name hosts only (RFC 6066 section 3)"#,
            r#"13:8: backend.b.check.alpn = "": must be an ALPN protocol name of 1 to 255 bytes, such as "h2" or "http/1.1""#,
        ],
    );
    let because = "only for checks over TLS: types \"tls\" and \"https\", and \"script\" with tls = true";
    check(
        "type = \"http\"\nsni = \"a\"\nverify = \"none\"\ntls = true",
        &[
            &format!("11:7: backend.b.check.sni = \"a\": {because}"),
            &format!("12:10: backend.b.check.verify = \"none\": {because}"),
            r#"13:7: backend.b.check.tls = true: only for type "script": types "tls" and "https" are over TLS, the others never"#,
        ],
    );
}

#[test]
fn scripts() {
    check(
        "type = \"script\"",
        &[
            "9:1: backend.b.check: script is missing: write script = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }]",
        ],
    );
    check(
        "type = \"tcp\"\nscript = [{ send = \"x\" }]",
        &[r#"11:10: backend.b.check.script = [{ send = "x" }]: only for type "script""#],
    );
    check(
        "type = \"script\"\nscript = [{ send = \"a\", expect = \"b\" }, {}, { sned = \"a\" }, 1]",
        &[
            "11:11: backend.b.check.script[1]: a step is one of send, send-hex, expect, expect-hex and expect-regex",
            "11:41: backend.b.check.script[2]: a step is one of send, send-hex, expect, expect-hex and expect-regex",
            "11:45: backend.b.check.script[3]: a step is one of send, send-hex, expect, expect-hex and expect-regex",
            r#"11:47: backend.b.check.script[3].sned: unknown key; did you mean "send"?"#,
            "11:61: backend.b.check.script[4] = 1: must be a table",
        ],
    );
    check(
        "type = \"script\"\nscript = [{ send-hex = \"0g\" }, { expect-hex = \"123\" }, { expect = \"\" }, { expect-regex = \"(\" }]",
        &[
            r#"11:24: backend.b.check.script[1].send-hex = "0g": must be pairs of hexadecimal digits, such as "00 00 00 08 04 d2 16 2f""#,
            r#"11:47: backend.b.check.script[2].expect-hex = "123": must be pairs of hexadecimal digits, such as "00 00 00 08 04 d2 16 2f""#,
            r#"11:67: backend.b.check.script[3].expect = "": must be 1 to 4096 bytes"#,
            r#"11:90: backend.b.check.script[4].expect-regex = "(": bad regular expression: unclosed group"#,
        ],
    );
}

#[test]
fn requests() {
    check(
        "type = \"http\"\nheaders = { Host = \"a\", \"a b\" = \"c\", X = \"a\\nb\", Connection = \"close\", Y = 1 }\nexpect-body = \"~[\"",
        &[
            r#"11:20: backend.b.check.headers.Host = "a": cannot be set here: the key host sets it"#,
            r#"11:33: backend.b.check.headers."a b" = "c": the key must be the name of a header: letters, digits and hyphens"#,
            r#"11:42: backend.b.check.headers.X = "a\nb": must be visible ASCII and spaces"#,
            r#"11:63: backend.b.check.headers.Connection = "close": cannot be set here: checks set it themselves"#,
            r#"11:76: backend.b.check.headers.Y = 1: must be a string in quotes"#,
            r#"12:15: backend.b.check.expect-body = "~[": bad regular expression: unclosed character class"#,
        ],
    );
    check(
        "type = \"tls\"\nverify = \"none\"\nexpect-body = \"x\"",
        &[
            r#"12:15: backend.b.check.expect-body = "x": only for types "http" and "https": no other sends a request"#,
        ],
    );
}

/// What the configuration takes, checks can use: a server whose check cannot be built would count as up for ever.
#[test]
fn what_checks_could_not_send_is_refused() {
    for path in ["/a<b", "/a>b", "/`", "/?a<b", &format!("/{}", "x".repeat(70_000))] {
        let found = errors(&format!("{VALID}[backend.b.check]\ntype = \"http\"\npath = \"{path}\"\n"));
        assert!(matches!(&found[..], [one] if one.contains("cannot be asked for")), "{found:?}");
    }
    for name in ["-a.example", "a-.example", "a.example-"] {
        check(
            &format!("type = \"tls\"\nverify = \"none\"\nsni = \"{name}\""),
            &[&format!(
                "12:7: backend.b.check.sni = \"{name}\": has a label that begins or ends with a hyphen: checks cannot send it"
            )],
        );
        // Not a name to send, but a host to ask for.
        check(&format!("type = \"https\"\nverify = \"none\"\nhost = \"{name}\""), &[]);
    }
}

#[test]
fn observation_and_intervals() {
    let because = "needs observe = \"connections\" beside it: nothing is counted without";
    check(
        "type = \"tcp\"\nerror-limit = 0\non-error = \"fail\"\nfast-interval = \"1ms\"\ndown-interval = 3",
        &[
            &format!("11:15: backend.b.check.error-limit = 0: {because}"),
            "11:15: backend.b.check.error-limit = 0: must be between 1 and 10000",
            &format!("12:12: backend.b.check.on-error = \"fail\": {because}"),
            r#"12:12: backend.b.check.on-error = "fail": must be one of "fast-interval", "fail-check", "sudden-death" and "mark-down"; did you mean "fail-check"?"#,
            r#"13:17: backend.b.check.fast-interval = "1ms": must be between 100ms and 1h"#,
            r#"14:17: backend.b.check.down-interval = 3: the unit is missing: write it in quotes, such as "5s""#,
        ],
    );
    check(
        "type = \"tcp\"\nobserve = \"layer4\"",
        &[r#"11:11: backend.b.check.observe = "layer4": must be one of "off" and "connections""#],
    );
}
