// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent needs, what it does where that is not granted, and what it keeps.
//!
//! The matrix: one test each circumstance that takes something away from path `sockmap`. The same configuration runs in all of them.

use lb_tests::agent::{Agent, Launch};
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::process::{Process, text};
use lb_tests::stream::{End, finish, receive_at_most, send};

use crate::support::{PORT, SERVER_PORT, assert_received};

/// Everything that path `sockmap` needs.
pub(crate) const FOR_SOCKMAP: [&str; 3] = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];

/// Starts the words behind it where bpf(2) gives the error with this number; it ends in execve(2). The filter: load the number of the
/// system call (struct seccomp_data), compare, return SECCOMP_RET_ERRNO or SECCOMP_RET_ALLOW (linux/seccomp.h, linux/filter.h).
const FORBIDS_BPF: &str = r"
import ctypes, os, struct, sys
number = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | int(sys.argv[1])), (0x06, 0, 0, 0x7fff0000)]
filter = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
program = struct.pack('@HP', len(code), ctypes.addressof(filter))
assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0
os.execvp(sys.argv[2], sys.argv[2:])
";

/// What becomes of path `sockmap`.
enum Fate {
    /// It works.
    Available,
    /// It does not: the reason in metrics, and words of the line in the log.
    Off(&'static str, &'static str),
}

use Fate::{Available, Off};

#[test]
fn with_its_capabilities_the_path_is_available() {
    check(|launch| launch.with_capabilities(&FOR_SOCKMAP), Available);
}

#[test]
fn as_root_the_path_is_available() {
    check(|launch| launch, Available);
}

#[test]
fn without_cap_bpf_flows_are_spliced() {
    check(|launch| launch.with_capabilities(&without("CAP_BPF")), Off("no-privilege", "CAP_BPF is missing"));
}

#[test]
fn without_cap_net_admin_flows_are_spliced() {
    let lacking = |launch: Launch| launch.with_capabilities(&without("CAP_NET_ADMIN"));
    check(lacking, Off("no-privilege", "CAP_NET_ADMIN is missing"));
}

/// What waits inside the kernel could not be bounded.
#[test]
fn without_cap_perfmon_flows_are_spliced() {
    let lacking = |launch: Launch| launch.with_capabilities(&without("CAP_PERFMON"));
    check(lacking, Off("no-perfmon", "CAP_PERFMON is missing"));
}

#[test]
fn without_capabilities_flows_are_spliced() {
    let missing = "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are missing";
    check(Launch::unprivileged, Off("no-privilege", missing));
    check(|launch| launch.with_capabilities(&["CAP_NET_BIND_SERVICE"]), Off("no-privilege", missing));
}

/// Root there is nobody here: every capability is held, and none counts.
#[test]
fn in_a_user_namespace_flows_are_spliced() {
    let namespace = |launch: Launch| launch.through(&["unshare", "--user", "--map-root-user", "--"]);
    check(namespace, Off("no-privilege", "user namespace"));
}

/// As under a systemd unit whose SystemCallFilter= lacks bpf, or in a container.
#[test]
fn where_bpf_is_forbidden_flows_are_spliced() {
    let (eperm, enosys) = ("1", "38");
    let filtered = |errno| move |launch: Launch| launch.through(&["python3", "-c", FORBIDS_BPF, errno]);
    check(filtered(eperm), Off("forbidden", "seccomp filter"));
    check(filtered(enosys), Off("kernel", "kernel is too old"));
}

/// The program would not find what bounds it.
#[test]
fn without_btf_flows_are_spliced() {
    check(hidden_btf, Off("no-btf", "/sys/kernel/btf/vmlinux"));
}

/// No path needs control groups.
#[test]
fn without_cgroup_v2_the_path_is_available() {
    let script = "umount --recursive --lazy /sys/fs/cgroup && exec \"$@\"";
    check(|launch| launch.through(&["unshare", "--mount", "--", "sh", "-c", script, "sh"]), Available);
}

/// What `lb check --explain` says is needed is enough, and what it says is kept is what every thread has.
#[test]
fn capabilities_are_those_that_explain_names() {
    for (path, port) in [
        (Path::Sockmap, 443),
        (Path::Sockmap, PORT),
        (Path::Packet, 443),
        (Path::Packet, PORT),
        (Path::Auto, 443),
        (Path::Auto, PORT),
    ] {
        let net = Net::new(1);
        let _server = net.server().listen(SERVER_PORT);
        let config = Config::new().path(path).tcp("in", net.frontend(port), "out", "");
        let config = config.backend("out", net.server().address(SERVER_PORT), "");
        let explained =
            text(&Agent::launch(&net).unprivileged().verb(&["check", "--explain"], &config).stdout);
        let needed = named(&explained, "at start");
        let expected = FOR_SOCKMAP.iter().filter(|_| path != Path::Auto);
        let expected = expected.chain((path == Path::Packet).then_some(&"CAP_NET_RAW"));
        let expected = expected.chain((port < 1024).then_some(&"CAP_NET_BIND_SERVICE"));
        assert_eq!(needed, expected.copied().collect::<Vec<_>>(), "{explained}");
        let kept = set_of(&named(&explained, "afterwards"));
        for launch in [Agent::launch(&net).with_capabilities(&needed), Agent::launch(&net)] {
            let agent = launch.start(&config);
            assert_sets(&agent.process, kept);
            for (own, label) in [(Path::Sockmap, "sockmap"), (Path::Packet, "packet")] {
                let is_there = agent.scrape().value("lb_path_available", &[("path", label)]);
                assert_eq!(is_there > 0.0, path == own, "{label}");
            }
        }
    }
}

/// All but one of the capabilities that path `sockmap` needs.
fn without(missing: &str) -> Vec<&'static str> {
    FOR_SOCKMAP.into_iter().filter(|name| *name != missing).collect()
}

/// As on a kernel that does not tell its types.
pub(crate) fn hidden_btf(launch: Launch) -> Launch {
    let script = "mount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$@\"";
    launch.through(&["unshare", "--mount", "--", "sh", "-c", script, "sh"])
}

/// Runs the same configuration in these circumstances: flows are exact, go as they should, and log and metrics say why.
#[track_caller]
fn check(circumstances: impl FnOnce(Launch) -> Launch, fate: Fate) {
    // No more than may wait inside the kernel at once: what waits for a slow reader beyond that is spliced.
    const BYTES: u64 = 1_000_000;
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let agent = circumstances(Agent::launch(&net)).start(&two_frontends(&net));
    let client = net.client.connect(net.frontend(PORT));
    let server = listener.accept();
    std::thread::scope(|scope| {
        for (stream, seed) in [(&client, 1), (&server, 2)] {
            scope.spawn(move || send(stream, seed, BYTES).expect("a reader that keeps up"));
        }
        let reader = scope.spawn(|| receive_at_most(&client, 2, BYTES));
        assert_received(&receive_at_most(&server, 1, BYTES), BYTES, End::Silent);
        assert_received(&reader.join().expect("no panic"), BYTES, End::Silent);
    });
    // What waits for a slow reader once its sender has closed is spliced: not before everything has arrived.
    for stream in [&client, &server] {
        finish(stream);
    }
    assert_eq!(agent.until_records(1)[0].close(), "finished");
    match fate {
        Available => {
            assert_availability(&agent, "available", 1.0);
            agent.assert_inside(99);
        }
        Off(reason, words) => {
            assert_availability(&agent, reason, 0.0);
            agent.assert_path(Path::Auto, 1);
            let scrape = agent.scrape();
            assert!(scrape.count("lb_path_bytes_total", &[("path", "splice")]) > 0);
            assert_eq!(scrape.count("lb_path_fallbacks_total", &[("reason", "unavailable")]), 1);
            assert_said_once(&agent, words);
            // Where the path is required, the connection is refused, loudly.
            assert_eq!(net.client.connect_to_the_end(net.frontend(PORT + 1)), (Vec::new(), End::Reset));
            assert_eq!(agent.until_records(2)[1].close(), "path-unavailable");
        }
    }
}

/// One frontend that wants path `sockmap`, and one that insists on it.
fn two_frontends(net: &Net) -> Config {
    let server = net.server().address(SERVER_PORT);
    let insists = "path = \"sockmap\"\npath-required = true\n";
    let config = Config::new().tcp("insists", net.frontend(PORT + 1), "out", insists);
    let config = config.path(Path::Sockmap).tcp("wants", net.frontend(PORT), "out", "");
    config.backend("out", server, "")
}

#[track_caller]
fn assert_availability(agent: &Agent, reason: &str, expected: f64) {
    let value = agent.scrape().value("lb_path_available", &[("path", "sockmap"), ("reason", reason)]);
    assert_eq!(value.to_bits(), expected.to_bits(), "{reason}");
}

#[track_caller]
fn assert_said_once(agent: &Agent, words: &str) {
    let lines = agent.process.stderr();
    let said: Vec<&String> = lines.iter().filter(|line| line.contains("path sockmap is off")).collect();
    assert!(said.len() == 1 && said[0].contains(words) && said[0].contains("refused"), "{lines:?}");
}

/// The capabilities behind this word in an explanation.
fn named<'a>(explained: &'a str, word: &str) -> Vec<&'a str> {
    let start = format!("#   {word}: ");
    let names = explained.lines().find_map(|line| line.strip_prefix(&start));
    let names = names.unwrap_or_else(|| panic!("{word:?} is not in\n{explained}"));
    if names == "none" { Vec::new() } else { names.split(", ").collect() }
}

/// Capabilities as /proc shows them (linux/capability.h).
fn set_of(names: &[&str]) -> u64 {
    let bit = |name: &&str| match *name {
        "CAP_NET_BIND_SERVICE" => 1 << 10,
        "CAP_NET_ADMIN" => 1 << 12,
        "CAP_NET_RAW" => 1 << 13,
        "CAP_PERFMON" => 1 << 38,
        "CAP_BPF" => 1 << 39,
        other => panic!("{other}"),
    };
    names.iter().map(bit).sum()
}

/// Asserts that each thread has these capabilities, hands none on, and can gain none (proc_pid_status(5)).
#[track_caller]
fn assert_sets(process: &Process, expected: u64) {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).expect("a living process");
    let mut seen = 0;
    for thread in threads {
        let file = thread.expect("a thread").path().join("status");
        let status = std::fs::read_to_string(file).expect("a living thread");
        // What another program could inherit is nothing.
        for (set, expected) in [("CapInh", 0), ("CapPrm", expected), ("CapEff", expected), ("CapAmb", 0)] {
            assert!(status.contains(&format!("{set}:\t{expected:016x}\n")), "{set} in {status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        seen += 1;
    }
    assert!(seen >= 3, "{seen} threads: control, log, at least one worker");
}
