// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said of a machine, without one.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::findings::{Finding, Verdict, all, is_complete};
use super::paths::Paths;
use super::surroundings::{Interface, Surroundings};
use super::*;
use crate::cli::explain::System;
use crate::config::Config;
use crate::kernel::packet::AttachError;
use crate::kernel::packet::kept::Why;
use crate::kernel::{BtfError, LoadError, SelfTestError, Step};
use crate::net::PortsError;
use crate::net::claim::Rival;
use crate::privileges::{Capability, Lack};

/// A machine that has everything, with a process that is root.
fn machine() -> Machine {
    Machine {
        kernel: "Linux 6.12.1 x86_64".into(),
        bpf_disabled: Some("2".into()),
        has_btf: true,
        cgroup: Some("/sys/fs/cgroup".into()),
        user: 0,
        held: Capability::ALL.to_vec(),
        is_in_initial_user_namespace: true,
        is_filtered: false,
        soft_descriptors: Some(1_024),
        system: System { port_start: 1024, descriptors: Some(20_000) },
    }
}

fn config(path: &str, bind: &str, global: &str) -> Config {
    let text = format!(
        "[global]\nworkers = 1\n{global}\n[frontend.f]\nbind = \"{bind}\"\nmode = \"tcp\"\npath = \"{path}\"\ndefault-backend = \"b\"\n\
         [backend.b]\nserver = [{{ name = \"1\", address = \"10.0.0.1:1\" }}]\n"
    );
    Config::parse(&text, "t.toml", &|_| Err(io::ErrorKind::NotFound.into())).unwrap().config
}

fn works() -> Paths {
    let step = Step { behaviour: "a slow reader loses nothing", took: Duration::from_micros(12_345) };
    let packet_step =
        Step { behaviour: "packets of nobody pass as they came", took: Duration::from_micros(500) };
    let (steps, packet_steps) = (vec![step], vec![packet_step]);
    Paths { splice: Ok(()), sockmap: Ok(()), steps, packet: Ok(()), packet_steps }
}

fn fails(error: LoadError) -> Paths {
    Paths { sockmap: Err(error), steps: Vec::new(), ..works() }
}

/// A host that has everything.
fn surroundings() -> Surroundings {
    Surroundings {
        ports: 61_000..=65_535,
        are_ours: Ok(()),
        agents: Vec::new(),
        keeper: Ok("/sys/fs/bpf/lb".into()),
        interfaces: Vec::new(),
        tracking: Some(Ok(())),
        grace: Ok(()),
        only_grants_ecn: false,
    }
}

fn examine(machine: &Machine, config: Option<&Config>, paths: &Paths) -> Vec<Finding> {
    all(machine, &Wishes::new(config, machine), paths, &surroundings())
}

/// What lacks: subjects and what to change.
fn lacking(findings: &[Finding]) -> Vec<(&str, &str)> {
    let lacking = findings.iter().filter(|finding| finding.verdict == Verdict::Lacking);
    lacking.map(|finding| (&*finding.subject, finding.cure.as_deref().unwrap_or(""))).collect()
}

#[test]
fn a_machine_with_everything_lacks_nothing() {
    for config in [None, Some(&config("sockmap", "0.0.0.0:443", "")), Some(&config("auto", "0.0.0.0:80", ""))]
    {
        let findings = examine(&machine(), config, &works());
        assert!(is_complete(&findings), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Fine), "{findings:?}");
    }
}

#[test]
fn the_page_for_people() {
    let mut findings = examine(&machine(), None, &works());
    findings.retain(|finding| finding.section != "this process");
    let expected = "kernel
  ok    release    Linux 6.12.1 x86_64
  ok    bpf(2)     there, kernel.unprivileged_bpf_disabled = 2
  ok    BTF        there: the kernel tells its types
  ok    cgroup v2  mounted at /sys/fs/cgroup

paths
  ok    copy     available
  ok    splice   available
  ok    sockmap  available
  ok    packet   available

around path packet
  ok    packet-ports         61000-65535, which the kernel gives to nobody
  ok    packet-interfaces    all but lo
  ok    packet-state         /sys/fs/bpf/lb keeps flows while lb is started anew
  ok    membarrier(2)        tells when packets have arrived
  ok    connection tracking  the kernel tells of it, and is told
  ok    net.ipv4.tcp_ecn     no obstacle to clients that ask for ECN

self-test of path sockmap
  ok    a slow reader loses nothing  holds (12.3 ms)

self-test of path packet
  ok    packets of nobody pass as they came  holds (0.5 ms)

Everything that lb can use is available.";
    assert_eq!(render::text(&findings, None), expected);
}

#[test]
fn what_lacks_is_told_with_what_to_change() {
    let nobody = Machine { user: 65534, held: Vec::new(), ..machine() };
    let lack = Lack::Capabilities(vec![Capability::Bpf, Capability::NetAdmin]);
    let config = config("sockmap", "0.0.0.0:443", "");
    let findings = examine(&nobody, Some(&config), &fails(LoadError::NoPrivilege(lack)));
    let text = render::text(&findings, Some(Path::new("lb.toml")));
    for expected in [
        "  lacks CAP_BPF               not held: loads the BPF programs of paths packet and sockmap\n  lacks CAP_NET_ADMIN ",
        "  lacks CAP_NET_BIND_SERVICE  not held: binds low ports\n        change: AmbientCapabilities=CAP_NET_BIND_SERVICE and",
        "  lacks sockmap  off: not permitted: CAP_BPF and CAP_NET_ADMIN are missing\n",
        "        change: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN and CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN in",
        "\n5 things that lb.toml asks for are not available.",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn only_what_is_asked_for_lacks() {
    let nobody = Machine { user: 65534, held: Vec::new(), ..machine() };
    let lack = || LoadError::NoPrivilege(Lack::Capabilities(Capability::FOR_SOCKMAP.to_vec()));
    let check = |config: Option<&Config>, expected: &[&str]| {
        let findings = examine(&nobody, config, &fails(lack()));
        let subjects: Vec<&str> = lacking(&findings).into_iter().map(|(subject, _)| subject).collect();
        assert_eq!(subjects, expected, "{findings:?}");
    };
    check(Some(&config("auto", "0.0.0.0:8443", "")), &[]);
    check(Some(&config("auto", "0.0.0.0:443", "")), &["CAP_NET_BIND_SERVICE"]);
    let inside = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "sockmap"];
    check(Some(&config("sockmap", "0.0.0.0:8443", "")), &inside);
    check(None, &inside);
    let away = Paths { packet: Err(lack()), ..works() };
    for (path, expected) in [
        ("packet", ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "CAP_NET_RAW", "packet"].as_slice()),
        ("auto", &[]),
    ] {
        let findings = examine(&nobody, Some(&config(path, "0.0.0.0:8443", "")), &away);
        let subjects: Vec<&str> = lacking(&findings).into_iter().map(|(subject, _)| subject).collect();
        assert_eq!(subjects, expected, "{findings:?}");
    }
    let few = "CAP_NET_BIND_SERVICE";
    check(Some(&config("auto", "0.0.0.0:443", "max-connections = 900000")), &[few, "open files"]);
}

#[test]
fn every_failure_has_its_cure() {
    let check = |machine: &Machine, error: LoadError, part: &str| {
        let label = error.to_string();
        let findings = examine(machine, None, &fails(error));
        let lacking = lacking(&findings);
        assert!(
            lacking.iter().any(|(subject, cure)| *subject == "sockmap" && cure.contains(part)),
            "{label}: {lacking:?}"
        );
    };
    let filtered = Machine { is_filtered: true, ..machine() };
    let refused = || LoadError::NoPrivilege(Lack::Forbidden);
    check(&machine(), LoadError::NoPrivilege(Lack::UserNamespace), "PrivateUsers=no");
    check(&filtered, refused(), "SystemCallFilter=bpf");
    check(&machine(), refused(), "lockdown");
    check(
        &machine(),
        LoadError::KernelTooOld(io::ErrorKind::Unsupported.into()),
        "CONFIG_BPF_STREAM_PARSER=y",
    );
    check(&machine(), LoadError::Memory(io::ErrorKind::OutOfMemory.into()), "LimitNOFILE=");
    check(&machine(), LoadError::Damaged("cut".into()), "install");
    check(&machine(), LoadError::NoBtf(BtfError::Damaged), "CONFIG_DEBUG_INFO_BTF=y");
    check(
        &machine(),
        LoadError::SelfTest(SelfTestError::Behaviour("keeping within a limit")),
        "path = \"auto\"",
    );
}

#[test]
fn what_is_around_path_packet_is_told() {
    let check = |surroundings: Surroundings, subject: &str, verdict: Verdict, parts: [&str; 2]| {
        let wishes = Wishes::new(None, &machine());
        let findings = all(&machine(), &wishes, &works(), &surroundings);
        let found = findings.iter().find(|finding| finding.subject == subject).expect("it is looked at");
        let cure = found.cure.as_deref().expect("what to change");
        assert!(found.text.contains(parts[0]) && cure.contains(parts[1]), "{found:?}");
        assert_eq!((found.verdict, is_complete(&findings)), (verdict, verdict != Verdict::Lacking));
        // Who does without the path need not know.
        let without = config("auto", "0.0.0.0:8443", "");
        let without = all(&machine(), &Wishes::new(Some(&without), &machine()), &works(), &surroundings);
        assert!(without.iter().all(|finding| finding.subject != subject));
    };
    let given = PortsError::Given { port: 61_000, first: 32_768, last: 65_000 };
    let given = Surroundings { are_ours: Err(given), ..surroundings() };
    let parts = ["gives port 61000", "net.ipv4.ip_local_reserved_ports = 61000-65535 in"];
    check(given, "packet-ports", Verdict::Lacking, parts);
    let agents = vec![Rival { ports: 65_000..=65_009, process: 77 }];
    let shared = Surroundings { agents, ..surroundings() };
    let parts = ["65000-65009 are those of the lb that runs (process 77)", "another range"];
    check(shared, "packet-ports", Verdict::Note, parts);
    let alone = Surroundings { keeper: Err(Why::Off), ..surroundings() };
    check(alone, "packet-state", Verdict::Note, ["flows end with lb", "FileDescriptorStoreMax="]);
    let told = |error: i32| Some(Err(io::Error::from_raw_os_error(error)));
    let unheard = Surroundings { tracking: told(libc::EOPNOTSUPP), ..surroundings() };
    let parts = ["NAT is not seen", "nf_conntrack_netlink"];
    check(unheard, "connection tracking", Verdict::Lacking, parts);
    let unasked = Surroundings { tracking: told(libc::EPERM), ..surroundings() };
    let parts = ["without CAP_NET_ADMIN", "AmbientCapabilities=CAP_NET_ADMIN"];
    check(unasked, "connection tracking", Verdict::Note, parts);
    let impatient = Surroundings { grace: Err(io::ErrorKind::Unsupported.into()), ..surroundings() };
    check(impatient, "membarrier(2)", Verdict::Lacking, ["does not wait", "CONFIG_MEMBARRIER=y"]);
    let grants = Surroundings { only_grants_ecn: true, ..surroundings() };
    check(grants, "net.ipv4.tcp_ecn", Verdict::Note, ["stay in user space", "net.ipv4.tcp_ecn = 1"]);
    let named = |name: &str, state: Result<(), AttachError>, master: Option<&str>| {
        let (name, master) = (name.to_owned(), master.map(str::to_owned));
        Surroundings { interfaces: vec![Interface { name, state, master }], ..surroundings() }
    };
    let interface = || "eth7".to_owned();
    let missing = AttachError::NoInterface { interface: interface(), source: io::ErrorKind::NotFound.into() };
    let parts = ["there is no interface eth7", "if it never will"];
    check(named("eth7", Err(missing), None), "packet-interfaces", Verdict::Note, parts);
    let strange = AttachError::LinkType { interface: interface(), link_type: 32 };
    let parts = ["link type 32", "packet-interfaces without eth7"];
    check(named("eth7", Err(strange), None), "packet-interfaces", Verdict::Lacking, parts);
    let parts = ["eth7 is a port of br0", "br0 instead of eth7"];
    check(named("eth7", Ok(()), Some("br0")), "packet-interfaces", Verdict::Lacking, parts);
}

#[test]
fn a_port_is_no_trouble_beside_its_bridge() {
    let named = |name: &str, master: Option<&str>| Interface {
        name: name.into(),
        state: Ok(()),
        master: master.map(str::to_owned),
    };
    let interfaces = vec![named("eth7", Some("br0")), named("br0", None)];
    let findings = all(
        &machine(),
        &Wishes::new(None, &machine()),
        &works(),
        &Surroundings { interfaces, ..surroundings() },
    );
    let found = findings.iter().find(|finding| finding.subject == "packet-interfaces").expect("a finding");
    assert_eq!((found.verdict, &*found.text), (Verdict::Fine, "eth7, br0"));
}

#[test]
fn a_kernel_without_parts_is_described() {
    let bare = Machine { bpf_disabled: None, has_btf: false, cgroup: None, ..machine() };
    let findings = examine(&bare, Some(&config("auto", "0.0.0.0:8443", "")), &works());
    let notes: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Note)
        .map(|finding| &*finding.subject)
        .collect();
    assert_eq!(notes, ["bpf(2)", "BTF", "cgroup v2"]);
    assert!(is_complete(&findings));
}

#[test]
fn the_object_for_machines_has_every_finding() {
    let findings = examine(&machine(), None, &fails(LoadError::Damaged("cut".into())));
    let object = render::json(&findings);
    assert_eq!(object["available"], false);
    let list = object["findings"].as_array().unwrap();
    assert_eq!(list.len(), findings.len());
    let sockmap = list.iter().find(|finding| finding["subject"] == "sockmap").unwrap();
    assert_eq!((&sockmap["verdict"], &sockmap["change"]), (&"lacks".into(), &"install lb anew".into()));
    assert_eq!(sockmap["text"], "off: the embedded BPF object is damaged: cut");
    let object = render::json(&examine(&machine(), None, &works()));
    let steps = object["findings"].as_array().unwrap().iter();
    let steps: Vec<_> = steps.filter_map(|finding| finding["milliseconds"].as_f64()).collect();
    assert_eq!(steps, [12.345, 0.5]);
}
