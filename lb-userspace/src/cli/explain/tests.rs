// SPDX-License-Identifier: MIT OR Apache-2.0
//! Explanations, section by section.

use std::io::ErrorKind::NotFound;

use super::*;

const UNPRIVILEGED: System = System { port_start: 1024, descriptors: Some(1024) };

const NOTHING: Question<'_> = Question { frontend: None, name: None, alpn: &[], from: None };

const TEXT: &str = r#"[frontend.https]
bind = ["[::]:443", "192.0.2.1:8443"]
mode = "tls-passthrough"
on-no-name = "web"
[[frontend.https.route]]
sni = ["www.example", "*.shop.example", "~^a[0-9]"]
backend = "web"
[[frontend.https.route]]
sni = "www.example"
alpn = ["h2", "h3"]
backend = "h2"
[[frontend.https.route]]
alpn = "acme-tls/1"
backend = "h2"
[frontend.db]
bind = "127.0.0.1:5000"
mode = "tcp"
default-backend = "h2"
[backend.web]
send-proxy = "v2"
[[backend.web.server]]
name = "one"
address = "10.0.0.1:443"
[[backend.web.server]]
name = "two"
address = "10.0.0.2:443"
weight = 3
max-connections = 9
[[backend.web.server]]
name = "spare"
address = "10.0.0.3:443"
backup = true
[backend.h2]
check = { type = "tcp" }
server = [{ name = "only", address = "10.0.0.4:443" }]
"#;

fn config(text: &str) -> Config {
    Config::parse(text, "lb.toml", &|_| Err(NotFound.into())).unwrap().config
}

/// The lines of the section on destinations.
fn destination(question: Question<'_>) -> String {
    let text = explain(&config(TEXT), &question, &UNPRIVILEGED).unwrap();
    text.split("# Where a connection goes: ").nth(1).unwrap().replace("\n#   ", "\n")
}

#[test]
fn an_explanation_is_an_equal_configuration() {
    let from = Some("192.0.2.9".parse().unwrap());
    let question = Question { name: Some("www.example"), from, ..NOTHING };
    let text = explain(&config(TEXT), &question, &UNPRIVILEGED).unwrap();
    assert_eq!(config(&text), config(TEXT));
}

#[test]
fn certificates_are_spoken_of_where_names_decide() {
    let check = |text: &str, expected: bool| {
        let text = explain(&config(text), &NOTHING, &UNPRIVILEGED).unwrap();
        assert_eq!(text.contains("--certificates"), expected, "{text}");
    };
    check(TEXT, true);
    check(&TEXT.replace("backend = \"h2\"", "backend = \"web\""), false);
}

#[test]
fn capabilities_are_for_low_ports_and_path_sockmap() {
    let check = |text: &str, port_start: u16, expected: &[&str]| {
        let system = System { port_start, ..UNPRIVILEGED };
        assert_eq!(capabilities(&config(text), &system), expected);
    };
    let low = "CAP_NET_BIND_SERVICE: [::]:443: below net.ipv4.ip_unprivileged_port_start = 1024; without it lb run ends with an error";
    let inside = "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: path sockmap is loaded; without them it is off, see lb doctor";
    check(TEXT, 1024, &["at start: CAP_NET_BIND_SERVICE", "afterwards: none", low]);
    check(TEXT, 443, &["at start: none", "afterwards: none"]);
    check(&TEXT.replace(":443", ":4443"), 1024, &["at start: none", "afterwards: none"]);
    let text = TEXT.replace("mode = \"tcp\"", "mode = \"tcp\"\npath = \"sockmap\"");
    let three = "at start: CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON";
    check(&text, 443, &[three, "afterwards: none", inside]);
    check(&text, 1024, &[&format!("{three}, CAP_NET_BIND_SERVICE"), "afterwards: none", inside, low]);
}

#[test]
fn descriptors_are_compared_with_the_limit() {
    let check = |max: Option<u32>, limit: Option<u64>, expected: &[&str]| {
        let max = max.map_or(String::new(), |max| format!("max-connections = {max}\n"));
        let system = System { descriptors: limit, ..UNPRIVILEGED };
        let lines = descriptors(&config(&format!("{TEXT}[global]\nworkers = 2\n{max}")), &system);
        assert_eq!(lines, expected);
    };
    let fixed = "46 = 9 listening + 1 checks + 4 workers + 32 reserve";
    check(
        None,
        Some(1024),
        &[
            "RLIMIT_NOFILE: 1024 (the hard limit; lb run raises the soft one to it)",
            fixed,
            "2 a connection: at most 391 connections",
            "2 a pipe of path splice: at most 98 pipes, lent only while bytes are inside",
        ],
    );
    check(
        Some(100),
        None,
        &[
            "RLIMIT_NOFILE: unlimited (the hard limit; lb run raises the soft one to it)",
            fixed,
            "2 a connection: at most 100 connections",
            "2 a pipe of path splice: at most 25 pipes, lent only while bytes are inside",
        ],
    );
    check(
        Some(100),
        Some(155),
        &[
            "RLIMIT_NOFILE: 155 (the hard limit; lb run raises the soft one to it)",
            fixed,
            "2 a connection: at most 43 connections",
            "2 a pipe of path splice: at most 11 pipes, lent only while bytes are inside",
            "too few for max-connections = 100: 296 are needed: set LimitNOFILE=296 in the systemd unit, or `ulimit -Hn 296` as root",
        ],
    );
}

#[test]
fn what_waits_for_descriptors_is_told() {
    let text = TEXT.replace("10.0.0.4:443", "web.internal:443") + "[global]\nworkers = 2\n";
    let lines = |limit: u64| {
        descriptors(&config(&text), &System { descriptors: Some(limit), ..UNPRIVILEGED }).join("\n")
    };
    let waiting = "37 of 128 health checks and 1 of 2 questions to DNS servers may run at the same time, further ones wait; \
                   665 descriptors are enough for all";
    assert_eq!(lines(256).lines().nth(4), Some(waiting));
    assert!(lines(256).contains("at most 63 connections\n"), "{}", lines(256));
    assert_eq!(lines(665).lines().nth(4), None);
    let refused = "too few for one connection: lb run ends with an error; 49 are needed";
    assert_eq!(lines(47).lines().last(), Some(refused));
}

#[test]
fn ports_are_told_to_who_asks_for_their_path() {
    let explained = |text: &str| explain(&config(text), &NOTHING, &UNPRIVILEGED).unwrap();
    let asking = format!("[global]\npacket-ports = \"50000-50099\"\n{TEXT}")
        .replace("mode = \"tcp\"", "mode = \"tcp\"\npath = \"packet\"");
    let text = explained(&asking);
    let expected = "# Ports of path packet\n#   50000-50099: at most 100 connections to each server; ";
    assert!(text.contains(expected), "{text}");
    assert!(!explained(TEXT).contains("path packet"));
}

#[test]
fn names_are_told_and_not_resolved() {
    let text = TEXT.replace("10.0.0.2:443", "web.internal:443").replace(
        "server = [{ name = \"only\", address = \"10.0.0.4:443\" }]",
        "server = [{ name = \"only\", srv = \"_db._tcp.internal\", max-addresses = 5 }]",
    );
    let expected = [
        "web two: the addresses of web.internal:443, at most 128 servers",
        "h2 only: the SRV records of _db._tcp.internal, at most 5 servers",
        "lb run asks /etc/hosts and then the servers of /etc/resolv.conf; nobody was asked now",
    ];
    assert_eq!(names(&config(&text)), expected);
    let text = format!("{text}[resolver]\nservers = [\"10.0.0.53:53\", \"[fd00::53]:53\"]\n");
    assert!(names(&config(&text))[2].contains("then 10.0.0.53:53, [fd00::53]:53;"));
    let lines = descriptors(&config(&format!("{text}[global]\nworkers = 2\n")), &UNPRIVILEGED);
    assert_eq!(lines[1], "132 = 9 listening + 5 checks + 82 resolver + 4 workers + 32 reserve");
    let question = Question { frontend: Some("db"), ..NOTHING };
    let explained = explain(&config(&text), &question, &UNPRIVILEGED).unwrap();
    assert!(explained.contains("server only _db._tcp.internal (its SRV records)\n"), "{explained}");
    assert_eq!(config(&explained), config(&text));
    assert!(names(&config(TEXT)).is_empty());
}

#[test]
fn names_lead_to_routes() {
    let check = |name: &str, alpn: &[&str], expected: &str| {
        let alpn: Vec<String> = alpn.iter().map(|name| (*name).into()).collect();
        let question = Question { frontend: Some("https"), name: Some(name), alpn: &alpn, from: None };
        let text = destination(question);
        let first = text.lines().nth(1).unwrap();
        let backend = text.lines().nth(2).unwrap().trim();
        assert_eq!(format!("{} {backend}", first.split_once("): ").unwrap().1), expected, "{name} {alpn:?}");
    };
    let web = "-> backend web, round-robin over 2 servers";
    check("www.example", &[], &format!("route of line 5, the name itself {web}"));
    check("www.example", &["h3"], "route of line 8, the name itself with ALPN h2 or h3 -> backend h2");
    check("x.shop.example", &["h2"], &format!("route of line 5, \"*.shop.example\" {web}"));
    check("a1.example", &[], &format!("route of line 5, \"~^a[0-9]\" {web}"));
    check("b.example", &["acme-tls/1"], "route of line 12, any name with ALPN acme-tls/1 -> backend h2");
    check(
        "b.example",
        &[],
        "no route matches, so on-unknown-name decides: reject -> closed, with a TLS alert",
    );
}

#[test]
fn an_answer_names_servers_and_header() {
    let question = Question {
        frontend: Some("https"),
        name: Some("www.example"),
        from: Some("2001:db8::1".parse().unwrap()),
        alpn: &[],
    };
    let expected = r#"name www.example, no ALPN, from 2001:db8::1
frontend https ([::]:443, 192.0.2.1:8443): route of line 5, the name itself
  -> backend web, round-robin over 2 servers
     server one 10.0.0.1:443, weight 1
     server two 10.0.0.2:443, weight 3, at most 9 connections
     server spare 10.0.0.3:443, weight 1, backup
     PROXY v2 header: source 2001:db8::1, authority www.example
"#;
    assert_eq!(destination(question), expected);
}

#[test]
fn an_answer_says_how_a_server_is_chosen() {
    let check = |lines: &str, expected: &str| {
        let text = TEXT.replace("send-proxy = \"v2\"", lines);
        let question = Question { frontend: Some("https"), name: Some("www.example"), ..NOTHING };
        let text = explain(&config(&text), &question, &UNPRIVILEGED).unwrap();
        assert!(text.contains(&format!("-> backend web, {expected} over 2 servers\n")), "{text}");
    };
    check("balance = \"random\"", "random");
    check("balance = \"source\"", "source");
    check("balance = \"maglev\"", "maglev by the client's address");
    check(
        "balance = \"maglev\"\nhash-on = \"sni\"\nhash-balance-factor = 125",
        "maglev by the server name (at most 125 % of its share)",
    );
}

#[test]
fn a_client_without_a_name_gets_its_policy() {
    let text = destination(Question { frontend: Some("https"), ..NOTHING });
    assert!(text.starts_with("no name, no ALPN\n"), "{text}");
    assert!(text.contains("no route matches, so on-no-name decides\n  -> backend web"), "{text}");
    assert!(text.ends_with("PROXY v2 header: source the client's address\n"), "{text}");
}

#[test]
fn an_answer_says_whose_header_is_read_and_what_is_sent() {
    let text = TEXT
        .replacen("bind = [\"[::]:443\"", "accept-proxy-from = \"192.0.2.0/24\"\nbind = [\"[::]:443\"", 1)
        .replacen(
            "send-proxy = \"v2\"",
            "send-proxy = \"v2\"\nsend-proxy-alpn = true\nsend-proxy-unique-id = true",
            1,
        );
    let alpn = ["http/1.1".to_owned(), "acme".to_owned()];
    let ask = |from: &str| {
        let from = Some(from.parse().unwrap());
        let question = Question { frontend: Some("https"), name: Some("www.example"), from, alpn: &alpn };
        explain(&config(&text), &question, &UNPRIVILEGED).unwrap()
    };
    let listed = ask("192.0.2.1");
    let first = "\n#     192.0.2.1 is in accept-proxy-from: a PROXY header must come first, within 5s; the client is who it says\n";
    assert!(listed.contains(first), "{listed}");
    let header = "PROXY v2 header: source 198.51.100.1, authority www.example, ALPN http/1.1, a unique id\n";
    let other = ask("198.51.100.1");
    assert!(!other.contains("must come first") && other.ends_with(header), "{other}");
    let nobody = Question { frontend: Some("https"), ..NOTHING };
    let text = explain(&config(&text), &nobody, &UNPRIVILEGED).unwrap();
    assert!(text.contains("from accept-proxy-from: a PROXY header must come first, within 5s\n"), "{text}");
}

#[test]
fn only_frontends_in_reach_count() {
    let check = |from: &str, https: bool, db: bool| {
        let text = destination(Question { from: Some(from.parse().unwrap()), ..NOTHING });
        let unreachable = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("frontend {name} "))).unwrap();
            line.ends_with(&format!("cannot be reached from {from}"))
        };
        assert_eq!((!unreachable("https"), !unreachable("db")), (https, db), "{from}\n{text}");
    };
    check("192.0.2.9", true, false);
    check("2001:db8::1", true, false);
    check("127.0.0.1", true, true);
    check("::1", true, false);
}

#[test]
fn unknown_frontends_are_an_error() {
    let question = Question { frontend: Some("http"), ..NOTHING };
    let err = explain(&config(TEXT), &question, &UNPRIVILEGED).unwrap_err();
    assert_eq!(err, "there is no frontend \"http\": choose from https, db");
}
