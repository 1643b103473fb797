// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: whatever becomes of the agent, its flows go on, and the next agent knows them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Record, binary, public_directory};
use lb_tests::bpffs::Bpffs;
use lb_tests::config::{Config, Path};
use lb_tests::net::{Listener, Net};
use lb_tests::process::{Process, output, run, text};
use lb_tests::random::Random;
use lb_tests::size;
use lb_tests::stream::{End, finish, receive_all, receive_at_most, receive_exactly, say, send};
use lb_tests::wait::until;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{PORT, SERVER_PORT, assert_received};

/// Where agents keep flows.
const STATE: &str = "lb";

/// A network, a server in it, and a place where agents keep flows.
struct Stage {
    net: Net,
    listener: Listener,
    bpffs: Bpffs,
    files: TempDir,
}

/// Programs, maps and links by kind and number: all that an agent has open.
struct Objects(BTreeSet<(&'static str, String)>);

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
        Self { net, listener, bpffs: Bpffs::new(), files: public_directory() }
    }

    fn config(&self) -> Config {
        self.config_with("")
    }

    /// With the place, and these lines.
    fn global(&self, lines: &str) -> Config {
        let state = self.bpffs.path(STATE);
        Config::new().global(&format!("packet-state = \"{}\"\n{lines}", state.display()))
    }

    fn config_with(&self, global: &str) -> Config {
        self.global(global).path(Path::Packet).tcp("in", self.net.frontend(PORT), "out", "").backend(
            "out",
            self.net.server().address(SERVER_PORT),
            "",
        )
    }

    fn agent(&self) -> Agent {
        Agent::start(&self.net, &self.config())
    }

    /// A flow that the agent carries.
    #[track_caller]
    fn pair(&self) -> Pair {
        let client = self.net.client.connect(self.net.frontend(PORT));
        Pair { client, server: self.listener.accept(), bytes: 0 }
    }

    /// A flow that the programs carry.
    #[track_caller]
    fn spliced(&self, agent: &Agent) -> Pair {
        let mut pair = self.pair();
        let flows = agent.own_flows(Path::Packet);
        until("the flow to leave the agent", || {
            pair.ping();
            agent.own_flows(Path::Packet) > flows
        });
        pair
    }

    /// Established connections of the balancer's with clients, and with servers.
    fn sockets(&self) -> (usize, usize) {
        let count = |filter: &str, port: u16| {
            let mut command = Command::new("ss");
            command.args(["-tnH", "state", "established", filter, "=", &format!(":{port}")]);
            self.net.balancer.run(&mut command).lines().count()
        };
        (count("sport", PORT), count("dport", SERVER_PORT))
    }

    #[track_caller]
    fn assert_nothing_left(&self, objects: &Objects) {
        assert_eq!(self.bpffs.names("."), ["maps.debug", "progs.debug"]);
        // The kernel takes its time.
        until("the programs and maps to be gone", || objects.0.iter().all(|(kind, id)| !is_there(kind, id)));
    }

    /// Another agent in the same place.
    #[track_caller]
    fn run_beside(&self, config: &Config) -> Process {
        let file = self.files.path().join("second.toml");
        std::fs::write(&file, config.text()).expect("a temporary file");
        self.net.balancer.spawn(Command::new(binary()).args(["run", "--config"]).arg(file))
    }

    /// A verb on the configuration of the agents.
    #[track_caller]
    fn verb(&self, arguments: &[&str]) -> Output {
        Agent::launch(&self.net).verb(arguments, &self.config())
    }

    /// Adds to the version of the layout.
    #[track_caller]
    fn change_version(&self, by: i16) {
        let layout = self.bpffs.path(STATE).join("layout");
        let dump = run(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(&layout));
        let dump: Value = serde_json::from_str(&dump).expect("JSON");
        let value = dump[0]["value"].as_array().expect("bytes").iter();
        let mut bytes: Vec<String> = value.map(|byte| byte.as_str().expect("a byte").to_owned()).collect();
        // The second number of 64 bits.
        let version = i16::from_str_radix(bytes[8].trim_start_matches("0x"), 16).expect("a number");
        bytes[8] = format!("{:#04x}", version + by);
        let mut command = Command::new("bpftool");
        command.args(["map", "update", "pinned"]).arg(&layout).args(["key", "0", "0", "0", "0", "value"]);
        run(command.args(bytes));
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

    /// Sends a message from the client, which the server answers if it comes at once; whether the answer came at once.
    fn pings_at_once(&self) -> bool {
        say(&self.client, b"?");
        comes_at_once(&self.server) && {
            assert_eq!(receive_exactly(&self.server, 1), b"?");
            say(&self.server, b"?");
            comes_at_once(&self.client)
        }
    }

    /// What [`Self::pings_at_once`] leaves to do.
    #[track_caller]
    fn end_ping(&mut self, has_come: bool) {
        if !has_come && !comes_at_once(&self.client) {
            assert_eq!(receive_exactly(&self.server, 1), b"?");
            say(&self.server, b"?");
        }
        assert_eq!(receive_exactly(&self.client, 1), b"?");
        self.bytes += 1;
    }

    fn client_address(&self) -> String {
        self.client.local_addr().expect("connected").to_string()
    }

    /// The same, for as long as it goes; `false`: it was reset.
    fn try_ping(&mut self) -> bool {
        let (mut client, mut server) = (&self.client, &self.server);
        let mut one = [0];
        let went = client.write_all(b"?").is_ok()
            && server.read_exact(&mut one).is_ok()
            && server.write_all(b"?").is_ok()
            && client.read_exact(&mut one).is_ok();
        self.bytes += u64::from(went);
        went
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

impl Objects {
    /// Those of an agent; there are programs, maps and links among them.
    #[track_caller]
    fn of(agent: &Agent) -> Self {
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

/// Whether a byte comes within a moment.
fn comes_at_once(stream: &TcpStream) -> bool {
    let patience = stream.read_timeout().expect("a socket");
    stream.set_read_timeout(Some(Duration::from_millis(60))).expect("a socket");
    let came = stream.peek(&mut [0]).is_ok();
    stream.set_read_timeout(patience).expect("a socket");
    came
}

/// Whether the kernel knows a program or map by its number.
fn is_there(kind: &str, id: &str) -> bool {
    output(Command::new("bpftool").args([kind, "show", "id", id])).status.success()
}

#[track_caller]
fn kill(agent: &mut Agent) {
    agent.process.signal(Signal::KILL);
    agent.wait();
}

/// Makes an agent stand still, each of its threads.
#[track_caller]
fn stop(agent: &Agent) {
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

/// Whenever it is killed, a flow that has left it goes on, exact, and is told of once; one that has not is reset, and not told of.
#[test]
fn a_kill_at_any_moment_costs_no_flow_that_has_left() {
    let stage = Stage::new();
    let mut random = Random::new(7);
    let mut agent = stage.agent();
    let (mut gone_on, mut was_reset) = (0, 0);
    for round in 0..size(6, 50) {
        let before = agent.records().len();
        let pairs: Vec<Pair> = (0..8).map(|_| stage.pair()).collect();
        let is_over = AtomicBool::new(false);
        let (next, pairs) = std::thread::scope(|scope| {
            let talk = |mut pair: Pair| {
                let is_over = &is_over;
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) && pair.try_ping() {}
                    (is_over.load(Ordering::Relaxed), pair)
                })
            };
            let talking: Vec<_> = pairs.into_iter().map(talk).collect();
            match round {
                0 => until("a flow to leave the agent", || agent.own_flows(Path::Packet) > 0),
                _ => std::thread::sleep(Duration::from_micros(random.number() % 60_000)),
            }
            kill(&mut agent);
            let next = stage.agent();
            is_over.store(true, Ordering::Relaxed);
            let talked = talking.into_iter().map(|thread| thread.join().expect("no panic"));
            (next, talked.collect::<Vec<_>>())
        });
        assert_eq!(before, agent.records().len(), "round {round}");
        agent = next;
        let alive: Vec<&Pair> = pairs.iter().filter(|(goes_on, _)| *goes_on).map(|(_, pair)| pair).collect();
        alive.iter().for_each(|pair| pair.end());
        let records = agent.until_records(alive.len());
        for pair in &alive {
            let client = pair.client_address();
            let told: Vec<_> = records.iter().filter(|record| record.text("client") == client).collect();
            let [record] = told[..] else { panic!("{client} is told of {} times", told.len()) };
            assert_bytes(record, pair.bytes);
        }
        agent.until_idle();
        assert_eq!(agent.records().len(), alive.len(), "round {round}");
        (gone_on, was_reset) = (gone_on + alive.len(), was_reset + pairs.len() - alive.len());
    }
    println!("{gone_on} flows went on, {was_reset} were reset");
    assert!(gone_on > 0, "no flow had left the agent");
    let objects = Objects::of(&agent);
    agent.terminate();
    agent.wait();
    stage.assert_nothing_left(&objects);
}

/// The programs have a flow from a segment on, and the agent throws the sockets away when it hears of that. One that stands still does not
/// hear, and its sockets are there when it is killed: nothing of what they say then goes out.
#[test]
fn a_kill_between_flip_and_discard_costs_nothing() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let mut pair = stage.pair();
    until("a flow to flip while the agent stands still", || {
        pair.ping();
        stop(&first);
        let went = pair.pings_at_once();
        let (client, server) = stage.sockets();
        let is_between = went && client + server == 2;
        if !is_between {
            first.process.signal(Signal::CONT);
        }
        pair.end_ping(went);
        if is_between {
            return true;
        }
        if client + server == 0 {
            // It had left before.
            pair = stage.pair();
        }
        false
    });
    kill(&mut first);
    until("the sockets to be gone", || stage.sockets() == (0, 0));
    (0..100).for_each(|_| pair.ping());
    let second = stage.agent();
    pair.stream(1 << 20);
    pair.end();
    let records = second.until_records(1);
    let told = records.iter().find(|record| record.text("client") == pair.client_address());
    assert_bytes(told.expect("told of"), pair.bytes);
}

/// Nobody looks while no agent runs; the programs remember.
#[test]
fn flows_that_end_while_no_agent_runs_are_told_of_by_the_next() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let flows = [stage.spliced(&first), stage.spliced(&first)];
    kill(&mut first);
    flows.iter().for_each(Pair::end);
    let mut second = stage.agent();
    for (record, pair) in second.until_records(2).iter().zip(&flows) {
        assert_bytes(record, pair.bytes);
    }
    // Killed once more, it tells of none again.
    kill(&mut second);
    let mut third = stage.agent();
    third.until_idle();
    let objects = Objects::of(&third);
    third.terminate();
    assert!(third.wait().success());
    assert_eq!(third.records().len(), 0);
    stage.assert_nothing_left(&objects);
}

/// A flow that needs nobody is not waited for, and not cut.
#[test]
fn a_restart_holds_up_nobody_and_cuts_nobody() {
    let stage = Stage::new();
    let mut agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    for _ in 0..3 {
        let begun = Instant::now();
        agent.terminate();
        assert!(agent.wait().success());
        assert!(begun.elapsed() < Duration::from_secs(10), "it has waited");
        assert_eq!(agent.records().len(), 0);
        (0..100).for_each(|_| pair.ping());
        agent = stage.agent();
        (0..100).for_each(|_| pair.ping());
        assert_eq!(agent.scrape().count("lb_frontend_connections_active", &[]), 1);
    }
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

/// What the counters of the programs and of the agents say goes on, too: together, each byte is counted once.
#[test]
fn bytes_are_counted_once_by_all_agents_together() {
    let stage = Stage::new();
    let mut agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    let mut counted = 0;
    let bytes = |agent: &Agent| agent.scrape().count("lb_path_bytes_total", &[]);
    for _ in 0..2 {
        pair.stream(1 << 20);
        until("all bytes to be counted", || counted + bytes(&agent) == 2 * pair.bytes);
        counted += bytes(&agent);
        kill(&mut agent);
        pair.stream(1 << 20);
        agent = stage.agent();
        until("the bytes in between to be counted", || counted + bytes(&agent) == 2 * pair.bytes);
    }
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

#[test]
fn nothing_stays_when_no_flow_does() {
    let stage = Stage::new();
    let mut agent = stage.agent();
    let objects = Objects::of(&agent);
    assert!(!stage.bpffs.names(STATE).is_empty());
    let pair = stage.spliced(&agent);
    pair.end();
    agent.until_records(1);
    agent.terminate();
    assert!(agent.wait().success());
    stage.assert_nothing_left(&objects);
}

/// The one that is there goes on; the other one carries its flows in user space, and says why.
#[test]
fn a_second_agent_is_refused_what_the_first_has() {
    let stage = Stage::new();
    let agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    let other = stage.bpffs.path("other");
    for (state, reason) in [
        (stage.bpffs.path(STATE), "belongs to an agent that is running"),
        (other.clone(), "packet-ports overlap with those of the agent"),
    ] {
        let config = Config::whole("[log]\ntarget = \"off\"\n")
            .global(&format!("packet-state = \"{}\"", state.display()))
            .path(Path::Packet)
            .tcp("in", stage.net.frontend(PORT + 1), "out", "")
            .backend("out", stage.net.server().address(SERVER_PORT), "");
        let second = stage.run_beside(&config);
        until("a word of it", || second.stderr().iter().any(|line| line.contains(reason)));
        until("it to be ready", || second.stderr().iter().any(|line| line.contains("ready")));
        pair.ping();
    }
    assert!(!other.exists(), "what is refused leaves nothing behind");
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

/// What another lb has left is not touched, as long as flows are in it.
#[test]
fn a_layout_that_is_not_understood_is_left_alone() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    stage.change_version(1);
    let mut second = stage.agent();
    let said = second.process.stderr().join("\n");
    assert!(said.contains("its layout has version 2, this lb knows version 1"), "{said}");
    assert!(said.contains("`lb stop --flush` ends them"), "{said}");
    assert_eq!(second.scrape().count("lb_path_available", &[("path", "packet")]), 0);
    pair.ping();
    second.terminate();
    second.wait();
    stage.change_version(-1);
    let third = stage.agent();
    pair.ping();
    pair.end();
    assert_bytes(&third.until_records(1)[0], pair.bytes);
}

#[test]
fn a_layout_that_is_not_understood_makes_way_where_no_flow_is_in_it() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let objects = Objects::of(&first);
    kill(&mut first);
    stage.change_version(1);
    let mut second = stage.agent();
    let pair = stage.spliced(&second);
    pair.end();
    assert_bytes(&second.until_records(1)[0], pair.bytes);
    second.terminate();
    assert!(second.wait().success());
    stage.assert_nothing_left(&objects);
}

/// Flows of a frontend and a server that are no more have their names all the same.
#[test]
fn a_flow_keeps_its_names_when_the_configuration_changes() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    let config = stage.global("");
    let config = config.path(Path::Packet).tcp("new", stage.net.frontend(PORT), "other", "");
    let second =
        Agent::start(&stage.net, &config.backend("other", stage.net.server().address(SERVER_PORT), ""));
    pair.ping();
    let later = stage.spliced(&second);
    pair.end();
    later.end();
    let records = second.until_records(2);
    let names =
        |record: &Record| ["frontend", "backend", "server"].map(|field| record.text(field).to_owned());
    assert_eq!(names(&records[0]), ["in", "out", "only"]);
    assert_eq!(names(&records[1]), ["new", "other", "only"]);
    assert_bytes(&records[0], pair.bytes);
}

/// Ports of flows cannot become somebody else's.
#[test]
fn flows_from_other_ports_are_left_alone() {
    let stage = Stage::new();
    let mut first = stage.agent();
    let mut pair = stage.spliced(&first);
    kill(&mut first);
    let mut second = Agent::start(&stage.net, &stage.config_with("packet-ports = \"64000-64999\""));
    let said = second.process.stderr().join("\n");
    assert!(said.contains("a flow of it comes from port 61000, which is not in packet-ports"), "{said}");
    pair.ping();
    kill(&mut second);
    let third = stage.agent();
    pair.end();
    assert_bytes(&third.until_records(1)[0], pair.bytes);
}

/// Where nobody keeps anything, flows end with their agent, loudly, and that is told.
#[test]
fn without_a_place_flows_end_with_their_agent() {
    let stage = Stage::new();
    let config = stage.config().text().replace(&stage.bpffs.path(STATE).display().to_string(), "off");
    let mut agent = Agent::start(&stage.net, &Config::whole(&config));
    let said = agent.process.stderr().join("\n");
    assert!(said.contains("flows of path packet end with lb"), "{said}");
    let pair = stage.spliced(&agent);
    kill(&mut agent);
    say(&pair.client, b"?");
    assert_eq!(receive_all(&pair.client), (Vec::new(), End::Reset));
}

/// Whoever wants no flow to go on says so.
#[test]
fn a_flush_leaves_nothing_and_resets_whom_it_ends() {
    for is_killed in [false, true] {
        let stage = Stage::new();
        let mut agent = stage.agent();
        let pairs = [stage.spliced(&agent), stage.spliced(&agent)];
        let objects = Objects::of(&agent);
        if is_killed {
            kill(&mut agent);
        }
        let process = format!("lb (process {}) has ended\n", agent.process.pid());
        let flushed = format!("{} is gone, and 2 flows with it\n", stage.bpffs.path(STATE).display());
        let expected = if is_killed { flushed } else { process + &flushed };
        let said = stage.verb(&["stop", "--flush"]);
        assert_eq!(
            (text(&said.stdout), text(&said.stderr), said.status.success()),
            (expected, String::new(), true)
        );
        stage.assert_nothing_left(&objects);
        for pair in pairs {
            say(&pair.client, b"?");
            assert_eq!(receive_all(&pair.client), (Vec::new(), End::Reset));
        }
        let again = stage.verb(&["stop", "--flush"]);
        let nothing = format!("nothing is kept in {}\n", stage.bpffs.path(STATE).display());
        assert_eq!((text(&again.stdout), again.status.success()), (nothing, true));
    }
}

#[test]
fn a_stop_lets_flows_go_on() {
    let stage = Stage::new();
    let mut agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    assert!(stage.verb(&["stop"]).status.success());
    assert!(agent.wait().success());
    pair.ping();
    let said = stage.verb(&["stop"]);
    let nobody = format!("error: no lb runs on {}\n", stage.bpffs.path(STATE).display());
    assert_eq!((text(&said.stderr), said.status.code()), (nobody, Some(69)));
    let next = stage.agent();
    pair.end();
    assert_bytes(&next.until_records(1)[0], pair.bytes);
}

/// What is open is seen, also by an agent that has not let it in.
#[test]
fn sessions_are_listed_with_what_the_kernel_counts() {
    let stage = Stage::new();
    let mut agent = stage.agent();
    let mut pairs = [stage.spliced(&agent), stage.spliced(&agent)];
    pairs[1].stream(1 << 20);
    kill(&mut agent);
    let agent = stage.agent();
    let said = stage.verb(&["sessions", "--format", "json"]);
    let listed: Value = serde_json::from_str(&text(&said.stdout)).expect("JSON");
    for (session, pair) in listed["sessions"].as_array().expect("a list").iter().zip(&pairs) {
        for (field, expected) in [
            ("client", pair.client_address()),
            ("local", stage.net.frontend(PORT).to_string()),
            ("server_address", stage.net.server().address(SERVER_PORT).to_string()),
            ("server", "only".to_owned()),
            ("state", "open".to_owned()),
        ] {
            assert_eq!(session[field], expected, "{session}");
        }
        for field in ["received_bytes", "sent_bytes"] {
            assert_eq!(session[field], pair.bytes, "{session}");
        }
        assert!(session["sent_packets"].as_u64() > Some(0), "{session}");
    }
    let shown = text(&stage.verb(&["sessions"]).stdout);
    assert_eq!(shown.lines().filter(|line| line.contains("out/only")).count(), 2, "{shown}");
    pairs.iter().for_each(Pair::end);
    agent.until_records(2);
    until("both to be gone", || !text(&stage.verb(&["sessions"]).stdout).contains("out/only"));
}
