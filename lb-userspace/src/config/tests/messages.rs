// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every kind of error in a single value or table, with its place and words.

use super::{edited, errors, shortened};

/// Edits the valid configuration and expects exactly these errors.
fn check(old: &str, new: &str, expected: &[&str]) {
    let errors = errors(&edited(old, new)).iter().map(|error| shortened(error)).collect::<Vec<_>>();
    assert_eq!(errors, expected, "{new}");
}

#[test]
fn keys() {
    check("", "[global]\nworkrs = 2\n", &[r#"10:1: global.workrs: unknown key; did you mean "workers"?"#]);
    check("", "[global]\nspeed = 2\n", &["10:1: global.speed: unknown key; allowed are drain-timeout, …"]);
    check("", "[fronted.x]\n", &[r#"9:2: fronted: unknown key; did you mean "frontend"?"#]);
    check(
        "",
        "[log]\n\"a b\" = 1\n",
        &[r#"10:1: log."a b": unknown key; allowed are format, level and target"#],
    );
    check(
        "mode =",
        "client_hello_timeout = \"1s\"\nmode =",
        &[r#"3:1: frontend.f.client_hello_timeout: unknown key; did you mean "client-hello-timeout"?"#],
    );
}

#[test]
fn types() {
    check(
        "bind = \"127.0.0.1:1\"",
        "bind = 443",
        &["2:8: frontend.f.bind = 443: must be a string in quotes"],
    );
    check("bind = \"127.0.0.1:1\"", "bind = []", &["2:8: frontend.f.bind = []: must not be empty"]);
    check(
        "bind = \"127.0.0.1:1\"",
        "bind = [\"127.0.0.1:1\", 2]",
        &["2:24: frontend.f.bind[2] = 2: must be a string in quotes"],
    );
    check("", "backup = \"yes\"\n", &[r#"9:10: backend.b.server.1.backup = "yes": must be true or false"#]);
    check(
        "",
        "weight = 2.5\n",
        &["9:10: backend.b.server.1.weight = 2.5: must be a whole number between 0 and 256"],
    );
    check("", "[global.workers]\n", &["9:1: global.workers: must be a whole number between 1 and 1024"]);
    check("", "admin = 1\n", &["9:1: backend.b.server.1.admin: unknown key; allowed are address, …"]);
    check("[frontend.f]", "admin = 1\n[frontend.f]", &["1:9: admin = 1: must be a table"]);
    check(
        "[backend.b]",
        "[backend]\nx = 1\n[backend.b]",
        &["6:1: backend.x: must be a table with a name: [backend.NAME]"],
    );
    check(
        "",
        "[[frontend.f.route]]\nsni = 1\nbackend = \"b\"\n",
        &["10:7: frontend.f.route.1.sni = 1: must be a string in quotes"],
    );
    check(
        "default-backend = \"b\"",
        "route = { sni = \"a\" }\ndefault-backend = \"b\"",
        &["4:9: frontend.f.route: must be written in double brackets: [[frontend.f.route]]"],
    );
}

#[test]
fn sources() {
    let check = |new: &str, expected: &[&str]| check("[backend.b]", &format!("[backend.b]\n{new}"), expected);
    check(
        "source = [\"10.0.0.1\", \"10.0.0.1\", \"0.0.0.0\", \"224.0.0.1\", \"::ffff:10.0.0.2\", \"10.0.0.1:80\"]",
        &[
            r#"6:23: backend.b.source[2] = "10.0.0.1": stands here twice"#,
            r#"6:35: backend.b.source[3] = "0.0.0.0": stands for every address of this host: leave the key out to let the route decide"#,
            r#"6:46: backend.b.source[4] = "224.0.0.1": is a multicast address; TCP needs a unicast one"#,
            r#"6:59: backend.b.source[5] = "::ffff:10.0.0.2": is an IPv4 address in IPv6 clothes: write it as IPv4"#,
            r#"6:78: backend.b.source[6] = "10.0.0.1:80": must be an IP address of this host without a port, such as "10.0.0.250" or "fd00::1""#,
        ],
    );
    check(
        "source-interface = \"a b\"",
        &[
            r#"6:20: backend.b.source-interface = "a b": must be an interface's name, 1 to 15 bytes without spaces, "/" and ":""#,
        ],
    );
}

#[test]
fn a_named_table_needs_its_name() {
    assert_eq!(
        errors(
            "[[frontend]]\nbind = \"127.0.0.1:1\"\n[backend.b]\n[[backend.b.server]]\nname = \"s\"\naddress = \"10.0.0.1:1\"\n"
        ),
        ["1:1: frontend: must be a table with a name: [frontend.NAME]",]
    );
}

#[test]
fn what_is_missing() {
    assert_eq!(
        errors(""),
        [
            "1:1: there is no backend: add [backend.NAME] with a server",
            "1:1: there is no frontend: add [frontend.NAME] with bind and mode",
        ]
    );
    check(
        "bind = \"127.0.0.1:1\"\n",
        "",
        &[r#"1:1: frontend.f: bind is missing: write bind = "0.0.0.0:443""#],
    );
    check(
        "mode = \"tls-passthrough\"\n",
        "",
        &[r#"1:1: frontend.f: mode is missing: write mode = "tls-passthrough" or mode = "tcp""#],
    );
    check("name = \"s\"\n", "", &[r#"6:1: backend.b.server.1: name is missing: write name = "web-1""#]);
    check(
        "address = \"10.0.0.1:1\"\n",
        "",
        &[r#"6:1: backend.b.server.1: address is missing: write address = "10.0.0.1:443""#],
    );
    check(
        "[[backend.b.server]]\nname = \"s\"\naddress = \"10.0.0.1:1\"\n",
        "",
        &["5:1: backend.b: has no server: add [[backend.b.server]] with a name and an address"],
    );
    check(
        "",
        "[backend.b.check]\n",
        &[r#"9:1: backend.b.check: type is missing: write type = "tcp" or type = "http""#],
    );
    check("", "[admin]\n", &[r#"9:1: admin: bind is missing: write bind = "127.0.0.1:8404""#]);
    check(
        "",
        "[[frontend.f.route]]\nsni = \"a\"\n",
        &[r#"9:1: frontend.f.route.1: backend is missing: write backend = "…""#],
    );
    check(
        "",
        "[[frontend.f.route]]\nbackend = \"b\"\n",
        &[
            "9:1: frontend.f.route.1: matches nothing: give sni, sni-file or alpn; for all other names there is default-backend",
        ],
    );
    check(
        "mode = \"tls-passthrough\"\ndefault-backend = \"b\"\n",
        "mode = \"tcp\"\n",
        &[
            r#"1:1: frontend.f: default-backend is missing: write default-backend = "…"; mode "tcp" has no other way to choose"#,
        ],
    );
}

#[test]
fn choices() {
    check(
        "\"tls-passthrough\"",
        "\"tls-passtrough\"",
        &[
            r#"3:8: frontend.f.mode = "tls-passtrough": must be one of "tcp" and "tls-passthrough"; did you mean "tls-passthrough"?"#,
        ],
    );
    check(
        "\"tls-passthrough\"",
        "\"http\"",
        &[r#"3:8: frontend.f.mode = "http": must be one of "tcp" and "tls-passthrough""#],
    );
    check(
        "",
        "[log]\nlevel = 3\n",
        &[r#"10:9: log.level = 3: must be one of "error", "warn", "info", "debug" and "trace""#],
    );
    check(
        "[[backend.b.server]]",
        "balance = \"first\"\nsend-proxy = true\n[[backend.b.server]]",
        &[
            r#"6:11: backend.b.balance = "first": must be one of "round-robin", "least-connections", "random", "source" and "maglev""#,
            r#"7:14: backend.b.send-proxy = true: must be one of "v1", "v2" and "off""#,
        ],
    );
    check(
        "",
        "[log]\ntarget = \"stdot\"\nformat = \"jsn\"\n",
        &[
            r#"10:10: log.target = "stdot": must be "stdout", "off", "file:/absolute/path", "syslog:/dev/log" or "syslog:127.0.0.1:514""#,
            r#"11:10: log.format = "jsn": must be one of "json" and "tcplog"; did you mean "json"?"#,
        ],
    );
    check(
        "",
        "[log]\ntarget = \"file:lb.log\"\n",
        &[
            r#"10:10: log.target = "file:lb.log": must be "stdout", "off", "file:/absolute/path", "syslog:/dev/log" or "syslog:127.0.0.1:514""#,
        ],
    );
    check(
        "",
        "[log]\ntarget = \"syslog:10.0.0.1\"\n",
        &[r#"10:10: log.target = "syslog:10.0.0.1": the address of syslog: the port is missing"#],
    );
}

#[test]
fn keys_of_balance() {
    let check = |lines: &str, expected: &[&str]| {
        check("[[backend.b.server]]", &format!("{lines}\n[[backend.b.server]]"), expected);
    };
    check("balance = \"source\"\nhash-balance-factor = 125", &[]);
    check("balance = \"maglev\"\nhash-on = \"sni\"\nhash-balance-factor = 0", &[]);
    check(
        "hash-on = \"sni\"\nhash-balance-factor = 125",
        &[
            r#"6:11: backend.b.hash-on = "sni": needs balance = "maglev" beside it: nothing is hashed otherwise"#,
            r#"7:23: backend.b.hash-balance-factor = 125: needs balance = "source" or "maglev" beside it: nothing is hashed otherwise"#,
        ],
    );
    check(
        "balance = \"source\"\nhash-on = \"source\"",
        &[
            r#"7:11: backend.b.hash-on = "source": needs balance = "maglev" beside it: "source" always goes by the address"#,
        ],
    );
    check(
        "balance = \"maglev\"\nhash-on = \"cookie\"\nhash-balance-factor = 100",
        &[
            r#"7:11: backend.b.hash-on = "cookie": must be one of "source" and "sni""#,
            "8:23: backend.b.hash-balance-factor = 100: must be above 100, or 0 for no bound: servers together must be able to have all connections",
        ],
    );
    check(
        "balance = \"maglev\"\nhash-balance-factor = 10001",
        &["7:23: backend.b.hash-balance-factor = 10001: must be between 0 and 10000"],
    );
}

#[test]
fn numbers() {
    check("", "weight = 257\n", &["9:10: backend.b.server.1.weight = 257: must be between 0 and 256"]);
    check("", "weight = -1\n", &["9:10: backend.b.server.1.weight = -1: must be between 0 and 256"]);
    check(
        "",
        "max-connections = 0\n",
        &["9:19: backend.b.server.1.max-connections = 0: must be between 1 and 10000000"],
    );
    check(
        "",
        "max-connections = 99999999999999999999\n",
        &["9:19: backend.b.server.1.max-connections = 99999999999999999999: must be between 1 and 10000000"],
    );
    check(
        "",
        "check-port = 65536\n",
        &["9:14: backend.b.server.1.check-port = 65536: must be a port between 1 and 65535"],
    );
}

#[test]
fn durations_and_sizes() {
    check(
        "",
        "[global]\ndrain-timeout = 30\npending-hello-memory = 1000\n",
        &[
            r#"10:17: global.drain-timeout = 30: the unit is missing: write it in quotes, such as "5s""#,
            r#"11:24: global.pending-hello-memory = 1000: the unit is missing: write it in quotes, such as "16KiB""#,
        ],
    );
    check(
        "",
        "[global]\ndrain-timeout = \"30\"\n",
        &[
            r#"10:17: global.drain-timeout = "30": the unit is missing: write a number with one of ms, s, m, h and d, such as "5s""#,
        ],
    );
    check(
        "",
        "[global]\ndrain-timeout = true\n",
        &[r#"10:17: global.drain-timeout = true: must be text with a unit, such as "5s""#],
    );
    check(
        "mode =",
        "client-hello-timeout = \"0s\"\nclient-hello-max = \"17KiB\"\nmode =",
        &[
            r#"3:24: frontend.f.client-hello-timeout = "0s": must be between 10ms and 1m"#,
            r#"4:20: frontend.f.client-hello-max = "17KiB": must be between 512B and 16KiB"#,
        ],
    );
    check(
        "[[backend.b.server]]",
        "idle-timeout = \"on\"\nretries = 101\n[[backend.b.server]]",
        &[
            r#"6:16: backend.b.idle-timeout = "on": must be a whole number with a unit, such as "5s", or "off""#,
            "7:11: backend.b.retries = 101: must be between 0 and 100",
        ],
    );
    check(
        "mode =",
        "user-timeout = \"1ms\"\nmode =",
        &[r#"3:16: frontend.f.user-timeout = "1ms": must be between 100ms and 1d, or "off""#],
    );
    check(
        "mode =",
        "client-hello-max = \"8KiB\"\nclient-hello-wire-max = \"8KiB\"\nmode =",
        &[
            r#"4:25: frontend.f.client-hello-wire-max = "8KiB": client-hello-wire-max must be larger than client-hello-max: record headers come on top"#,
        ],
    );
}

#[test]
fn keepalive_and_path() {
    check(
        "mode =",
        "keepalive = true\nmode =",
        &[
            r#"3:13: frontend.f.keepalive = true: must be false or a table such as { idle = "60s", interval = "10s", count = 3 }"#,
        ],
    );
    check(
        "mode =",
        "keepalive = { idle = \"1500ms\", count = 128, idl = 1 }\nmode =",
        &[
            r#"3:22: frontend.f.keepalive.idle = "1500ms": must be whole seconds: the kernel counts no finer here"#,
            "3:40: frontend.f.keepalive.count = 128: must be between 1 and 127",
            r#"3:45: frontend.f.keepalive.idl: unknown key; did you mean "idle"?"#,
        ],
    );
    check(
        "mode =",
        "path = \"fast\"\nmode =",
        &[
            r#"3:8: frontend.f.path = "fast": must be one of "auto", "packet", "sockmap", "splice" and "copy""#,
        ],
    );
    check(
        "mode =",
        "path = \"packet\"\npath-required = true\nmode =",
        &[
            r#"4:17: frontend.f.path-required = true: cannot stand beside path = "packet": a flow begins elsewhere"#,
        ],
    );
    check(
        "",
        "[global]\npacket-ports = \"80-90\"\npacket-interfaces = [\"eth0\", \"a b\"]\npacket-state = \"lb\"\n",
        &[
            r#"10:16: global.packet-ports = "80-90": must be the first and the last of a range of ports from 1024 on, such as "61000-65535""#,
            r#"11:30: global.packet-interfaces[2] = "a b": must be an interface's name, 1 to 15 bytes without spaces, "/" and ":""#,
            r#"12:16: global.packet-state = "lb": must be "off" or a directory in a BPF file system, such as "/sys/fs/bpf/lb""#,
        ],
    );
    check(
        "mode =",
        "path-required = true\nmode =",
        &[
            r#"3:17: frontend.f.path-required = true: needs a path other than "auto" beside it: there would be nothing to require"#,
        ],
    );
    check(
        "mode =",
        "promote-after = \"1s\"\nmode =",
        &[r#"3:17: frontend.f.promote-after = "1s": needs path beside it: what it says is about that path"#],
    );
    check(
        "mode =",
        "path = \"sockmap\"\npath-required = true\npromote-after-bytes = \"1KiB\"\nmode =",
        &[
            r#"5:23: frontend.f.promote-after-bytes = "1KiB": cannot stand beside path-required = true: then the path carries every byte"#,
        ],
    );
}
