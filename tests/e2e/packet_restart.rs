// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: whatever becomes of the agent, its flows go on, and the next agent knows them.

use std::net::TcpStream;
use std::process::Command;

use lb_tests::agent::{Agent, Record};
use lb_tests::bpffs::Bpffs;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Listener, Net};
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_all, receive_at_most, receive_exactly, say, send};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{PORT, SERVER_PORT, assert_received};

/// Where agents keep flows.
const STATE: &str = "lb";

/// A network, a server in it, and a place where agents keep flows.
struct Stage {
    net: Net,
    listener: Listener,
    bpffs: Bpffs,
}

/// One flow, and how many bytes went each way.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    bytes: u64,
}

impl Stage {
    fn new() -> Self {
        let net = Net::new(1);
        let listener = net.server().listen(SERVER_PORT);
        Self { net, listener, bpffs: Bpffs::new() }
    }

    fn config(&self) -> Config {
        self.config_with("")
    }

    fn config_with(&self, global: &str) -> Config {
        let state = self.bpffs.path(STATE);
        Config::new()
            .global(&format!("packet-state = \"{}\"\n{global}", state.display()))
            .path(Path::Packet)
            .tcp("in", self.net.frontend(PORT), "out", "")
            .backend("out", self.net.server().address(SERVER_PORT), "")
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.net, &self.config())
    }

    /// A flow that the programs carry.
    #[track_caller]
    fn spliced(&self, agent: &Agent) -> Pair {
        let client = self.net.client.connect(self.net.frontend(PORT));
        let mut pair = Pair { client, server: self.listener.accept(), bytes: 0 };
        let flows = agent.own_flows(Path::Packet);
        until("the flow to leave the agent", || {
            pair.ping();
            agent.own_flows(Path::Packet) > flows
        });
        pair
    }

    /// The programs at the balancer's interfaces.
    #[expect(dead_code, reason = "for what follows")]
    fn programs(&self) -> usize {
        let shown = self.net.balancer.run(Command::new("bpftool").args(["net", "show"]));
        shown.lines().filter(|line| line.contains("packet_")).count()
    }
}

impl Pair {
    /// A message each way.
    #[track_caller]
    fn ping(&mut self) {
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            say(from, b"?");
            assert_eq!(receive_exactly(to, 1), b"?");
        }
        self.bytes += 1;
    }

    /// So many bytes both ways at once.
    #[track_caller]
    fn stream(&mut self, bytes: u64) {
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

    /// Ends it from both ends.
    #[track_caller]
    fn end(&self) {
        finish(&self.client);
        assert_eq!(receive_all(&self.server), (Vec::new(), End::Finished));
        finish(&self.server);
        assert_eq!(receive_all(&self.client), (Vec::new(), End::Finished));
    }
}

#[track_caller]
fn kill(agent: &mut Agent) {
    agent.process.signal(Signal::KILL);
    agent.wait();
}

#[track_caller]
fn assert_bytes(record: &Record, bytes: u64) {
    assert_eq!((record.close(), record.text("path")), ("finished", "packet"), "{record:?}");
    for direction in ["received_bytes", "sent_bytes"] {
        assert_eq!(record.number(direction), bytes, "{direction}");
    }
}

/// Bulk both ways, ping-pong and an idle flow: none notices that the agent was killed, and the next one tells of each once, exactly.
#[test]
fn a_killed_agent_loses_no_flow() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let (mut talking, idle, mut bulk) = (stage.spliced(&first), stage.spliced(&first), stage.spliced(&first));
    let second = std::thread::scope(|scope| {
        let streaming = scope.spawn(|| bulk.stream(size(256 << 20, 4 << 30)));
        kill(&mut first);
        assert_eq!(first.records().len(), 0);
        (0..200).for_each(|_| talking.ping());
        let second = stage.agent();
        (0..200).for_each(|_| talking.ping());
        streaming.join().expect("no panic");
        second
    });
    let scrape = second.scrape();
    for gauge in ["lb_frontend_connections_active", "lb_server_connections_active"] {
        assert_eq!(scrape.count(gauge, &[]), 3, "{gauge}");
    }
    bulk.stream(8 << 20);
    let flows = [talking, idle, bulk];
    flows.iter().for_each(Pair::end);
    let records = second.until_records(3);
    for (record, pair) in records.iter().zip(&flows) {
        assert_bytes(record, pair.bytes);
        let names = ["frontend", "backend", "server"].map(|field| record.text(field));
        assert_eq!(names, ["in", "out", "only"]);
    }
    second.until_idle();
    let later = stage.spliced(&second);
    later.end();
    let records = second.until_records(4);
    assert_bytes(&records[3], later.bytes);
    assert!(records.windows(2).all(|pair| pair[0].number("id") < pair[1].number("id")), "{records:?}");
}
