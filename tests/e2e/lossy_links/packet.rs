// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`, where client and server repair with each other what the links have done, and what they did to a flow that was about to leave
//! the agent.

use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lb_tests::agent::Agent;
use lb_tests::config::Path;
use lb_tests::net::Namespace;
use lb_tests::process::run;
use lb_tests::size;
use lb_tests::stream::{End, Received, finish, receive, receive_exactly, say, send};
use lb_tests::wait::until;
use serde_json::Value;

use super::evidence::assert_spoilt;
use super::faults::{
    Carrier, a_long_way, a_long_way_that_loses_one_packet_in_a_hundred, one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five, packets_that_are_damaged, packets_that_come_twice, packets_that_overtake,
};
use super::{spoil, spoilt};
use crate::packet_lab::Family;
use crate::packet_stage::{Objects, Pair, STATE, Stage};

on_both_families! {
    one_lost_packet_in_a_hundred,
    one_lost_packet_in_twenty_five,
    a_long_way,
    a_long_way_that_loses_one_packet_in_a_hundred,
    packets_that_overtake,
    packets_that_come_twice,
    packets_that_are_damaged,
}

/// Flows at the same time.
const AT_ONCE: usize = 12;

/// Small messages each way, in which a flow can leave the agent.
const MESSAGES: usize = 20;

/// What of a flow's bytes is not in its streams: its number, and messages both ways.
const MESSAGE_BYTES: u64 = 8 + 2 * MESSAGES as u64;

/// How many flows in a hundred have to leave, and how many bytes to go past the agent, at least.
const PERCENT: u64 = 95;

/// The same where packets are damaged.
const DAMAGED_PERCENT: u64 = 80;

/// The first of the ports towards the server.
const FIRST_PORT: u64 = 61_000;

impl Carrier for Family {
    fn brings_everything(self, fault: &[&str]) {
        all_arrive(self, fault);
    }
}

/// Many flows over links with this fault: each brings every byte each way and both ends, most of them leave the agent, and nothing is left of
/// them.
fn all_arrive(family: Family, fault: &[&str]) {
    let (flows, places) = size((40, 40), (2_000, 600));
    let stage = Stage::of(family);
    spoil(&stage.net, fault);
    let last = FIRST_PORT + places - 1;
    let global = format!("max-connections = {places}\npacket-ports = \"{FIRST_PORT}-{last}\"");
    let mut agent = Agent::start(&stage.net, &stage.config_with(&global));
    talk(&stage, flows);
    let records = agent.until_records(usize::try_from(flows).expect("not so many"));
    let others: Vec<_> = records.iter().filter(|record| record.close() != "finished").collect();
    assert!(others.is_empty(), "{others:?}");
    assert_left(&agent, flows, if fault[0] == "corrupt" { DAMAGED_PERCENT } else { PERCENT });
    let net = &stage.net;
    assert_spoilt(net, fault, &[&net.client, net.server()]);
    spoilt(net, fault).into_iter().for_each(|(place, interface)| mend(place, interface));
    assert_all_places_are_free(&stage, &agent, places);
    let objects = Objects::of(&agent);
    agent.terminate();
    assert!(agent.wait().success());
    stage.assert_nothing_left(&objects);
}

/// Has so many flows begin, talk and end, some at a time.
fn talk(stage: &Stage, flows: u64) {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < flows);
                while let Some(number) = take() {
                    ask(&stage.net.client.connect(stage.frontend()), number);
                }
            });
        }
        for _ in 0..flows {
            let server = stage.listener.accept();
            scope.spawn(move || answer(&server));
        }
    });
}

/// Asserts that most flows have left the agent, and that most bytes have gone past it.
#[track_caller]
fn assert_left(agent: &Agent, flows: u64, percent: u64) {
    let left = agent.own_flows(Path::Packet);
    println!("{left} of {flows} flows have left the agent");
    assert!(left * 100 >= flows * percent, "{left} of {flows} flows have left the agent");
    agent.assert_share(Path::Packet, percent);
    let all = (0..flows).map(|number| lengths(number).iter().sum::<u64>() + MESSAGE_BYTES).sum::<u64>();
    assert_eq!(agent.scrape().count("lb_path_bytes_total", &[]), all);
}

/// Asserts that programs find no flow any more, and that as many new ones as there are places and ports can have left the agent at once. These end,
/// too.
#[track_caller]
fn assert_all_places_are_free(stage: &Stage, agent: &Agent, places: u64) {
    until("the programs to know no flow", || known(stage) == 0);
    let before = agent.own_flows(Path::Packet);
    let mut pairs: Vec<Pair> = (0..places).map(|_| stage.pair()).collect();
    until("a flow in every place to leave the agent", || {
        pairs.iter_mut().for_each(Pair::ping);
        agent.own_flows(Path::Packet) >= before + places
    });
    pairs.iter().for_each(Pair::end);
    agent.until_idle();
}

/// Entries by which programs find flows.
#[track_caller]
fn known(stage: &Stage) -> usize {
    let keys = stage.bpffs.path(STATE).join("keys");
    let dump = run(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(&keys));
    let dump: Value = serde_json::from_str(&dump).unwrap_or_else(|error| panic!("{error}: {dump}"));
    dump.as_array().expect("bpftool prints an array").len()
}

/// Takes the fault off an interface.
fn mend(place: &Namespace, interface: &str) {
    place.run(Command::new("tc").args(["qdisc", "del", "dev", interface, "root"]));
}

/// Bytes of a flow, each way.
fn lengths(number: u64) -> [u64; 2] {
    [number * 7_919 % 150_000, number * 104_729 % 150_000]
}

/// A client: says who it is, talks, and streams.
fn ask(stream: &TcpStream, number: u64) {
    say(stream, &number.to_be_bytes());
    for _ in 0..MESSAGES {
        say(stream, b"?");
        assert_eq!(receive_exactly(stream, 1), b"!", "flow {number}");
        std::thread::sleep(Duration::from_millis(2));
    }
    let [up, down] = lengths(number);
    let received = stream_all(stream, (number, up), number + 1);
    assert_exact(&received, down, number);
}

/// Its server.
fn answer(stream: &TcpStream) {
    let number = u64::from_be_bytes(receive_exactly(stream, 8).try_into().expect("eight bytes"));
    for _ in 0..MESSAGES {
        assert_eq!(receive_exactly(stream, 1), b"?", "flow {number}");
        say(stream, b"!");
    }
    let [up, down] = lengths(number);
    let received = stream_all(stream, (number + 1, down), number);
    assert_exact(&received, up, number);
}

/// Sends so many bytes of a pattern and the end, and receives another pattern meanwhile.
fn stream_all(stream: &TcpStream, (seed, bytes): (u64, u64), expected_seed: u64) -> Received {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(stream, seed, bytes).expect("a reader");
            finish(stream);
        });
        receive(stream, expected_seed)
    })
}

#[track_caller]
fn assert_exact(received: &Received, bytes: u64, number: u64) {
    let got = (received.bytes, received.wrong_at, received.end);
    assert_eq!(got, (bytes, None, End::Finished), "flow {number}");
}
