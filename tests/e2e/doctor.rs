// SPDX-License-Identifier: MIT OR Apache-2.0
//! `lb doctor`, as everybody who might ask.

use lb_tests::agent::{Agent, Launch};
use lb_tests::bpffs::Bpffs;
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::process::text;
use serde_json::Value;

use crate::packet_links::ip;
use crate::packet_tracking::rule;
use crate::privileges::{FOR_SOCKMAP, hidden_btf};
use crate::support::{NOTHING_KEPT, PORT, SERVER_PORT, tcp_config};

/// sysexits.h: EX_UNAVAILABLE.
const UNAVAILABLE: i32 = 69;

#[test]
fn root_lacks_nothing_and_sees_every_step() {
    let findings = examine(Path::Sockmap, |launch| launch, 0);
    assert_eq!(lacking(&findings), "");
    for subject in
        ["release", "bpf(2)", "BTF", "cgroup v2", "user", "open files", "copy", "splice", "sockmap", "packet"]
    {
        find(&findings, subject);
    }
    let is_step = |finding: &&Value| finding["section"] == "self-test of path sockmap";
    let steps: Vec<&Value> = findings.iter().filter(is_step).collect();
    assert!(steps.len() >= 5, "{steps:?}");
    assert!(
        steps.iter().all(|step| step["milliseconds"].as_f64().is_some_and(|took| took > 0.0)),
        "{steps:?}"
    );
}

#[test]
fn nobody_sees_everything_that_can_be_seen() {
    let findings = examine(Path::Sockmap, Launch::unprivileged, UNAVAILABLE);
    assert_eq!(lacking(&findings), "CAP_BPF CAP_NET_ADMIN CAP_PERFMON sockmap");
    let change = find(&findings, "sockmap")["change"].as_str().expect("what to change");
    assert!(change.contains("AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON"), "{change}");
    for subject in ["release", "bpf(2)", "BTF", "cgroup v2", "copy", "splice"] {
        assert_eq!(find(&findings, subject)["verdict"], "ok");
    }
}

#[test]
fn each_missing_capability_is_named() {
    for missing in FOR_SOCKMAP {
        let held: Vec<&str> = FOR_SOCKMAP.into_iter().filter(|name| *name != missing).collect();
        let findings = examine(Path::Sockmap, |launch| launch.with_capabilities(&held), UNAVAILABLE);
        assert_eq!(lacking(&findings), format!("{missing} sockmap"));
        let said = find(&findings, "sockmap")["text"].as_str().expect("text");
        assert_eq!(said, format!("off: not permitted: {missing} is missing"));
    }
}

#[test]
fn a_user_namespace_is_seen_through() {
    let namespace = |launch: Launch| launch.through(&["unshare", "--user", "--map-root-user", "--"]);
    let findings = examine(Path::Sockmap, namespace, UNAVAILABLE);
    assert_eq!(lacking(&findings), "sockmap");
    let user = find(&findings, "user")["text"].as_str().expect("text");
    assert_eq!(user, "uid 0 in its own user namespace");
}

#[test]
fn hidden_types_are_noticed() {
    let findings = examine(Path::Sockmap, hidden_btf, UNAVAILABLE);
    assert_eq!(lacking(&findings), "BTF sockmap");
    let change = find(&findings, "sockmap")["change"].as_str().expect("what to change");
    assert!(change.contains("CONFIG_DEBUG_INFO_BTF=y"), "{change}");
}

#[test]
fn what_nobody_asks_for_does_not_count() {
    let findings = examine(Path::Splice, Launch::unprivileged, 0);
    assert_eq!(lacking(&findings), "");
    assert_eq!(find(&findings, "sockmap")["verdict"], "note");
}

#[test]
fn a_low_port_needs_its_capability() {
    let net = Net::new(1);
    let server = net.server().address(SERVER_PORT);
    let config = Config::new().tcp("in", net.frontend(443), "out", "").backend("out", server, "");
    let output = Agent::launch(&net).unprivileged().verb(&["doctor"], &config);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
    assert!(said.contains("lacks CAP_NET_BIND_SERVICE"), "{said}");
    assert!(said.contains("change: AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{said}");
    assert!(said.trim_end().ends_with("lb.toml asks for is not available."), "{said}");
}

/// Before anybody wonders why the path is off.
#[test]
fn what_path_packet_goes_by_on_this_host_is_told() {
    let (net, bpffs) = (Net::new(1), Bpffs::new());
    net.balancer.sysctl("net/ipv4/ip_local_port_range", "32768 60999");
    let state = bpffs.path("lb");
    let examine = |ports: &str, code: i32| {
        let global = format!("packet-state = \"{}\"\npacket-ports = \"{ports}\"", state.display());
        let config = Config::new().global(&global).path(Path::Packet);
        let config = config.tcp("in", net.frontend(PORT), "out", "");
        let config = config.backend("out", net.server().address(SERVER_PORT), "");
        (examine_for(&net, |launch| launch, &config, code), config)
    };
    let said =
        |findings: &[Value], subject: &str| find(findings, subject)["text"].as_str().unwrap_or("").to_owned();
    let (findings, _) = examine("60990-61100", UNAVAILABLE);
    assert_eq!(lacking(&findings), "packet-ports");
    let change = find(&findings, "packet-ports")["change"].as_str().expect("what to change");
    assert!(change.starts_with("net.ipv4.ip_local_reserved_ports = 60990-61100 "), "{change}");
    // What it says helps.
    net.balancer.sysctl("net/ipv4/ip_local_reserved_ports", "60990-61100");
    let (findings, config) = examine("60990-61100", 0);
    assert_eq!(said(&findings, "packet-ports"), "60990-61100, which the kernel gives to nobody");
    assert_eq!(
        said(&findings, "packet-state"),
        format!("{} keeps flows while lb is started anew", state.display())
    );
    assert!(!state.exists(), "looking makes nothing");
    let agent = Agent::start(&net, &config);
    let (findings, _) = examine("61000-61200", 0);
    let process = agent.process.pid();
    let expected = format!("60990-61100 are those of the lb that runs (process {process})");
    assert_eq!(said(&findings, "packet-ports"), expected);
    assert_eq!(find(&findings, "packet-ports")["verdict"], "note");
}

/// What has the kernel track connections (nft(8)).
const TRACKED: &str = "table inet t {
    chain c {
        type filter hook input priority 0;
        ct state new accept;
    }
}";

/// Interfaces, settings and modules, by which flows stay in user space or are not seen.
#[test]
fn what_keeps_flows_from_path_packet_is_told() {
    let net = Net::new(1);
    net.balancer.sysctl("net/ipv4/ip_local_port_range", "32768 60999");
    ip(&net.balancer, &["link", "add", "bridge", "type", "bridge"]);
    ip(&net.balancer, &["link", "set", "server0", "master", "bridge"]);
    rule(&net.balancer, TRACKED);
    let examine = |interfaces: &str, ecn: &str, code: i32| {
        net.balancer.sysctl("net/ipv4/tcp_ecn", ecn);
        let config = Config::new().global(&format!("{NOTHING_KEPT}\npacket-interfaces = [{interfaces}]"));
        let config = config.path(Path::Packet).tcp("in", net.frontend(PORT), "out", "");
        let config = config.backend("out", net.server().address(SERVER_PORT), "");
        examine_for(&net, |launch| launch, &config, code)
    };
    let said = |findings: &[Value], subject: &str| {
        let found = find(findings, subject);
        [&found["verdict"], &found["text"]].map(|value| value.as_str().unwrap_or("").to_owned())
    };
    let findings = examine("\"client\", \"server0\"", "1", UNAVAILABLE);
    assert_eq!(lacking(&findings), "packet-interfaces");
    let text = "server0 is a port of bridge, by which connections leave: they stay in user space";
    assert_eq!(said(&findings, "packet-interfaces"), ["lacks", text]);
    assert_eq!(find(&findings, "packet-interfaces")["change"], "bridge instead of server0");
    assert_eq!(said(&findings, "net.ipv4.tcp_ecn")[0], "ok");
    assert_eq!(said(&findings, "membarrier(2)")[0], "ok");
    let findings = examine("\"client\", \"later\"", "2", 0);
    let [verdict, text] = said(&findings, "packet-interfaces");
    assert!(verdict == "note" && text.starts_with("there is no interface later"), "{text}");
    assert_eq!(said(&findings, "net.ipv4.tcp_ecn")[0], "note");
    let heard = ["ok", "the kernel tells of it, and is told"];
    assert_eq!(said(&findings, "connection tracking"), heard);
    let nobody = examine_for(&net, Launch::unprivileged, &tcp_config(&net, Path::Packet, ""), UNAVAILABLE);
    assert_eq!(said(&nobody, "connection tracking"), ["note", "not to be asked without CAP_NET_ADMIN"]);
}

/// The findings for a configuration with this path, in these circumstances, and with this exit code.
#[track_caller]
fn examine(path: Path, circumstances: impl FnOnce(Launch) -> Launch, code: i32) -> Vec<Value> {
    let net = Net::new(1);
    examine_for(&net, circumstances, &tcp_config(&net, path, ""), code)
}

#[track_caller]
fn examine_for(
    net: &Net,
    circumstances: impl FnOnce(Launch) -> Launch,
    config: &Config,
    code: i32,
) -> Vec<Value> {
    let output = circumstances(Agent::launch(net)).verb(&["doctor", "--format", "json"], config);
    let (said, complaint) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}{complaint}");
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(report["available"], code == 0);
    report["findings"].as_array().expect("a list").clone()
}

#[track_caller]
fn find<'a>(findings: &'a [Value], subject: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("nothing about {subject}: {findings:?}"))
}

/// What lacks, with spaces between.
fn lacking(findings: &[Value]) -> String {
    let lacking = findings.iter().filter(|finding| finding["verdict"] == "lacks");
    lacking.filter_map(|finding| finding["subject"].as_str()).collect::<Vec<_>>().join(" ")
}
