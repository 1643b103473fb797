// SPDX-License-Identifier: MIT OR Apache-2.0
//! The moment at which a path takes a flow over: whatever waits, comes, ends or is silent then, nothing is lost, doubled or left.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, Record};
use lb_tests::config::{Config, Path};
use lb_tests::hello::Hello;
use lb_tests::net::{Listener, Net};
use lb_tests::random::Random;
use lb_tests::size;
use lb_tests::stream::{
    End, Pattern, finish, receive, receive_all, receive_exactly, reset, say, send_in_pieces,
};
use lb_tests::wait::until;
use rustix::process::Signal;

use crate::support::{
    PORT, Relay, SERVER_PORT, allow_many_connections, assert_left, assert_nothing_left, assert_received,
    greet, median, until_carried,
};

/// Within this time a server must have what a client has sent, however silent that is then. It takes milliseconds; two cores may be busy
/// with other tests.
const PROMPTLY: Duration = Duration::from_secs(2);

/// The same for a half of them: 50 ms, where there are enough of them to tell, and else with time for others. What comes only when the agent
/// looks after the flow takes a second.
fn usually() -> Duration {
    Duration::from_millis(size(200, 50))
}

on_all_paths! {
    the_hello_of_a_client_that_then_waits_is_passed_on_at_once,
    a_megabyte_behind_the_hello_arrives_once,
    a_hello_of_single_byte_segments_arrives_once,
    a_hello_that_is_too_large_to_read_arrives_once,
    clients_that_have_finished_before_are_served,
    clients_that_have_reset_before_leave_nothing,
    flows_that_race_the_hand_over_are_exact,
}

fn the_hello_of_a_client_that_then_waits_is_passed_on_at_once(path: Path) {
    let passthrough = Passthrough::start(path, "");
    let wire = Hello::named("alpha.example").wire();
    let flows = size(20, 200);
    let (mut open, mut times) = (Vec::new(), Vec::new());
    for _ in 0..flows {
        let client = passthrough.client();
        let begin = Instant::now();
        say(&client, &wire);
        let server = passthrough.listener.accept();
        assert!(receive_exactly(&server, wire.len()) == wire, "the hello was changed");
        times.push(begin.elapsed());
        open.push((client, server));
    }
    assert!(times.iter().all(|time| *time < PROMPTLY), "{times:?} for a hello");
    let usual = median(&format!("a hello to its server, {path:?}"), times);
    assert!(usual < usually(), "{usual:?} for a hello");
    // Nobody has sent anything else.
    until_carried(&passthrough.agent, path, flows, wire.len() as u64);
    drop(open);
    assert_nothing_left(&passthrough.agent, path);
    passthrough.agent.assert_share(path, 100);
}

fn a_megabyte_behind_the_hello_arrives_once(path: Path) {
    let hello = Hello::named("alpha.example").wire();
    let wire = [hello, Pattern::beginning(1, 1 << 20)].concat();
    arrives_once(path, "", &wire, wire.len());
}

fn a_hello_of_single_byte_segments_arrives_once(path: Path) {
    let wire = Hello::named("alpha.example").sized(1800).wire();
    arrives_once(path, "", &wire, 1);
}

/// 16 KiB are the most that is looked at; what becomes of a larger one is a policy.
fn a_hello_that_is_too_large_to_read_arrives_once(path: Path) {
    let wire = Hello::named("alpha.example").sized(20_000).wire();
    arrives_once(path, "on-too-large = \"alpha\"", &wire, wire.len());
}

/// Writes `wire` by pieces of so many bytes.
fn arrives_once(path: Path, frontend_lines: &str, wire: &[u8], piece: usize) {
    let passthrough = Passthrough::start(path, frontend_lines);
    let client = passthrough.client();
    std::thread::scope(|scope| {
        scope.spawn(|| wire.chunks(piece).for_each(|piece| say(&client, piece)));
        let server = passthrough.listener.accept();
        assert!(receive_exactly(&server, wire.len()) == wire, "the bytes were changed");
        until_carried(&passthrough.agent, path, 1, wire.len() as u64);
        say(&server, b"answer");
        finish(&server);
        assert_eq!(receive_all(&client), (b"answer".to_vec(), End::Finished));
        finish(&client);
        assert_eq!(receive_all(&server), (Vec::new(), End::Finished));
    });
    passthrough.agent.until_idle();
    passthrough.agent.assert_share(path, 100);
    let record = &passthrough.agent.until_records(1)[0];
    assert_eq!((record.number("received_bytes"), record.number("sent_bytes")), (wire.len() as u64, 6));
}

/// A socket whose peer has finished is in no state in which a socket map takes it: user space must.
fn clients_that_have_finished_before_are_served(path: Path) {
    let relay = Relay::start(path);
    let clients = while_it_stands_still(&relay, |client| {
        say(client, b"request");
        finish(client);
    });
    // Workers accept them in an order of their own.
    for _ in &clients {
        let server = relay.listener.accept();
        assert_eq!(receive_all(&server), (b"request".to_vec(), End::Finished));
        say(&server, b"answer");
        finish(&server);
    }
    for client in &clients {
        assert_eq!(receive_all(client), (b"answer".to_vec(), End::Finished));
    }
    let records = relay.agent.until_records(clients.len());
    for record in &records {
        assert_eq!((record.close(), record.number("received_bytes")), ("finished", 7), "{record:?}");
    }
    assert_left(&relay.agent, path, "not-established", clients.len() as u64);
    relay.assert_nothing_left(path);
}

fn clients_that_have_reset_before_leave_nothing(path: Path) {
    let relay = Relay::start(path);
    let sockets = relay.agent.process.sockets();
    // The path takes flows, and this one is none of theirs.
    let (client, server) = relay.handed_over(path);
    let clients = while_it_stands_still(&relay, |client| say(client, b"request"));
    // The agent stands still again, and has not been asked to do anything since.
    relay.agent.process.signal(Signal::STOP);
    relay.agent.process.until_stopped();
    let first = relay.client();
    say(&first, b"request");
    reset(first);
    let count = clients.len() + 1;
    clients.into_iter().for_each(reset);
    relay.agent.process.signal(Signal::CONT);
    relay.agent.until_records(count);
    while let Some(server) = relay.listener.accept_within(Duration::from_millis(100)) {
        assert_eq!(receive_all(&server).1, End::Reset);
    }
    greet(&client, &server);
    finish(&client);
    finish(&server);
    let records = relay.agent.until_records(count + 1);
    let (other, records) = records.split_first().expect("so many");
    assert_eq!(
        (other.close(), other.number("received_bytes"), other.number("sent_bytes")),
        ("finished", 2, 2)
    );
    for record in records {
        let bytes = (record.number("received_bytes"), record.number("sent_bytes"));
        assert!(record.close() != "finished" && [(0, 0), (7, 0)].contains(&bytes), "{record:?}");
    }
    assert_counted(&relay.agent, path);
    relay.assert_nothing_left(path);
    until("sockets to be closed", || relay.agent.process.sockets() <= sockets);
}

/// Asserts that paths have counted what the log says of flows that have all ended, and that `path` has refused nothing but ends.
fn assert_counted(agent: &Agent, path: Path) {
    let carried = |record: &Record| record.number("received_bytes") + record.number("sent_bytes");
    let bytes: u64 = agent.records().iter().map(carried).sum();
    agent.until_count("lb_path_bytes_total", &[], bytes);
    let (scrape, own) = (agent.scrape(), agent.own_flows(path));
    assert!(own > 0, "nothing went over {path:?}");
    let late = scrape.count("lb_path_fallbacks_total", &[("reason", "not-established")]);
    assert_eq!(scrape.count("lb_path_fallbacks_total", &[]), late, "refused for another reason than an end");
}

/// Clients that have connected, and done something, before the agent has accepted them.
fn while_it_stands_still(relay: &Relay, act: impl Fn(&TcpStream)) -> Vec<TcpStream> {
    relay.agent.process.signal(Signal::STOP);
    relay.agent.process.until_stopped();
    let clients: Vec<_> = (0..size(10, 500)).map(|_| relay.client()).collect();
    clients.iter().for_each(act);
    relay.agent.process.signal(Signal::CONT);
    clients
}

/// Clients and servers that send in pieces of every size, end or wait at any moment around the hand-over.
fn flows_that_race_the_hand_over_are_exact(path: Path) {
    let net = Net::new(1);
    allow_many_connections(&net);
    let relay = Relay::over(net, path, "");
    let mut random = Random::new(7);
    let flows = size(100, 10_000);
    for _ in 0..flows {
        race(&relay, &mut random);
    }
    let records = relay.agent.until_records(flows);
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    relay.assert_nothing_left(path);
    let (scrape, own) = (relay.agent.scrape(), relay.agent.own_flows(path));
    let late = scrape.count("lb_path_fallbacks_total", &[("reason", "not-established")]);
    assert_eq!(scrape.count("lb_path_fallbacks_total", &[]), late, "refused for another reason than an end");
    // Some flows carry nothing, and some have ended before.
    assert!(own + late >= flows as u64 * 3 / 4, "{own} flows over {path:?}, {late} were late");
    assert_stayed(&relay.agent, path, flows as u64, 6);
}

/// Of flows that end at any moment around the hand-over, the kernel takes only those into a socket map whose ends have not come before
/// (net/core/sock_map.c, sock_map_sk_state_allowed). How many those are depends on what else the machine has to do: one in so many, at least.
/// Whichever it takes, it carries: 99 % of all bytes, or all but those of one flow, of which one end has come while the other socket was
/// being taken, so that user space carries what that end has sent.
#[track_caller]
pub(crate) fn assert_stayed(agent: &Agent, path: Path, flows: u64, one_in: u64) {
    let own = agent.own_flows(path);
    assert!(own >= flows / one_in, "{own} of {flows} flows over {path:?}");
    let is_own = |record: &Record| path.own_labels().contains(&record.text("path"));
    let bytes = |record: &Record| record.number("received_bytes") + record.number("sent_bytes");
    let of_flows: Vec<u64> = agent.records().iter().filter(|record| is_own(record)).map(bytes).collect();
    let (of_own, of_largest) = (of_flows.iter().sum::<u64>(), of_flows.into_iter().max().unwrap_or(0));
    let scrape = agent.scrape();
    let by_own = |label: &&str| scrape.count("lb_path_bytes_total", &[("path", *label)]);
    let carried: u64 = path.own_labels().iter().map(by_own).sum();
    println!("{own} of {flows} flows over {path:?}, {carried} of their {of_own} bytes");
    let is_enough = of_own > of_largest && of_own.saturating_sub(carried) <= of_largest.max(of_own / 100);
    let told = |name: &str| name.starts_with("lb_path_") || name.starts_with("lb_sockmap_");
    let told = scrape.samples.iter().filter(|sample| told(&sample.name) && sample.value > 0.0);
    assert!(is_enough, "{carried} of {of_own} bytes over {path:?}: {:?}", told.collect::<Vec<_>>());
}

fn race(relay: &Relay, random: &mut Random) {
    let [up, down] = [(); 2].map(|()| {
        let scale = random.below(18);
        random.below(1 << scale) as u64
    });
    let server_first = random.below(2) == 0;
    let [mut of_client, mut of_server] = [(); 2].map(|()| Random::new(random.number()));
    let client = relay.client();
    let all = |stream: &TcpStream, seed, bytes, random: &mut Random| {
        let piece = || 1 << random.below(14);
        let sent = send_in_pieces(stream, seed, bytes, piece).expect("the other end reads");
        finish(stream);
        sent
    };
    std::thread::scope(|scope| {
        let client = &client;
        let up_sent = scope.spawn(move || all(client, 1, up, &mut of_client));
        let server = relay.listener.accept();
        let reader = scope.spawn(move || receive(client, 2));
        let mut answer = || all(&server, 2, down, &mut of_server);
        let early = server_first.then(&mut answer);
        let up_received = receive(&server, 1);
        let down_sent = early.unwrap_or_else(answer);
        let down_received = reader.join().expect("no panic");
        assert_received(&up_received, up, End::Finished);
        assert_received(&down_received, down, End::Finished);
        assert_eq!(up_received.sha256, up_sent.join().expect("no panic"));
        assert_eq!(down_received.sha256, down_sent);
    });
}

/// A frontend of mode `tls-passthrough` in front of one server for the name `alpha.example`, whose connections the test accepts itself.
struct Passthrough {
    agent: Agent,
    listener: Listener,
    net: Net,
}

impl Passthrough {
    fn start(path: Path, frontend_lines: &str) -> Self {
        let net = Net::new(1);
        let listener = net.server().listen(SERVER_PORT);
        let config = Config::new()
            .path(path)
            .passthrough("tls", &[net.frontend(PORT)], frontend_lines)
            .route("tls", "alpha.example", "alpha")
            .backend("alpha", net.server().address(SERVER_PORT), "");
        Self { agent: Agent::start(&net, &config), listener, net }
    }

    fn client(&self) -> TcpStream {
        self.net.client.connect(self.net.frontend(PORT))
    }
}
