// SPDX-License-Identifier: MIT OR Apache-2.0
//! Certificates that cover names of other backends: said by the running agent, and by `lb check --certificates`.

use std::process::{Command, Output};

use lb_tests::agent::{Agent, binary, public_directory, verb};
use lb_tests::authority::{Authority, Identity};
use lb_tests::config::Config;
use lb_tests::net::Net;
use lb_tests::peer::Service;
use lb_tests::process::{output, text};
use lb_tests::servers::Web;
use lb_tests::wait::until;
use serde_json::Value;

use crate::support::PORT;

/// Where the servers of the backends `alpha` and `beta` listen.
const SERVERS: [(&str, u16); 2] = [("alpha", 7001), ("beta", 7002)];

const METRIC: &str = "lb_frontend_certificate_overlaps";

#[test]
fn a_wildcard_on_two_backends_is_warned_of_until_each_has_its_own_certificate() {
    let net = Net::new(1);
    let authority = Authority::new();
    let wildcard = authority.issue("*.example");
    let own = ["alpha.example", "beta.example"].map(|name| authority.issue(name));
    let mut nginx = serve(&net, [&wildcard, &wildcard]);
    let agent = Agent::start(&net, &config(&net));
    let labels = [("frontend", "https")];

    // Either backend may get the other's requests.
    agent.until_count(METRIC, &labels, 2);
    until("both in the list", || overlaps(&agent).len() == 2);
    for (listed, (one, other)) in overlaps(&agent).iter().zip([("alpha", "beta"), ("beta", "alpha")]) {
        let expected = serde_json::json!({
            "frontend": "https", "backend": one, "certificate_name": "*.example",
            "other_backend": other, "example": format!("{other}.example"),
        });
        assert_eq!(*listed, expected);
        let parts = [
            " WARN ".to_owned(),
            "frontend=\"https\"".to_owned(),
            format!(" backend=\"{one}\""),
            format!("other_backend=\"{other}\""),
            format!("example=\"{other}.example\""),
        ];
        assert_eq!(lines(&agent, &parts), 1, "{:?}", agent.process.stderr());
    }
    let said = text(&check(&net, &["--certificates"]).stderr);
    assert_eq!(said.matches("warning: ").count(), 2, "{said}");

    drop(nginx);
    nginx = serve(&net, [&own[0], &own[1]]);
    agent.until_count(METRIC, &labels, 0);
    until("an empty list", || overlaps(&agent).is_empty());
    let gone = [" INFO ".to_owned(), "certificate no longer covers names of another backend".to_owned()];
    assert_eq!(lines(&agent, &gone), 2, "{:?}", agent.process.stderr());
    let output = check(&net, &["--certificates"]);
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("warning: "), "{said}");
    assert!(said.contains("2 certificates compared"), "{said}");
    drop(nginx);
}

#[test]
fn a_check_of_certificates_names_the_lines_of_routes_and_fails_for_none() {
    let net = Net::new(1);
    let authority = Authority::new();
    let (wildcard, own) = (authority.issue("*.example"), authority.issue("beta.example"));
    let _nginx = serve(&net, [&wildcard, &own]);
    let output = check(&net, &["--certificates"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    let route = config(&net).text().lines().position(|line| line.contains("beta.example")).expect("a route");
    let expected =
        format!("warning: lb.toml:{route}:1: frontend.https.route.2: beta.example belongs to backend beta");
    assert!(stderr.contains(&expected), "{expected} is not in {stderr}");
    assert_eq!(stderr.matches("warning: ").count(), 1, "{stderr}");
    assert!(stdout.contains("valid, 1 warning"), "{stdout}");

    let output = check(&net, &["--certificates", "--format", "json"]);
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["warnings"][0]["line"], route, "{report}");
    assert_eq!(report["warnings"][0]["key"], "frontend.https.route.2", "{report}");
    assert_eq!(report["notes"].as_array().map(Vec::len), Some(1), "{report}");
}

#[test]
fn servers_without_certificates_are_notes_and_nobody_is_asked_without_the_flag() {
    let net = Net::new(1);
    let servers = Service::start(net.server().listen(SERVERS[0].1), |_| ());
    for arguments in [&[][..], &["--explain"], &["--format", "json"]] {
        let output = check(&net, arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && !stderr.contains("note: "), "{stderr}");
        assert_eq!(stdout.contains("--certificates"), arguments.contains(&"--explain"), "{stdout}");
    }
    assert_eq!(servers.accepted(), 0);
    let output = check(&net, &["--certificates"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(servers.accepted(), 1);
    for ((backend, port), reason) in SERVERS.into_iter().zip(["", "refused\n"]) {
        let address = net.server().address(port);
        let note = format!("note: backend {backend}, server only ({address}) shows no certificate: {reason}");
        assert!(stderr.contains(&note), "{note} is not in {stderr}");
    }
    assert!(stderr.contains("note: 0 certificates"), "{stderr}");
}

/// As few checks at a time as the limit of open files has room for: no server is blamed for it.
#[test]
fn few_open_files_make_checks_wait_for_each_other() {
    let net = Net::new(1);
    let servers = 120;
    // Nobody accepts, so that each check holds its socket until its timeout.
    let _listener = net.server().listen(SERVERS[0].1);
    let check = "[backend.alpha.check]\ntype = \"tls\"\ntimeout = \"200ms\"\nverify = \"none\"";
    let config = Config::new()
        .passthrough("https", &[net.frontend(PORT)], "")
        .route("https", "alpha.example", "alpha")
        .pool("alpha", "")
        .raw(check);
    let address = net.server().address(SERVERS[0].1);
    let config = (0..servers)
        .fold(config, |config, server| config.server("alpha", &format!("s{server}"), address, ""));
    let place = public_directory();
    std::fs::write(place.path().join("lb.toml"), config.text()).expect("a temporary file");
    let mut command = Command::new("prlimit");
    command.arg("--nofile=100:100").arg(binary()).args(["check", "lb.toml", "--certificates"]);
    let said = net.balancer.enter(|| output(command.current_dir(place.path())));
    let stderr = text(&said.stderr);
    assert!(said.status.success(), "{stderr}");
    assert_eq!(stderr.matches("shows no certificate").count(), servers, "{stderr}");
    assert!(!stderr.contains("open files"), "{stderr}");
}

/// The servers with these certificates.
#[track_caller]
fn serve(net: &Net, identities: [&Identity; 2]) -> Web {
    let ports = [(SERVERS[0].1, identities[0]), (SERVERS[1].1, identities[1])];
    Web::start(net.server(), &ports, "hello")
}

/// `alpha.example` and `beta.example`, each with a backend of its own whose server is checked over TLS.
fn config(net: &Net) -> Config {
    let config = SERVERS
        .iter()
        .fold(Config::new().passthrough("https", &[net.frontend(PORT)], ""), |config, (name, _)| {
            config.route("https", &format!("{name}.example"), name)
        });
    SERVERS.iter().fold(config, |config, (name, port)| {
        let keys = "interval = \"2s\"\ntimeout = \"2s\"\nverify = \"none\"";
        let check = format!("[backend.{name}.check]\ntype = \"tls\"\nsni = \"{name}.example\"\n{keys}");
        config.pool(name, "").raw(&check).server(name, "only", net.server().address(*port), "")
    })
}

/// `lb check lb.toml` with these arguments, where the agent would run.
#[track_caller]
fn check(net: &Net, arguments: &[&str]) -> Output {
    let place = public_directory();
    std::fs::write(place.path().join("lb.toml"), config(net).text()).expect("a temporary file");
    net.balancer.enter(|| verb(place.path(), &[&["check", "lb.toml"], arguments].concat()))
}

/// What `/api/v1/warnings` lists.
#[track_caller]
fn overlaps(agent: &Agent) -> Vec<Value> {
    let response = agent.admin("/api/v1/warnings").expect("an admin surface");
    assert_eq!(response.status, 200);
    let report: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(report["further_certificate_overlaps"], 0, "{report}");
    report["certificate_overlaps"].as_array().expect("a list").clone()
}

/// How many lines of the agent have all these parts.
fn lines(agent: &Agent, parts: &[String]) -> usize {
    agent.process.stderr().iter().filter(|line| parts.iter().all(|part| line.contains(part.as_str()))).count()
}
