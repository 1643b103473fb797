// SPDX-License-Identifier: MIT OR Apache-2.0
//! What looks wrong: overlaps of routes and settings without effect.

use super::{VALID, edited, errors, parse, warnings};

/// Adds routes to the valid configuration, from line 9 on, and expects exactly these warnings.
fn check(routes: &[&str], expected: &[&str]) {
    let route = |keys: &&str| format!("[[frontend.f.route]]\nbackend = \"b\"\n{keys}\n");
    let text: String = routes.iter().map(route).collect();
    assert_eq!(warnings(&format!("{VALID}{text}")), expected, "{routes:?}");
}

#[test]
fn names_that_two_routes_claim() {
    check(
        &["sni = 'a.example'", "sni = ['b.example', 'A.example.']"],
        &[
            r#"14:21: frontend.f.route.2.sni = "a.example": the route of line 9 takes this name before the route of line 12 can"#,
        ],
    );
    check(
        &["sni = '*.example'", "sni = '*.example'"],
        &[
            r#"14:7: frontend.f.route.2.sni = "*.example": the route of line 9 takes this name before the route of line 12 can"#,
        ],
    );
    check(
        &["sni = ['a.example', 'a.example']"],
        &[r#"11:21: frontend.f.route.1.sni = "a.example": stands twice in this route"#],
    );
    check(
        &["sni = 'a'\nalpn = ['h2', 'h3']", "sni = 'a'\nalpn = 'h2'"],
        &[
            r#"15:7: frontend.f.route.2.sni = "a": from clients that offer h2, the route of line 9 takes this name before the route of line 13 can"#,
        ],
    );
    check(
        &["alpn = ['h2', 'h3']", "alpn = ['h3', 'h2']"],
        &[
            "12:1: frontend.f.route.2.alpn: from clients that offer h2 and h3, the route of line 9 takes every other name before the route of line 12 can",
        ],
    );
    check(
        &["sni = 'a.example'", "sni-file = 'names.txt'"],
        &[
            r#"conf/names.txt:2:1: frontend.f.route.2.sni = "a.example": the route of line 9 takes this name before the route of line 12 can"#,
        ],
    );
}

#[test]
fn what_precedence_settles_is_no_warning() {
    check(&["sni = 'a'\nalpn = 'h2'", "sni = 'a'\nalpn = 'http/1.1'", "sni = 'a'"], &[]);
    check(&["sni = 'a'", "sni = 'a'\nalpn = 'h2'"], &[]);
    check(&["sni = 'a.example'", "sni = '*.example'", "sni = '*.b.example'", "sni = '~^a'"], &[]);
    check(&["sni = ['a.example', '*.a.example']"], &[]);
    check(&["sni = ['~^a.*[.]example$', 'a.example']"], &[]);
}

#[test]
fn patterns_that_never_win() {
    check(
        &["sni = '*.example'", "sni = '~^[a-z]+[.]shop[.]example$'"],
        &[
            r#"14:7: frontend.f.route.2.sni = "~^[a-z]+[.]shop[.]example$": can never win: every name it matches belongs to "*.example" of line 9, and names and wildcards go first"#,
        ],
    );
    check(
        &["sni = 'a.example'", "sni = '~^a[.]example$'"],
        &[
            r#"14:7: frontend.f.route.2.sni = "~^a[.]example$": can never win: every name it matches belongs to "a.example" of line 9, and names and wildcards go first"#,
        ],
    );
    check(
        &["sni = '~.*'", "sni = '~^b'"],
        &[
            r#"14:7: frontend.f.route.2.sni = "~^b": can never win: "~.*" of line 9 comes first and matches every name"#,
        ],
    );
    check(
        &["sni = '~^Shop[.]'"],
        &[r#"11:7: frontend.f.route.1.sni = "~^Shop[.]": can never match: names are compared in lower case"#],
    );
    check(&["sni = '~(?i)^Shop[.]'"], &[]);
    // The wildcard is for h2 only, or the expression does not say where names end.
    check(&["sni = '*.example'\nalpn = 'h2'", "sni = '~^[a-z]+[.]example$'"], &[]);
    check(&["sni = '*.example'", "sni = '~[.]example'"], &[]);
    check(
        &["sni = '*.example'\nalpn = 'h2'", "sni = '~[.]example$'\nalpn = 'h2'"],
        &[
            r#"15:7: frontend.f.route.2.sni = "~[.]example$": can never win: every name it matches belongs to "*.example" of line 9, and names and wildcards go first"#,
        ],
    );
}

#[test]
fn settings_without_effect() {
    let check =
        |old: &str, new: &str, expected: &[&str]| assert_eq!(warnings(&edited(old, new)), expected, "{new}");
    check(
        "",
        "[backend.c]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n",
        &["9:10: backend.c: no frontend uses it"],
    );
    check(
        "",
        "[backend.b.check]\ntype = \"tcp\"\ninterval = \"1s\"\ntimeout = \"2s\"\n",
        &[
            r#"12:11: backend.b.check.timeout = "2s": is longer than the interval: the next check waits for this one to end"#,
        ],
    );
    check(
        "default-backend = \"b\"",
        "",
        &[
            "1:11: frontend.f: rejects every connection: add a [[frontend.NAME.route]] or default-backend",
            "5:10: backend.b: no frontend uses it",
        ],
    );
    check("default-backend", "on-timeout", &[]);
}

#[test]
fn names_that_nobody_sees() {
    let lines = "[backend.b]\nbalance = \"maglev\"\nhash-on = \"sni\"";
    let text = edited("[backend.b]", lines);
    assert_eq!(warnings(&text), [""; 0]);
    let tcp = text.replace("tls-passthrough", "tcp");
    let expected = "5:10: backend.b.hash-on: has no effect: only frontends in mode \"tcp\" use the backend, and they see no name; clients go by address";
    assert_eq!(warnings(&tcp), [expected]);
    let both = "[frontend.g]\nbind = \"127.0.0.1:2\"\nmode = \"tls-passthrough\"\non-no-name = \"b\"\n";
    assert_eq!(warnings(&format!("{tcp}{both}")), [""; 0]);
}

#[test]
fn a_backend_counts_as_used_while_the_frontend_is_broken() {
    let text = edited("default-backend = \"b\"", "default-backend = \"bb\"");
    assert_eq!(errors(&text).len(), 1);
    assert_eq!(parse(&text).unwrap_err().warnings, []);
}

#[test]
fn trust_in_everybody() {
    for everybody in ["0.0.0.0/0", "::/0"] {
        let text = edited("bind =", &format!("accept-proxy-from = \"{everybody}\"\nbind ="));
        let expected = format!(
            "2:21: frontend.f.accept-proxy-from = \"{everybody}\": is everybody: then any client can claim any address"
        );
        assert_eq!(warnings(&text), [expected]);
    }
}
