// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests of agents on path `packet` that follow each other set up.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use lb_tests::agent::{Agent, Record, binary, public_directory};
use lb_tests::bpffs::Bpffs;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Listener, Net};
use lb_tests::process::{Process, output, run};
use lb_tests::stream::{End, end_of, finish_both, receive_at_most, receive_exactly, say, send};
use lb_tests::wait::until;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::packet_lab::Family;
use crate::support::{PORT, SERVER_PORT, assert_received};

/// Where agents keep flows.
pub(crate) const STATE: &str = "lb";

/// A network, a server in it, and a place where agents keep flows.
pub(crate) struct Stage {
    pub(crate) net: Net,
    pub(crate) family: Family,
    pub(crate) listener: Listener,
    pub(crate) bpffs: Bpffs,
    pub(crate) files: TempDir,
}

/// Programs, maps and links by kind and number: all that an agent has open.
pub(crate) struct Objects(BTreeSet<(&'static str, String)>);

/// One flow, and how many bytes went each way.
pub(crate) struct Pair {
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
    pub(crate) bytes: u64,
    /// An end has been told so: it is told once.
    is_reset: bool,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::of(Family::V4)
    }

    /// Whose connections speak this.
    pub(crate) fn of(family: Family) -> Self {
        let net = Net::new(1);
        let listener = net.server().listen(SERVER_PORT);
        Self { net, family, listener, bpffs: Bpffs::new(), files: public_directory() }
    }

    pub(crate) fn frontend(&self) -> SocketAddr {
        self.family.of(&self.net.balancer, PORT)
    }

    pub(crate) fn server(&self) -> SocketAddr {
        self.family.of(self.net.server(), SERVER_PORT)
    }

    pub(crate) fn config(&self) -> Config {
        self.config_with("")
    }

    /// With the place, and these lines.
    pub(crate) fn global(&self, lines: &str) -> Config {
        let state = self.bpffs.path(STATE);
        Config::new().global(&format!("packet-state = \"{}\"\n{lines}", state.display()))
    }

    pub(crate) fn config_with(&self, global: &str) -> Config {
        self.whole(global, self.server())
    }

    /// With the server at another of its addresses.
    pub(crate) fn config_towards(&self, server: SocketAddr) -> Config {
        self.whole("", server)
    }

    fn whole(&self, global: &str, server: SocketAddr) -> Config {
        let config = self.global(global).path(Path::Packet).tcp("in", self.frontend(), "out", "");
        config.backend("out", server, "")
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent::start(&self.net, &self.config())
    }

    /// A flow that the agent carries.
    #[track_caller]
    pub(crate) fn pair(&self) -> Pair {
        let client = self.net.client.connect(self.frontend());
        Pair { client, server: self.listener.accept(), bytes: 0, is_reset: false }
    }

    /// A flow that the programs carry.
    #[track_caller]
    pub(crate) fn spliced(&self, agent: &Agent) -> Pair {
        let mut pair = self.pair();
        let flows = agent.own_flows(Path::Packet);
        until("the flow to leave the agent", || {
            pair.ping();
            agent.own_flows(Path::Packet) > flows
        });
        pair
    }

    /// Established connections of the balancer's with clients, and with servers.
    pub(crate) fn sockets(&self) -> (usize, usize) {
        let count = |filter: &str, port: u16| {
            let mut command = Command::new("ss");
            command.args(["-tnH", "state", "established", filter, "=", &format!(":{port}")]);
            self.net.balancer.run(&mut command).lines().count()
        };
        (count("sport", PORT), count("dport", SERVER_PORT))
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self, objects: &Objects) {
        // The kernel's own, where it has them.
        let names = self.bpffs.names(".").into_iter().filter(|name| !name.ends_with(".debug"));
        assert_eq!(names.collect::<Vec<_>>(), Vec::<String>::new());
        // The kernel takes its time.
        until("the programs and maps to be gone", || objects.0.iter().all(|(kind, id)| !is_there(kind, id)));
    }

    /// Another agent in the same place.
    #[track_caller]
    pub(crate) fn run_beside(&self, config: &Config) -> Process {
        let file = self.files.path().join("second.toml");
        std::fs::write(&file, config.text()).expect("a temporary file");
        self.net.balancer.spawn(Command::new(binary()).args(["run", "--config"]).arg(file))
    }

    /// A verb on the configuration of the agents.
    #[track_caller]
    pub(crate) fn verb(&self, arguments: &[&str]) -> Output {
        Agent::launch(&self.net).verb(arguments, &self.config())
    }

    /// Adds to the version of the layout.
    #[track_caller]
    pub(crate) fn change_version(&self, by: i16) {
        let layout = self.bpffs.path(STATE).join("layout").display().to_string();
        change_version(["pinned", &layout], by);
    }
}

/// Adds to the version of a layout, which is in this map (bpftool-map(8)).
#[track_caller]
pub(crate) fn change_version(map: [&str; 2], by: i16) {
    let dump = run(Command::new("bpftool").args(["-j", "map", "dump"]).args(map));
    let dump: Value = serde_json::from_str(&dump).expect("JSON");
    let value = dump[0]["value"].as_array().expect("bytes").iter();
    let mut bytes: Vec<String> = value.map(|byte| byte.as_str().expect("a byte").to_owned()).collect();
    // The second number of 64 bits.
    let version = i16::from_str_radix(bytes[8].trim_start_matches("0x"), 16).expect("a number");
    bytes[8] = format!("{:#04x}", version + by);
    let mut command = Command::new("bpftool");
    command.args(["map", "update"]).args(map).args(["key", "0", "0", "0", "0", "value"]);
    run(command.args(bytes));
}

impl Pair {
    /// A message each way.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            say(from, b"?");
            assert_eq!(receive_exactly(to, 1), b"?");
        }
        self.bytes += 1;
    }

    /// So many bytes both ways at once.
    #[track_caller]
    pub(crate) fn stream(&mut self, bytes: u64) {
        let (client, server) = (&self.client, &self.server);
        std::thread::scope(|scope| {
            for (seed, from, to) in [(1, client, server), (2, server, client)] {
                let sent = scope.spawn(move || send(from, seed, bytes).expect("a reader"));
                scope.spawn(move || {
                    let received = receive_at_most(to, seed, bytes);
                    assert_received(&received, bytes, End::Silent);
                    assert_eq!(received.sha256, sent.join().expect("no panic"));
                });
            }
        });
        self.bytes += bytes;
    }

    /// Sends a message from the client, which the server answers if it comes at once; whether the answer came at once.
    pub(crate) fn pings_at_once(&self) -> bool {
        say(&self.client, b"?");
        comes_at_once(&self.server) && {
            assert_eq!(receive_exactly(&self.server, 1), b"?");
            say(&self.server, b"?");
            comes_at_once(&self.client)
        }
    }

    /// What [`Self::pings_at_once`] leaves to do.
    #[track_caller]
    pub(crate) fn end_ping(&mut self, has_come: bool) {
        if !has_come && !comes_at_once(&self.client) {
            assert_eq!(receive_exactly(&self.server, 1), b"?");
            say(&self.server, b"?");
        }
        assert_eq!(receive_exactly(&self.client, 1), b"?");
        self.bytes += 1;
    }

    pub(crate) fn client_port(&self) -> u16 {
        self.client.local_addr().expect("connected").port()
    }

    pub(crate) fn client_address(&self) -> String {
        self.client.local_addr().expect("connected").to_string()
    }

    /// A message each way that is another one each time, for as long as it goes; `false`: it was reset.
    ///
    /// # Panics
    /// Another message comes, or the flow ends in another way.
    pub(crate) fn try_ping(&mut self) -> bool {
        let (client, server) = (&self.client, &self.server);
        let message = self.bytes.to_le_bytes();
        let went = !self.is_reset && goes(client, server, message[0]) && goes(server, client, !message[0]);
        self.bytes += u64::from(went);
        self.is_reset = !went;
        went
    }

    /// Nobody is there any more, and that is told, at the latest to whoever says something.
    #[track_caller]
    pub(crate) fn assert_reset(&mut self) {
        let mut client = &self.client;
        let failed = client.write_all(b"?").and_then(|()| client.read_exact(&mut [0])).expect_err("no end");
        assert_eq!(end_of(&failed), End::Reset, "{failed}");
    }

    /// Ends it from both ends.
    #[track_caller]
    pub(crate) fn end(&self) {
        finish_both(&self.client, &self.server);
    }
}

impl Objects {
    /// Those of an agent; there are programs, maps and links among them.
    #[track_caller]
    pub(crate) fn of(agent: &Agent) -> Self {
        let folder = format!("/proc/{}/fdinfo", agent.process.pid());
        let entries = std::fs::read_dir(folder).expect("a living process");
        // A descriptor may be closed meanwhile.
        let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
        let objects: BTreeSet<_> = texts
            .flat_map(|text| {
                let number = |key: &str| {
                    let mut lines = text.lines();
                    lines.find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned()))
                };
                [("prog", "prog_id:"), ("map", "map_id:")].map(|(kind, key)| number(key).map(|id| (kind, id)))
            })
            .flatten()
            .collect();
        for kind in ["prog", "map"] {
            assert!(objects.iter().any(|(found, id)| *found == kind && is_there(kind, id)), "no {kind}");
        }
        Self(objects)
    }
}

/// Whether a byte gets from one end to the other, where it must be what was sent; `false`: the connection was reset.
fn goes(mut from: &TcpStream, mut to: &TcpStream, byte: u8) -> bool {
    let mut one = [!byte];
    if let Err(error) = from.write_all(&[byte]).and_then(|()| to.read_exact(&mut one)) {
        assert_eq!(end_of(&error), End::Reset, "{error}");
        return false;
    }
    assert_eq!(one, [byte], "another byte came than was sent");
    true
}

/// Whether a byte comes within a moment.
pub(crate) fn comes_at_once(stream: &TcpStream) -> bool {
    let patience = stream.read_timeout().expect("a socket");
    stream.set_read_timeout(Some(Duration::from_millis(60))).expect("a socket");
    let came = stream.peek(&mut [0]).is_ok();
    stream.set_read_timeout(patience).expect("a socket");
    came
}

/// Whether the kernel knows a program or map by its number.
pub(crate) fn is_there(kind: &str, id: &str) -> bool {
    output(Command::new("bpftool").args([kind, "show", "id", id])).status.success()
}

#[track_caller]
pub(crate) fn kill(agent: &mut Agent) {
    agent.process.signal(Signal::KILL);
    agent.wait();
}

/// Waits until an agent has said something.
#[track_caller]
pub(crate) fn until_said(agent: &Agent, text: &str) {
    until(text, || agent.process.stderr().iter().any(|line| line.contains(text)));
}

/// Makes an agent stand still, each of its threads.
#[track_caller]
pub(crate) fn stop(agent: &Agent) {
    agent.process.signal(Signal::STOP);
    let tasks = format!("/proc/{}/task", agent.process.pid());
    until("every thread to stand still", || {
        std::fs::read_dir(&tasks).expect("a living process").all(|task| {
            let status = std::fs::read_to_string(task.expect("readable").path().join("status"));
            status.is_ok_and(|text| text.lines().any(|line| line == "State:\tT (stopped)"))
        })
    });
}

#[track_caller]
pub(crate) fn assert_bytes(record: &Record, bytes: u64) {
    assert_eq!((record.close(), record.text("path")), ("finished", "packet"), "{record:?}");
    for direction in ["received_bytes", "sent_bytes"] {
        assert_eq!(record.number(direction), bytes, "{direction}");
    }
}

/// Whether programs are at interfaces by links, which go with the process: since Linux 6.6.
pub(crate) fn has_links() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}
