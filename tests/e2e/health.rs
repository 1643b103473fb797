// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of real servers: certificates, answers, scripts, and what the admin surface says of them.

use std::process::Command;

use lb_tests::agent::{Agent, admin, binary};
use lb_tests::authority::Authority;
use lb_tests::config::Config;
use lb_tests::metrics::fetch;
use lb_tests::net::Net;
use lb_tests::peer::Service;
use lb_tests::process::run;
use lb_tests::servers::{Redis, Web};
use lb_tests::stream::say;
use lb_tests::wait::{until, until_some};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{PORT, SERVER_PORT};

/// Quick checks; further keys follow.
const QUICK: &str = "interval = \"200ms\"\ntimeout = \"2s\"\nrise = 2\nfall = 2\n";

#[test]
fn certificates_are_judged_as_the_configuration_says_and_shown_in_any_case() {
    let net = Net::new(1);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (good, expired) =
        (ours.issue_until("alpha.example", 2040), ours.issue_until("expired.example", 2001));
    let (other, foreign) = (ours.issue("omega.test"), theirs.issue("alpha.example"));
    let ports = [(7001, &good), (7002, &expired), (7003, &other), (7004, &foreign)];
    let nginx = Web::start(net.server(), &ports, "hello");
    let ca = ours.certificate();
    let required = |sni: &str| {
        format!("type = \"tls\"\nsni = \"{sni}\"\nverify = \"required\"\nca-file = \"{}\"", ca.display())
    };
    let (expired, required) = (required("expired.example"), required("alpha.example"));
    let backends = [
        ("good", 7001, required.as_str()),
        ("expired", 7002, &expired),
        ("other", 7003, &required),
        ("foreign", 7004, &required),
        ("any", 7002, "type = \"tls\"\nverify = \"none\""),
    ];
    let config = backends.iter().fold(frontend(&net, "good"), |config, (name, port, check)| {
        checked(config, &net, name, *port, check)
    });
    let agent = Agent::launch(&net).alive().start(&config);
    let check = |backend: &str, state: &str, reason: &str, end: u64| {
        let server = until_some(&format!("{backend}: {state}, {reason}"), || {
            let server = server_of(&agent, backend);
            let last = server["results"].as_array()?.last()?.clone();
            (last["state"] == state && last["reason"] == reason).then_some(server)
        });
        let name = match backend {
            "other" => "omega.test",
            "expired" | "any" => "expired.example",
            _ => "alpha.example",
        };
        assert_eq!(server["certificate"]["names"], serde_json::json!([name]), "{server}");
        let labels = [("backend", backend)];
        assert_eq!(agent.scrape().count("lb_server_certificate_expiry_seconds", &labels), end, "{backend}");
        assert_eq!(agent.scrape().count("lb_server_up", &labels), u64::from(state == "up"));
    };
    // The beginnings of the years 2040, 2001 and 4000.
    check("good", "up", "TLS established", 2_208_988_800);
    check("expired", "down", "certificate expired", 978_307_200);
    check("other", "down", "certificate for another name", 64_060_588_800);
    // Both authorities have the same name, so that only the signature tells them apart.
    check("foreign", "down", "bad certificate", 64_060_588_800);
    check("any", "up", "TLS established", 978_307_200);
    until("more checks", || agent.scrape().count("lb_server_checks_total", &[("backend", "any")]) > 5);
    // A reset, or an end without close_notify, would read otherwise.
    let of_good = |line: &String| line.contains(":7001") && line.contains("client: 10.2.0.1,");
    let lines: Vec<String> = nginx.process.stderr().into_iter().filter(of_good).collect();
    assert!(!lines.is_empty());
    assert!(
        lines.iter().all(|line| line.contains("client closed connection while waiting for request")),
        "{lines:?}"
    );
}

#[test]
fn an_https_check_needs_the_status_and_the_body() {
    let net = Net::new(1);
    let authority = Authority::new();
    let _nginx = Web::start(net.server(), &[(7001, &authority.issue("alpha.example"))], "lag: 7 s");
    let https = format!(
        "type = \"https\"\nhost = \"alpha.example\"\nca-file = \"{}\"\n",
        authority.certificate().display()
    );
    let backends = [
        ("text", "expect-body = \"lag:\"", "up", "status 200"),
        ("regex", "expect-body = \"~^lag: [0-9] s$\"", "up", "status 200"),
        ("absent", "expect-body = \"ready\"", "down", "body without what is expected"),
        ("status", "expect = 204", "down", "bad status 200"),
    ];
    let config = backends.iter().fold(frontend(&net, "text"), |config, (name, keys, _, _)| {
        checked(config, &net, name, 7001, &format!("{https}{keys}"))
    });
    let agent = Agent::launch(&net).alive().start(&config);
    for (name, _, state, reason) in backends {
        until_last(&agent, name, state, reason);
    }
}

/// Redis is asked with its own words; one that is stopped accepts connections and does not answer.
#[test]
fn a_script_tells_a_redis_that_answers_from_one_that_only_listens() {
    let net = Net::new(1);
    let redis = Redis::start(net.server(), 6379);
    let script = "type = \"script\"\nscript = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }]\ntimeout = \"500ms\"";
    let config = frontend(&net, "redis")
        .pool("redis", "")
        .raw(&format!("[backend.redis.check]\n{script}\ninterval = \"200ms\"\nfall = 2"));
    let config = config.server("redis", "only", net.server().address(6379), "");
    let agent = Agent::start(&net, &config);
    until_last(&agent, "redis", "up", "script done");
    redis.process.signal(Signal::STOP);
    until_last(&agent, "redis", "down", "timeout");
    redis.process.signal(Signal::CONT);
    until_last(&agent, "redis", "up", "script done");
}

#[test]
fn a_script_speaks_to_a_server_that_speaks_first() {
    let net = Net::new(1);
    let mail = Service::start(net.server().listen(25), |stream| {
        say(&stream, b"220 mail.example ESMTP\r\n");
        let mut line = String::new();
        let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line);
        say(&stream, b"221 bye\r\n");
        read.map(|_| line).unwrap_or_default()
    });
    let script = "type = \"script\"\nscript = [{ expect-regex = \"^220[ -]\" }, { send = \"QUIT\\r\\n\" }, { expect = \"221\" }]";
    let wrong =
        "type = \"script\"\nscript = [{ expect = \"220\" }, { send = \"QUIT\\r\\n\" }, { expect = \"250\" }]";
    let config = checked(frontend(&net, "mail"), &net, "mail", 25, script);
    let agent = Agent::launch(&net).alive().start(&checked(config, &net, "wrong", 25, wrong));
    until_last(&agent, "mail", "up", "script done");
    until_last(&agent, "wrong", "down", "unexpected answer in step 3");
    assert_eq!(mail.outcome(), "QUIT\r\n");
}

#[test]
fn the_list_of_servers_has_the_last_twenty_checks_and_needs_the_password() {
    let net = Net::new(1);
    let hash = run(Command::new("sh").args(["-c", "printf secret | \"$0\" hash-password"]).arg(binary()));
    let user = format!("[[admin.user]]\nname = \"operator\"\npassword-hash = \"{}\"", hash.trim());
    let servers = Service::start(net.server().listen(SERVER_PORT), |_| ());
    let config = frontend(&net, "plain").pool("plain", "");
    let config = config.raw("[backend.plain.check]\ntype = \"tcp\"\ninterval = \"100ms\"");
    let address = net.server().address(SERVER_PORT);
    let config = config.server("plain", "only", address, "weight = 3\nmax-connections = 9").raw(&user);
    let _agent = Agent::start(&net, &config);
    let ask = |lines: &str| fetch(&net.balancer, admin(), "/api/v1/servers", lines).expect("a surface");
    assert_eq!(ask("").status, 401);
    // RFC 7617: base64 of operator:secret.
    let right = "Authorization: Basic b3BlcmF0b3I6c2VjcmV0\r\n";
    until("25 checks", || servers.accepted() >= 25);
    let response = ask(right);
    assert_eq!(response.status, 200);
    assert!(
        response.head.to_ascii_lowercase().contains("content-type: application/json"),
        "{}",
        response.head
    );
    let value: Value = serde_json::from_str(&response.body).expect("JSON");
    let server = &value["servers"][0];
    assert_eq!((&server["backend"], &server["server"]), (&"plain".into(), &"only".into()));
    assert_eq!((&server["address"], &server["state"]), (&address.to_string().into(), &"up".into()));
    assert_eq!((&server["weight"], &server["max_connections"]), (&3.into(), &9.into()));
    assert_eq!((&server["connections"], &server["certificate"]), (&0.into(), &Value::Null));
    let results = server["results"].as_array().expect("a list");
    assert_eq!(results.len(), 20);
    let times: Vec<&str> = results.iter().filter_map(|result| result["at"].as_str()).collect();
    assert!(times.is_sorted() && times.len() == 20, "{times:?}");
    for result in results {
        assert_eq!((&result["reason"], &result["passed"]), (&"connected".into(), &true.into()), "{result}");
        assert!(result["duration_seconds"].as_f64().is_some_and(|seconds| (0.0..2.0).contains(&seconds)));
    }
}

#[test]
fn backends_that_check_the_same_server_share_one_probe() {
    let net = Net::new(1);
    let server = Service::start(net.server().listen(SERVER_PORT), |_| ());
    let check = "type = \"tcp\"\ninterval = \"200ms\"\njitter = 0";
    let add = |config: Config, name: &str, more: &str| {
        config.pool(name, "").raw(&format!("[backend.{name}.check]\n{check}\n{more}")).server(
            name,
            "only",
            net.server().address(SERVER_PORT),
            "",
        )
    };
    let config = ["a", "b", "c"].iter().fold(frontend(&net, "a"), |config, name| add(config, name, ""));
    let agent = Agent::start(&net, &add(config, "patient", "fall = 50"));
    let checks = |backend| agent.scrape().count("lb_server_checks_total", &[("backend", backend)]);
    until("15 checks of each", || ["a", "b", "c", "patient"].into_iter().all(|name| checks(name) >= 15));
    let (results, probes) = (checks("b"), server.accepted() as u64);
    assert!(probes <= results + 3, "{probes} probes for {results} results of each backend");
    drop(server);
    for name in ["a", "b", "c"] {
        agent.until_count("lb_server_up", &[("backend", name)], 0);
    }
    // Each goes by its own `fall`.
    assert_eq!(agent.scrape().count("lb_server_up", &[("backend", "patient")]), 1);
}

/// A frontend for one of the backends that follow; the agent warns of the others, and checks them all the same.
fn frontend(net: &Net, backend: &str) -> Config {
    Config::new().tcp("in", net.frontend(PORT), backend, "")
}

/// Adds a backend with one server and these keys of its check.
fn checked(config: Config, net: &Net, name: &str, port: u16, check: &str) -> Config {
    let check = format!("[backend.{name}.check]\n{QUICK}{check}");
    config.pool(name, "").raw(&check).server(name, "only", net.server().address(port), "")
}

/// What the admin surface says of the only server of a backend.
#[track_caller]
fn server_of(agent: &Agent, backend: &str) -> Value {
    let response = agent.admin("/api/v1/servers").expect("an admin surface");
    let value: Value = serde_json::from_str(&response.body).expect("JSON");
    let servers = value["servers"].as_array().expect("a list");
    servers.iter().find(|server| server["backend"] == backend).expect("a server").clone()
}

/// Waits until the last check of a backend's only server came to this.
#[track_caller]
fn until_last(agent: &Agent, backend: &str, state: &str, reason: &str) {
    until(&format!("{backend}: {state}, {reason}"), || {
        let server = server_of(agent, backend);
        let last = server["results"].as_array().and_then(|results| results.last());
        server["state"] == state && last.is_some_and(|last| last["reason"] == reason)
    });
}
