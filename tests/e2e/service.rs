// SPDX-License-Identifier: MIT OR Apache-2.0
//! `config/lb.service`, as far as systemd's own tools can judge it without running it, and what the agent tells a service manager.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use lb_tests::agent::{Agent, admin, binary, public_directory};
use lb_tests::config::Path;
use lb_tests::metrics::{Scrape, fetch};
use lb_tests::net::Net;
use lb_tests::process::{output, run, text};
use lb_tests::wait::PATIENCE;

use crate::support::{PORT, SERVER_PORT, tcp_config};

const UNIT: &str = include_str!("../../config/lb.service");

/// Where the unit expects the binary.
const INSTALLED: &str = "/usr/local/bin/lb";

/// Most exposure that `systemd-analyze security` may find, in tenths: what is left are the network, bpf(2) and the capabilities.
const EXPOSURE_MAX: u32 = 19;

#[test]
fn the_unit_is_valid() {
    let place = public_directory();
    let unit = place.path().join("lb.service");
    // It also looks for the programs.
    let here = UNIT.replace(INSTALLED, &binary().to_string_lossy());
    std::fs::write(&unit, &here).expect("a temporary file");
    let verify = |place: &std::path::Path| {
        let output = output(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(place));
        (output.status.success(), text(&output.stderr))
    };
    assert_eq!(verify(&unit), (true, String::new()));
    // Mistakes in keys are told, and are no failure.
    std::fs::write(&unit, here.replace("ProtectClock", "ProtectClok")).expect("a temporary file");
    let (_, complaint) = verify(&unit);
    assert!(complaint.contains("ProtectClok"), "{complaint}");
}

#[test]
fn the_unit_exposes_little() {
    let place = public_directory();
    let unit = place.path().join("lb.service");
    let security = |text: &str| {
        std::fs::write(&unit, text).expect("a temporary file");
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        let mut command = Command::new("systemd-analyze");
        output(command.args(["security", "--offline=yes", "--no-pager", &threshold]).arg(&unit))
    };
    let judged = security(UNIT);
    assert!(judged.status.success(), "{}", text(&judged.stdout));
    assert!(
        !security(&UNIT.replace("ProtectSystem=strict", "")).status.success(),
        "the threshold judges nothing"
    );
}

#[test]
fn the_commands_of_the_unit_are_those_of_the_binary() {
    let net = Net::new(1);
    let place = public_directory();
    let config = place.path().join("lb.toml");
    std::fs::write(&config, tcp_config(&net, Path::Sockmap, "").text()).expect("a temporary file");
    let command = |key: &str| {
        let line = UNIT.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let line = line.unwrap_or_else(|| panic!("{key}= is missing"));
        let line = line.replace("/etc/lb/lb.toml", &config.to_string_lossy());
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert_eq!(words[0], INSTALLED);
        words[1..].to_vec()
    };
    run(Command::new(binary()).args(command("ExecStartPre")));
    let server = net.server().listen(SERVER_PORT);
    let agent = net.balancer.spawn(Command::new(binary()).args(command("ExecStart")));
    lb_tests::wait::until("a client is let in", || net.client.try_connect(net.frontend(PORT)).is_ok());
    server.accept();
    agent.signal(rustix::process::Signal::TERM);
}

/// Whoever starts after the agent finds it listening, with its paths tested.
#[test]
fn ready_means_that_clients_are_served() {
    let net = Net::new(1);
    let _server = net.server().listen(SERVER_PORT);
    let place = public_directory();
    let path = place.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a temporary socket");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("our own socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a fresh socket");
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let config = tcp_config(&net, Path::Sockmap, "");
    std::thread::scope(|scope| {
        let launch = Agent::launch(&net).through(&["env", &variable]);
        let starting = scope.spawn(|| launch.start(&config));
        assert_eq!(receive(&manager), "READY=1");
        let metrics = fetch(&net.balancer, admin(), "/metrics", "").expect("an admin surface");
        let available = Scrape::parse(&metrics.body).value("lb_path_available", &[("path", "sockmap")]);
        assert_eq!(available.to_bits(), 1_f64.to_bits());
        net.client.connect(net.frontend(PORT));
        let agent = starting.join().expect("no panic");
        agent.terminate();
        assert_eq!(receive(&manager), "STOPPING=1");
    });
}

/// The next message to the service manager, without its last line break.
#[track_caller]
fn receive(manager: &UnixDatagram) -> String {
    let mut message = [0; 512];
    let length = manager.recv(&mut message).unwrap_or_else(|error| {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "no message to the service manager");
        panic!("{error}")
    });
    text(&message[..length]).trim_end().to_owned()
}
