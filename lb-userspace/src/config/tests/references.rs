// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every kind of error in what tables mean together, with its place and words.

use super::{edited, errors, shortened};

/// Edits the valid configuration and expects exactly these errors.
pub(super) fn check(old: &str, new: &str, expected: &[&str]) {
    let errors = errors(&edited(old, new)).iter().map(|error| shortened(error)).collect::<Vec<_>>();
    assert_eq!(errors, expected, "{new}");
}

#[test]
fn names_of_things() {
    check(
        "[frontend.f]",
        "[frontend.\"a b\"]",
        &[r#"1:11: frontend."a b": names are 1 to 64 letters, digits, "-", "_" and ".""#],
    );
    check(
        "name = \"s\"",
        "name = \"\"",
        &[r#"7:8: backend.b.server.1.name = "": names are 1 to 64 letters, digits, "-", "_" and ".""#],
    );
    check(
        "",
        "[backend.reject]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n",
        &["9:10: backend.reject: is what policies call closing a connection: choose another name"],
    );
    check(
        "",
        "[[backend.b.server]]\nname = \"s\"\naddress = \"10.0.0.2:1\"\n",
        &[
            r#"10:8: backend.b.server.2.name = "s": the server of line 7 has this name: names are unique in a backend"#,
        ],
    );
}

#[test]
fn backends_that_are_named() {
    check(
        "default-backend = \"b\"",
        "default-backend = \"c\"",
        &[
            r#"4:19: frontend.f.default-backend = "c": must be the name of a backend; there is no such backend"#,
        ],
    );
    check(
        "default-backend",
        "on-unknown-name = \"bb\"\non-timeout = \"rejct\"\ndefault-backend",
        &[
            r#"4:19: frontend.f.on-unknown-name = "bb": must be the name of a backend or "reject"; there is no such backend"#,
            r#"5:14: frontend.f.on-timeout = "rejct": must be the name of a backend or "reject"; there is no such backend; did you mean "reject"?"#,
        ],
    );
    let web = "[backend.website]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n";
    check(
        "",
        &format!("[[frontend.f.route]]\nsni = \"a\"\nbackend = \"webiste\"\n{web}"),
        &[
            r#"11:11: frontend.f.route.1.backend = "webiste": must be the name of a backend; there is no such backend; did you mean "website"?"#,
        ],
    );
}

#[test]
fn weights() {
    check("", "weight = 0\n", &["5:1: backend.b: all servers have weight 0: none takes a connection"]);
    check(
        "",
        "weight = 0\nbackup = true\n",
        &["5:1: backend.b: all servers have weight 0: none takes a connection"],
    );
    let backup = "[[backend.b.server]]\nname = \"t\"\naddress = \"10.0.0.2:1\"\nbackup = true\n";
    check("", &format!("weight = 0\n{backup}"), &[]);
    check(
        "",
        &format!("weight = 0\n{backup}weight = 0\n"),
        &["5:1: backend.b: all servers have weight 0: none takes a connection"],
    );
}

#[test]
fn addresses_that_exclude_each_other() {
    let second =
        |bind: &str| format!("[frontend.g]\nbind = \"{bind}\"\nmode = \"tcp\"\ndefault-backend = \"b\"\n");
    check(
        "",
        &second("127.0.0.1:1"),
        &[r#"10:8: frontend.g.bind = "127.0.0.1:1": is bound in line 2 already"#],
    );
    check(
        "",
        &second("0.0.0.0:1"),
        &[
            r#"10:8: frontend.g.bind = "0.0.0.0:1": cannot be bound together with "127.0.0.1:1" of line 2: one covers the other"#,
        ],
    );
    check(
        "",
        "[admin]\nbind = \"127.0.0.1:1\"\n",
        &[r#"2:8: frontend.f.bind = "127.0.0.1:1": is bound in line 10 already"#],
    );
    check("", &second("[::]:1"), &[]);
    check("", &second("127.0.0.1"), &[r#"10:8: frontend.g.bind = "127.0.0.1": the port is missing"#]);
    check("10.0.0.1:1", "db.internal:1", &[]);
    check(
        "10.0.0.1:1",
        "db.internal",
        &[
            r#"8:11: backend.b.server.1.address = "db.internal": the port is missing: write "db.internal:443", say"#,
        ],
    );
}

#[test]
fn names() {
    let resolver = |lines: &str| format!("[resolver]\n{lines}\n");
    let address = "address = \"10.0.0.1:1\"";
    let service = "srv = \"_a._tcp.b.example\"";
    check(address, service, &[]);
    check(address, "srv = \"web.service.consul\"\nfamily = \"ipv4\"\nmax-addresses = 3", &[]);
    check(
        address,
        &format!("{address}\n{service}"),
        &[
            r#"9:7: backend.b.server.1.srv = "_a._tcp.b.example": stands beside address: a server has one or the other"#,
        ],
    );
    check(
        address,
        &format!("{service}\nweight = 3"),
        &["9:10: backend.b.server.1.weight = 3: stands beside srv: the SRV records say the weights"],
    );
    check(address, &format!("{service}\n[backend.b.server-defaults]\nweight = 0\nfamily = \"ipv6\""), &[]);
    check(
        address,
        "srv = \"_a._tcp.b.example:1\"",
        &[
            r#"8:7: backend.b.server.1.srv = "_a._tcp.b.example:1": takes no port: the SRV records say it; write the name alone, such as "_https._tcp.web.internal""#,
        ],
    );
    check(
        "",
        "family = \"ipv4\"\nmax-addresses = 1\n",
        &[
            r#"9:10: backend.b.server.1.family = "ipv4": is for names: the address of this server is fixed"#,
            "10:17: backend.b.server.1.max-addresses = 1: is for names: the address of this server is fixed",
        ],
    );
    check("", &resolver("servers = [\"10.0.0.1:53\", \"[::1]:5353\"]\nhold-nx = \"0s\""), &[]);
    check(
        "",
        &resolver("servers = \"dns.example:53\""),
        &[
            r#"10:11: resolver.servers = "dns.example:53": a host name cannot stand here, an address is needed: must be IP:port or [IPv6]:port, such as "10.0.0.1:443" or "[fd00::1]:443""#,
        ],
    );
    check("", &resolver("servers = []"), &["10:11: resolver.servers = []: must not be empty"]);
    let many = format!("servers = [{}]", ["\"10.0.0.1:53\""; 9].join(", "));
    check("", &resolver(&many), &["10:11: resolver.servers: at most 8 servers"]);
    check(
        "",
        &resolver("ttl-min = \"2m\"\nttl-max = \"1m\""),
        &["10:11: resolver.ttl-min = \"2m\": ttl-min must not be above ttl-max"],
    );
    check("", &resolver("attempts = 0"), &["10:12: resolver.attempts = 0: must be between 1 and 10"]);
}

#[test]
fn admin() {
    let user = "[[admin.user]]\nname = \"o\"\npassword-hash = \"$argon2id$v=19$m=19456,t=2,p=1$U8c1KJ7hGXU4F+CQHKZvww$QsY6oMohxCibrjQtcRHNRbaP+UVQPLIoiqIcbwD8r6k\"\n";
    check(
        "",
        "[admin]\nbind = \"0.0.0.0:8404\"\n",
        &[
            r#"10:8: admin.bind = "0.0.0.0:8404": can be reached from other hosts: bind a loopback address, or add an [[admin.user]] with a password"#,
        ],
    );
    check("", &format!("[admin]\nbind = \"0.0.0.0:8404\"\n{user}"), &[]);
    check(
        "",
        &format!("[admin]\nbind = \"0.0.0.0:8404\"\n{user}{user}"),
        &[r#"15:8: admin.user.2.name = "o": another user has this name"#],
    );
    check(
        "",
        &format!("[admin]\nbind = \"127.0.0.1:8404\"\n{}", user.replace("\"o\"", "\"o:p\"")),
        &[
            r#"12:8: admin.user.1.name = "o:p": must not be empty and hold neither a colon nor control characters (RFC 7617 section 2)"#,
        ],
    );
    let must = "13:17: admin.user.1.password-hash: must be an argon2id hash in PHC string format: $argon2id$v=19$…, as `lb hash-password` prints it";
    for hash in ["argon2id", "argon2i", "argon2d"] {
        let bad = user.replace("$argon2id$", &format!("${hash}$")).replace(
            "$QsY6oMohxCibrjQtcRHNRbaP+UVQPLIoiqIcbwD8r6k",
            if hash == "argon2id" { "" } else { "$QsY6oMohxCibrjQtcRHNRbaP+UVQPLIoiqIcbwD8r6k" },
        );
        check("", &format!("[admin]\nbind = \"127.0.0.1:8404\"\n{bad}"), &[must]);
    }
    // A secret is not repeated, whatever its type.
    check(
        "",
        "[admin]\nbind = \"127.0.0.1:8404\"\n[[admin.user]]\nname = \"o\"\npassword-hash = \"secret\"\n",
        &[must],
    );
    check(
        "",
        "[admin]\nbind = \"127.0.0.1:8404\"\n[[admin.user]]\nname = \"o\"\npassword-hash = 123\n",
        &["13:17: admin.user.1.password-hash: must be a string in quotes"],
    );
    check(
        "",
        "[admin]\nbind = \"127.0.0.1:8404\"\n[[admin.user]]\n",
        &[
            r#"11:1: admin.user.1: name is missing: write name = "operator""#,
            r#"11:1: admin.user.1: password-hash is missing: write password-hash = "…" with what `lb hash-password` prints"#,
        ],
    );
}

#[test]
fn keys_of_the_other_mode() {
    let because = "only for mode \"tls-passthrough\": mode \"tcp\" never looks at what the client sends, so there is no name to go by";
    check(
        "mode = \"tls-passthrough\"",
        "mode = \"tcp\"\nclient-hello-timeout = \"1s\"\non-not-tls = \"b\"",
        &[
            &format!("4:24: frontend.f.client-hello-timeout = \"1s\": {because}"),
            &format!("5:14: frontend.f.on-not-tls = \"b\": {because}"),
        ],
    );
    check(
        "mode = \"tls-passthrough\"\ndefault-backend = \"b\"",
        "mode = \"tcp\"\ndefault-backend = \"b\"\n[[frontend.f.route]]\nsni = \"a\"\nbackend = \"b\"",
        &[&format!("5:1: frontend.f.route = [[frontend.f.route]]: {because}")],
    );
}

#[test]
fn requests_of_checks() {
    let with = |check: &str| format!("[backend.b.check]\n{check}\n");
    check(
        "",
        &with("type = \"tcp\"\npath = \"/\"\nexpect = 200"),
        &[
            r#"11:8: backend.b.check.path = "/": only for types "http" and "https": no other sends a request"#,
            r#"12:10: backend.b.check.expect = 200: only for types "http" and "https": no other sends a request"#,
        ],
    );
    check(
        "",
        &with(
            "type = \"http\"\nmethod = \"get\"\npath = \"health\"\nhost = \"a b\"\nexpect = [200, \"2xx\", 99, \"399-200\", true]\nport = 0",
        ),
        &[
            r#"11:10: backend.b.check.method = "get": methods are case-sensitive: write "GET""#,
            r#"12:8: backend.b.check.path = "health": must begin with "/""#,
            r#"13:8: backend.b.check.host = "a b": must be a host name, and a port if it is not 80"#,
            r#"14:16: backend.b.check.expect[2] = "2xx": must be a status between 100 and 599, such as 200, or a range, such as "200-399""#,
            r#"14:23: backend.b.check.expect[3] = 99: must be a status between 100 and 599, such as 200, or a range, such as "200-399""#,
            r#"14:27: backend.b.check.expect[4] = "399-200": must be a status between 100 and 599, such as 200, or a range, such as "200-399""#,
            r#"14:38: backend.b.check.expect[5] = true: must be a status between 100 and 599, such as 200, or a range, such as "200-399""#,
            "15:8: backend.b.check.port = 0: must be a port between 1 and 65535",
        ],
    );
    check(
        "",
        &with("type = \"http\"\nmethod = \"GET /\"\npath = \"/a b\""),
        &[
            r#"11:10: backend.b.check.method = "GET /": must be an HTTP method such as "GET""#,
            r##"12:8: backend.b.check.path = "/a b": must be visible ASCII without "#": percent-encode the rest (RFC 3986 section 2.1)"##,
        ],
    );
    check(
        "",
        &with("type = \"http\"\nmethod = \"CONNECT\""),
        &[r#"11:10: backend.b.check.method = "CONNECT": CONNECT opens a tunnel and has no path"#],
    );
}

#[test]
fn numbers_of_checks_and_their_header() {
    let with = |check: &str| format!("[backend.b.check]\n{check}\n");
    check(
        "",
        &with("type = \"tcp\"\nrise = 0\nfall = 101\njitter = 51\ninterval = \"1ms\""),
        &[
            "11:8: backend.b.check.rise = 0: must be between 1 and 100",
            "12:8: backend.b.check.fall = 101: must be between 1 and 100",
            "13:10: backend.b.check.jitter = 51: must be between 0 and 50",
            r#"14:12: backend.b.check.interval = "1ms": must be between 100ms and 1h"#,
        ],
    );
    check(
        "[[backend.b.server]]",
        "check = true\n[[backend.b.server]]",
        &[
            r#"6:9: backend.b.check = true: must be false or a table such as { type = "tcp", interval = "2s", fall = 3, rise = 2 }"#,
        ],
    );
    check(
        "[[backend.b.server]]",
        "send-proxy = \"v2\"\ncheck = { type = \"tcp\" }\n[[backend.b.server]]\nname = \"t\"\naddress = \"10.0.0.2:1\"\ncheck-port = 8080\n[[backend.b.server]]",
        &[
            r#"7:9: backend.b.check: send-proxy is needed here: some servers have a check-port and some have not, so "v1", "v2" or "off" cannot be inferred"#,
        ],
    );
}

#[test]
fn routes() {
    let with = |route: &str| format!("[[frontend.f.route]]\nbackend = \"b\"\n{route}\n");
    check(
        "",
        &with("sni = [\"ok.example\", \"bücher.example\", \"a.*.example\"]"),
        &[
            r#"11:22: frontend.f.route.1.sni[2] = "bücher.example": names go over the wire in ASCII: write this one in punycode (xn--…, RFC 3492)"#,
            r#"11:40: frontend.f.route.1.sni[3] = "a.*.example": "*" may only stand for the first labels, as in "*.example.com""#,
        ],
    );
    check(
        "",
        &with("sni = \"~(a\""),
        &[r#"11:7: frontend.f.route.1.sni = "~(a": bad regular expression: unclosed group"#],
    );
    check(
        "",
        &with("alpn = [\"\"]"),
        &[
            r#"11:9: frontend.f.route.1.alpn = "": must be an ALPN protocol name of 1 to 255 bytes, such as "h2" or "http/1.1""#,
        ],
    );
    check("", &with("sni = []"), &["11:7: frontend.f.route.1.sni = []: must not be empty"]);
    check(
        "",
        &with("sni-file = \"none.txt\""),
        &[r#"11:12: frontend.f.route.1.sni-file = "none.txt": cannot read conf/none.txt: entity not found"#],
    );
    check(
        "",
        &with("sni-file = \"empty.txt\"\nalpn = \"h2\""),
        &[r#"11:12: frontend.f.route.1.sni-file = "empty.txt": conf/empty.txt has no names"#],
    );
    check(
        "",
        &with("sni-file = [\"names.txt\", \"bad.txt\"]\nsnii = 1"),
        &[
            r#"12:1: frontend.f.route.1.snii: unknown key; did you mean "sni"?"#,
            r#"conf/bad.txt:2:3: frontend.f.route.1.sni-file[2] = "b_ü.example": names go over the wire in ASCII: write this one in punycode (xn--…, RFC 3492)"#,
            r#"conf/bad.txt:4:1: frontend.f.route.1.sni-file[2] = "10.0.0.1": is an address: clients name hosts only (RFC 6066 section 3)"#,
        ],
    );
}

#[test]
fn defaults_are_judged_once() {
    let second = "[backend.c]\nserver = [{ name = \"a\", address = \"10.0.0.1:1\" }]\n";
    check(
        "",
        &format!("{second}[defaults.backend]\nretrys = 3\nconnect-timeout = \"1h\"\nserver = []\n"),
        &[
            r#"12:1: defaults.backend.retrys: unknown key; did you mean "retries"?"#,
            r#"13:19: defaults.backend.connect-timeout = "1h": must be between 10ms and 5m"#,
            "14:1: defaults.backend.server: unknown key; allowed are balance, …",
        ],
    );
    check(
        "",
        "[defaults.frontend]\nbnd = 1\n[defaults.server]\n[backend.b.server-defaults]\nwieght = 1\n",
        &[
            "10:1: defaults.frontend.bnd: unknown key; allowed are accept-proxy-from, …",
            "11:11: defaults.server: unknown key; allowed are backend and frontend",
            r#"13:1: backend.b.server-defaults.wieght: unknown key; did you mean "weight"?"#,
        ],
    );
}
