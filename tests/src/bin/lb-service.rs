// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installs `config/lb.service` as README says, in a virtual machine with systemd, and checks what comes of it: `cargo xtask vm --systemd`
//! runs this there. The checks build on each other. What became of them goes to the second serial line, behind what lb-guest has said
//! and as it would; with `--list`, their names go to standard output as those of a test harness.
#![forbid(unsafe_code)]

use std::any::Any;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path as FilePath;
use std::process::{Command, Output};
use std::time::Instant;

use lb_tests::agent::admin;
use lb_tests::config::{Config, Path};
use lb_tests::metrics::{Scrape, fetch};
use lb_tests::net::{Listener, Net};
use lb_tests::process::{output, run, text};
use lb_tests::stream::{End, finish, receive_all, receive_at_most, receive_exactly, say, send};
use lb_tests::wait;

/// Where the report goes.
const REPORT: &str = "/dev/ttyS1";

/// Where what README's commands need lies.
const REPOSITORY: &str = "/repository";

/// The port of the frontend: a low one.
const PORT: u16 = 443;

/// The server's port.
const SERVER_PORT: u16 = 6000;

/// Where a check adds to the unit.
const ADDITION: &str = "/etc/systemd/system/lb.service.d/addition.conf";

/// A check: what must hold, and what panics where it does not.
type Check = (&'static str, fn(&Guest));

/// What is checked, in this order.
const CHECKS: [Check; 10] = [
    ("the_commands_of_the_readme_install_and_start_it", install),
    ("systemd_calls_it_active", is_active),
    ("path_sockmap_is_available", path_is_available),
    ("a_flow_is_carried_inside_the_kernel", carries_a_flow),
    ("the_process_is_locked_up", is_locked_up),
    ("the_journal_has_its_lines", journal),
    ("a_crash_is_repaired", crash),
    ("options_that_break_bpf_only_turn_the_path_off", options),
    ("flows_of_path_packet_outlive_the_process", outlive),
    ("stopping_is_a_success_and_ends_flows_with_their_lines", stop),
];

/// The network around the service.
struct Guest {
    net: Net,
    server: Listener,
}

fn main() -> std::io::Result<()> {
    if std::env::args().any(|argument| argument == "--list") {
        CHECKS.iter().for_each(|(name, _)| println!("{name}: test"));
        return Ok(());
    }
    let mut report = File::options().write(true).open(REPORT)?;
    let net = Net::around_here(1);
    let guest = Guest { server: net.server().listen(SERVER_PORT), net };
    for (name, check) in CHECKS {
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&guest)));
        let seconds = begin.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => writeln!(report, "passed service {name} {seconds:.1}")?,
            Err(panic) => fail(&mut report, name, seconds, &*panic)?,
        }
    }
    writeln!(report, "end {}", CHECKS.len())
}

/// Reports a failure with what systemd and the journal say.
fn fail(report: &mut File, name: &str, seconds: f64, panic: &(dyn Any + Send)) -> std::io::Result<()> {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    let first = said.lines().next().unwrap_or_default();
    writeln!(report, "failed service {name} {seconds:.1} {first}")?;
    let status = systemctl(&["status", "--no-pager", "--full", "lb"]);
    for line in said.lines().skip(1).chain(text(&status.stdout).lines()).chain(journal_lines().lines()) {
        writeln!(report, "| {line}")?;
    }
    Ok(())
}

/// Runs the commands of README's section on services, as root and with what is built already.
fn install(guest: &Guest) {
    let config = Config::new().path(Path::Sockmap).tcp("in", guest.net.frontend(PORT), "out", "");
    let config = config.backend("out", guest.net.server().address(SERVER_PORT), "");
    fs::write(FilePath::new(REPOSITORY).join("lb.toml"), config.text()).expect("a writable file system");
    let readme = fs::read_to_string(FilePath::new(REPOSITORY).join("README.md")).expect("README.md");
    let (_, section) = readme.split_once("\n## As a service\n").expect("a section on services");
    let (_, commands) = section.split_once("```sh\n").expect("its commands");
    let (commands, _) = commands.split_once("```").expect("their end");
    let commands: Vec<&str> = commands.lines().collect();
    assert!(commands.len() >= 5 && commands[0] == "cargo build --release", "{commands:?}");
    for command in &commands[1..] {
        let command = command.replace("sudo ", "");
        run(Command::new("bash").args(["-e", "-c", &command]).current_dir(REPOSITORY));
    }
}

/// `systemctl enable --now` has waited for READY=1.
fn is_active(_: &Guest) {
    let expected = [("ActiveState", "active"), ("SubState", "running"), ("NRestarts", "0"), ("User", "lb")];
    for (property, value) in expected {
        assert_eq!(show(property), value, "{property}");
    }
    let status = text(&systemctl(&["status", "--no-pager", "lb"]).stdout);
    assert!(status.contains("Active: active (running)"), "{status}");
}

fn path_is_available(guest: &Guest) {
    assert_path(guest, "available");
}

/// Both ways at once, exact, by the path's own counters.
fn carries_a_flow(guest: &Guest) {
    const BYTES: u64 = 2 << 20;
    let client = guest.net.client.connect(guest.net.frontend(PORT));
    let server = guest.server.accept();
    std::thread::scope(|scope| {
        for (stream, seed) in [(&client, 1), (&server, 2)] {
            scope.spawn(move || send(stream, seed, BYTES).expect("a reader that keeps up"));
        }
        let reader = scope.spawn(|| receive_at_most(&client, 2, BYTES));
        for received in [receive_at_most(&server, 1, BYTES), reader.join().expect("no panic")] {
            assert_eq!((received.bytes, received.wrong_at, received.end), (BYTES, None, End::Silent));
        }
    });
    finish(&client);
    finish(&server);
    wait::until("the flow to be counted", || scrape(guest).count("lb_path_bytes_total", &[]) == 2 * BYTES);
    let inside = scrape(guest).count("lb_path_bytes_total", &[("path", "sockmap")]);
    assert!(inside * 100 >= 2 * BYTES * 99, "{inside} bytes went inside the kernel");
}

/// No thread has a capability or can get one; system calls are filtered; files are read-only but the logs' folder.
fn is_locked_up(_: &Guest) {
    let pid = show("MainPID");
    let user = fs::read_to_string("/etc/passwd").expect("users");
    let user = user.lines().find_map(|line| line.strip_prefix("lb:x:")?.split(':').next()).expect("user lb");
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a living process");
    for thread in threads {
        let status = thread.expect("a thread").path().join("status");
        let status = fs::read_to_string(status).expect("a living thread");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{set} in {status}");
        }
        // The bounding set is what the unit grants: CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF
        // (linux/capability.h).
        let bounding = format!("CapBnd:\t{:016x}\n", 1_u64 << 10 | 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39);
        for line in [&bounding, "NoNewPrivs:\t1\n", "Seccomp:\t2\n", &format!("Uid:\t{user}\t{user}\t")] {
            assert!(status.contains(line), "{line:?} in {status}");
        }
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("a living process");
    let options = |place: &str| {
        // Of several mounts at one place, the last one is seen.
        let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(place));
        line.and_then(|line| line.split(' ').nth(5)).unwrap_or_default().to_owned()
    };
    assert!(options("/").starts_with("ro") && options("/var/log/lb").starts_with("rw"), "{mounts}");
}

fn journal(_: &Guest) {
    let lines = journal_lines();
    for expected in ["path sockmap is available", "listening", "ready", "\"close\":\"finished\""] {
        assert!(lines.contains(expected), "{expected:?} is not in\n{lines}");
    }
}

fn crash(guest: &Guest) {
    let before = show("MainPID");
    assert!(systemctl(&["kill", "--signal=KILL", "lb"]).status.success());
    wait::until("another process", || {
        show("ActiveState") == "active" && show("SubState") == "running" && show("MainPID") != before
    });
    assert_eq!(show("NRestarts"), "1");
    assert_path(guest, "available");
}

/// What people may add to a unit, and what it does to the path: the service runs all the same.
fn options(guest: &Guest) {
    // In a user namespace of its own, the capability for low ports does not count, either.
    guest.net.balancer.sysctl("net/ipv4/ip_unprivileged_port_start", &PORT.to_string());
    for (lines, expected) in [
        ("PrivateUsers=yes", "no-privilege"),
        ("SystemCallFilter=~bpf", "forbidden"),
        ("AmbientCapabilities=\nCapabilityBoundingSet=", "no-privilege"),
        ("ProtectKernelTunables=no\nPrivateDevices=no\nMemoryDenyWriteExecute=no", "available"),
    ] {
        add(lines);
        let restarted = systemctl(&["restart", "lb"]);
        assert!(restarted.status.success(), "{lines}: {}", text(&restarted.stderr));
        assert_path(guest, expected);
    }
    guest.net.balancer.sysctl("net/ipv4/ip_unprivileged_port_start", "1024");
    add("AmbientCapabilities=\nCapabilityBoundingSet=");
    assert!(!systemctl(&["restart", "lb"]).status.success(), "a low port without its capability");
    let lines = journal_lines();
    assert!(lines.contains("grant CAP_NET_BIND_SERVICE"), "{lines}");
    add("");
    assert!(systemctl(&["restart", "lb"]).status.success());
    assert_path(guest, "available");
}

/// systemd keeps what they go by, after a crash and over a restart, and for nothing else.
fn outlive(guest: &Guest) {
    let config = Config::new().global("drain-timeout = \"2s\"").path(Path::Packet);
    let config = config.tcp("in", guest.net.frontend(PORT), "out", "");
    let config = config.backend("out", guest.net.server().address(SERVER_PORT), "");
    fs::write("/etc/lb/lb.toml", config.text()).expect("a writable file system");
    let restarted = systemctl(&["restart", "lb"]);
    assert!(restarted.status.success(), "{}", text(&restarted.stderr));
    let value = scrape(guest).value("lb_path_available", &[("path", "packet"), ("reason", "available")]);
    assert_eq!(value.to_bits(), 1_f64.to_bits(), "{}", journal_lines());
    let (client, server) = away(guest);
    let ping = || ping(&client, &server);
    let stored = show("NFileDescriptorStore");
    assert_ne!(stored, "0");
    let before = show("MainPID");
    assert!(systemctl(&["kill", "--signal=KILL", "lb"]).status.success());
    (0..100).for_each(|_| ping());
    wait::until("another process", || show("SubState") == "running" && show("MainPID") != before);
    (0..100).for_each(|_| ping());
    assert!(systemctl(&["restart", "lb"]).status.success());
    (0..100).for_each(|_| ping());
    assert_eq!(scrape(guest).count("lb_frontend_connections_active", &[]), 1);
    assert_eq!(show("NFileDescriptorStore"), stored);
    finish(&client);
    finish(&server);
    wait::until("its line", || journal_lines().contains("\"path\":\"packet\""));
}

/// With nobody who follows, flows of path packet end as all others do.
fn stop(guest: &Guest) {
    let (client, server) = away(guest);
    assert!(systemctl(&["stop", "lb"]).status.success());
    assert_eq!((show("ActiveState").as_str(), show("Result").as_str()), ("inactive", "success"));
    let lines = journal_lines();
    assert!(lines.contains("drained") && lines.contains("\"close\":\"shutdown\""), "{lines}");
    for end in [&client, &server] {
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    }
}

/// A flow that programs carry: the client's end and the server's.
#[track_caller]
fn away(guest: &Guest) -> (TcpStream, TcpStream) {
    let flows = || scrape(guest).count("lb_path_flows_total", &[("path", "packet")]);
    let before = flows();
    let client = guest.net.client.connect(guest.net.frontend(PORT));
    let server = guest.server.accept();
    wait::until("the flow to leave the agent", || {
        ping(&client, &server);
        flows() > before
    });
    (client, server)
}

/// A message each way.
#[track_caller]
fn ping(client: &TcpStream, server: &TcpStream) {
    for (from, to) in [(client, server), (server, client)] {
        say(from, b"?");
        assert_eq!(receive_exactly(to, 1), b"?");
    }
}

/// Puts lines into a file beside the unit (systemd.unit(5), drop-in).
fn add(lines: &str) {
    let folder = FilePath::new(ADDITION).parent().expect("a folder");
    fs::create_dir_all(folder).expect("a writable file system");
    fs::write(ADDITION, format!("[Service]\n{lines}\n")).expect("a writable file system");
    assert!(systemctl(&["daemon-reload"]).status.success());
}

#[track_caller]
fn assert_path(guest: &Guest, reason: &str) {
    let expected = if reason == "available" { 1_f64 } else { 0.0 };
    let value = scrape(guest).value("lb_path_available", &[("path", "sockmap"), ("reason", reason)]);
    assert_eq!(value.to_bits(), expected.to_bits(), "{reason}");
}

#[track_caller]
fn scrape(guest: &Guest) -> Scrape {
    let response = fetch(&guest.net.balancer, admin(), "/metrics", "").expect("the admin surface");
    Scrape::parse(&response.body)
}

/// A property of the service (systemctl(1), "show").
fn show(property: &str) -> String {
    let answer = systemctl(&["show", "--value", &format!("--property={property}"), "lb"]);
    text(&answer.stdout).trim().to_owned()
}

fn systemctl(arguments: &[&str]) -> Output {
    output(Command::new("systemctl").args(arguments))
}

fn journal_lines() -> String {
    run(Command::new("journalctl").args(["--no-pager", "--lines=60", "--unit=lb"]))
}
