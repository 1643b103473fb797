// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet` under a service manager that keeps descriptors, as systemd does with FileDescriptorStoreMax=: no file is needed.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use lb_tests::agent::Agent;
use lb_tests::config::{Config, Path};
use lb_tests::process::text;
use lb_tests::stream::{End, receive_all};
use lb_tests::wait::PATIENCE;
use rustix::cmsg_space;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::packet_lab::Family;
use crate::packet_links::{add_second_link_at, far, interface_number, ip};
use crate::packet_stage::{Objects, Pair, Stage, assert_bytes, change_version, has_links, kill, until_said};

on_both_families! {
    the_service_manager_keeps_flows_until_the_next_agent_comes,
    a_signal_that_nobody_follows_up_ends_nothing,
    the_last_agent_ends_its_flows_with_itself,
    what_is_at_later_interfaces_is_kept_with_the_rest,
    a_layout_that_is_not_understood_names_the_way_out,
}

/// Above all numbers that descriptors of a test have.
const HIGH: i32 = 500;

/// What is asked of systemd here.
struct Manager {
    socket: UnixDatagram,
    place: TempDir,
    store: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let socket = UnixDatagram::bind(place.path().join("notify")).expect("a temporary socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a fresh socket");
        Self { socket, place, store: BTreeMap::new() }
    }

    /// Starts an agent with all that is in the store.
    #[track_caller]
    fn start(&mut self, stage: &Stage, config: &Config) -> Agent {
        let notify = format!("NOTIFY_SOCKET={}", self.place.path().join("notify").display());
        let names = self.store.keys().cloned().collect::<Vec<_>>().join(":");
        // Without CLOEXEC, and out of the way of the numbers that they get.
        let passed: Vec<OwnedFd> = self.store.values().map(inheritable).collect();
        let moves = passed.iter().enumerate();
        let moves: String = moves.map(|(index, fd)| format!(" {}<&{}", index + 3, fd.as_raw_fd())).collect();
        let count = passed.len();
        let script = format!(
            "export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}; exec \"$0\" \"$@\"{moves}"
        );
        let launch =
            Agent::launch(&stage.net).through(&["env", &notify, "FDSTORE=64", "bash", "-c", &script]);
        std::thread::scope(|scope| {
            let starting = scope.spawn(move || launch.start(config));
            while self.hear() != "READY=1" {}
            starting.join().expect("no panic")
        })
    }

    /// Does what the next message asks for; returns it.
    #[track_caller]
    fn hear(&mut self) -> String {
        let mut bytes = [0; 512];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = received.expect("a message").bytes;
        let message = text(&bytes[..length]).trim_end().to_owned();
        let has = |line: &str| message.lines().any(|it| it == line);
        let name =
            message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        if has("FDSTORE=1") {
            assert!(has("FDPOLL=0"), "{message}");
            let mut rights = ancillary.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                _ => None,
            });
            let fd = rights.next().and_then(|mut rights| rights.next()).expect("a descriptor");
            self.store.insert(name, fd);
        } else if has("FDSTOREREMOVE=1") {
            self.store.remove(&name);
        }
        message
    }

    /// Waits until so much is kept whose name has this end.
    #[track_caller]
    fn until_kept(&mut self, end: &str, count: usize) {
        while self.store.keys().filter(|name| name.ends_with(end)).count() != count {
            self.hear();
        }
    }

    /// Adds to the version of the layout that is kept.
    #[track_caller]
    fn change_version(&self, by: i16) {
        let fd = self.store["lb-packet-layout"].as_raw_fd();
        let said = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("/proc");
        let number = said.lines().find_map(|line| line.strip_prefix("map_id:")).expect("of a map");
        change_version(["id", number.trim()], by);
    }

    /// What `systemctl stop` makes of an agent that has ended: nothing is kept any longer.
    fn let_go(&mut self, stage: &Stage) {
        self.store.clear();
        if !has_links() {
            for interface in ["client", "server0"] {
                stage.net.balancer.run(Command::new("tc").args(["qdisc", "del", "dev", interface, "clsact"]));
            }
        }
    }

    /// Waits until nothing is kept.
    #[track_caller]
    fn until_empty(&mut self) {
        while !self.store.is_empty() {
            self.hear();
        }
    }
}

fn inheritable(fd: &OwnedFd) -> OwnedFd {
    let high = fcntl_dupfd_cloexec(fd, HIGH).expect("descriptors");
    fcntl_setfd(&high, FdFlags::empty()).expect("open");
    high
}

/// With a place for files that cannot be.
fn config(stage: &Stage) -> Config {
    config_with(stage, "")
}

fn config_with(stage: &Stage, global: &str) -> Config {
    config_towards(stage, stage.server(), global)
}

/// With the server at this address.
fn config_towards(stage: &Stage, server: SocketAddr, global: &str) -> Config {
    Config::new()
        .global(&format!("packet-state = \"/nonexistent/lb\"\n{global}"))
        .path(Path::Packet)
        .tcp("in", stage.frontend(), "out", "")
        .backend("out", server, "")
}

fn the_service_manager_keeps_flows_until_the_next_agent_comes(family: Family) {
    let (stage, mut manager) = (Stage::of(family), Manager::new());
    let config = config(&stage);
    let mut first = manager.start(&stage, &config);
    until_said(&first, "keeper=the service manager");
    let mut pairs = [stage.spliced(&first), stage.spliced(&first)];
    let objects = Objects::of(&first);
    kill(&mut first);
    pairs.iter_mut().for_each(Pair::ping);
    let mut second = manager.start(&stage, &config);
    pairs[0].stream(1 << 20);
    pairs.iter().for_each(Pair::end);
    for (record, pair) in second.until_records(2).iter().zip(&pairs) {
        assert_bytes(record, pair.bytes);
    }
    second.until_idle();
    let later = stage.spliced(&second);
    second.terminate();
    assert!(second.wait().success());
    // It goes on: so nothing is forgotten.
    let mut third = manager.start(&stage, &config);
    later.end();
    assert_bytes(&third.until_records(1)[0], later.bytes);
    third.terminate();
    manager.until_empty();
    assert!(third.wait().success());
    stage.assert_nothing_left(&objects);
}

/// Others mean other things by this signal, and long after it a restart must not end flows.
fn a_signal_that_nobody_follows_up_ends_nothing(family: Family) {
    let (stage, mut manager) = (Stage::of(family), Manager::new());
    let config = config_with(&stage, "drain-timeout = \"500ms\"");
    let mut first = manager.start(&stage, &config);
    let mut pair = stage.spliced(&first);
    first.process.signal(Signal::USR1);
    until_said(&first, "nobody has stopped lb since SIGUSR1");
    first.terminate();
    assert!(first.wait().success());
    pair.ping();
    let second = manager.start(&stage, &config);
    pair.end();
    assert_bytes(&second.until_records(1)[0], pair.bytes);
}

/// As the unit does where nobody follows (`systemctl stop`): what would go on ends, at both ends and with its line.
fn the_last_agent_ends_its_flows_with_itself(family: Family) {
    let (stage, mut manager) = (Stage::of(family), Manager::new());
    let config = config_with(&stage, "drain-timeout = \"500ms\"");
    let mut agent = manager.start(&stage, &config);
    let pairs = [stage.spliced(&agent), stage.spliced(&agent)];
    let objects = Objects::of(&agent);
    agent.process.signal(Signal::USR1);
    until_said(&agent, "no lb follows");
    pairs.iter().for_each(|pair| assert!(pair.pings_at_once(), "nobody ends yet"));
    agent.terminate();
    manager.until_empty();
    assert!(agent.wait().success());
    for record in agent.until_records(2) {
        let said = (record.close(), record.text("path"), record.text("termination"));
        assert_eq!(said, ("shutdown", "packet", "KD"));
    }
    for pair in &pairs {
        // What it got in answer to the last message stands before the reset.
        assert_eq!(receive_all(&pair.client).1, End::Reset);
        assert_eq!(receive_all(&pair.server).1, End::Reset);
    }
    stage.assert_nothing_left(&objects);
}

/// An interface comes while an agent runs, and goes while the next one does.
fn what_is_at_later_interfaces_is_kept_with_the_rest(family: Family) {
    let (stage, mut manager, far) = (Stage::of(family), Manager::new(), far(family));
    let config = config_towards(&stage, far.neighbour(), "");
    let mut first = manager.start(&stage, &config);
    add_second_link_at(&first, &stage.net, stage.net.server(), family, far);
    let end = format!("gress-{}", interface_number(&stage.net.balancer, "second"));
    manager.until_kept(&end, if has_links() { 2 } else { 0 });
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    (0..100).for_each(|_| pair.ping());
    let second = manager.start(&stage, &config);
    pair.stream(1 << 20);
    pair.end();
    assert_bytes(&second.until_records(1)[0], pair.bytes);
    ip(&stage.net.balancer, &["link", "del", "second"]);
    manager.until_kept(&end, 0);
}

/// `lb stop --flush` cannot reach what a service manager keeps.
fn a_layout_that_is_not_understood_names_the_way_out(family: Family) {
    let (stage, mut manager) = (Stage::of(family), Manager::new());
    let config = config(&stage);
    let mut first = manager.start(&stage, &config);
    let mut pair = stage.spliced(&first);
    let objects = Objects::of(&first);
    kill(&mut first);
    manager.change_version(1);
    let mut second = manager.start(&stage, &config);
    until_said(&second, "the service manager holds flows that this lb cannot go on with");
    until_said(&second, "`systemctl stop` ends them");
    assert_eq!(second.scrape().count("lb_path_available", &[("path", "packet")]), 0);
    pair.ping();
    second.terminate();
    assert!(second.wait().success());
    manager.let_go(&stage);
    stage.assert_nothing_left(&objects);
    assert!(!pair.pings_at_once(), "the flow goes on");
}
