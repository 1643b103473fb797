// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: a killed agent costs no flow, and the next one knows them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lb_tests::agent::{Agent, Record};
use lb_tests::config::{Config, Path};
use lb_tests::flows::FlowMaps;
use lb_tests::random::{Random, drawn_seed};
use lb_tests::size;
use lb_tests::wait::{until, until_some};
use rustix::process::Signal;

use crate::packet_lab::Family;
use crate::packet_stage::{Objects, Pair, STATE, Stage, assert_bytes, has_links, kill, stop, until_said};

on_both_families! {
    a_killed_agent_loses_no_flow,
    a_kill_at_any_moment_costs_no_flow_that_has_left,
    a_kill_between_flip_and_discard_costs_nothing,
    flows_that_end_while_no_agent_runs_are_told_of_by_the_next,
    bytes_are_counted_once_by_all_agents_together,
    without_a_place_flows_end_with_their_agent,
}

/// Bulk both ways, ping-pong and an idle flow: none notices that the agent was killed, and the next one tells of each once, exactly.
fn a_killed_agent_loses_no_flow(family: Family) {
    let stage = Stage::of(family);
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
    // Workers take them up, each its own, once the agent is ready.
    for gauge in ["lb_frontend_connections_active", "lb_server_connections_active"] {
        until(gauge, || second.scrape().count(gauge, &[]) == 3);
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

/// Whenever it is killed, a flow that has left it goes on, exact, and is told of once; one that has not is reset, and not told of. Beside flows that
/// are about to leave, one is busy then, and one is idle that was busy the time before.
fn a_kill_at_any_moment_costs_no_flow_that_has_left(family: Family) {
    let stage = Stage::of(family);
    let seed = drawn_seed();
    println!("LB_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let mut agent = stage.agent();
    let mut idle = stage.spliced(&agent);
    let mut sum = Sum::default();
    for round in 0..size(6, 50) {
        let before = agent.records().len();
        let mut bulk = stage.spliced(&agent);
        sum.counted += counted_bytes(&agent);
        // Rather soon than late, for flows leave within some milliseconds.
        let moment =
            (round > 0).then(|| Duration::from_micros((random.number() % 60_000) >> random.below(8)));
        let (next, mut survivors, lost) = kill_under_way(&stage, &mut agent, &mut bulk, moment);
        assert_eq!(before, agent.records().len(), "round {round}");
        agent = next;
        idle.ping();
        bulk.stream(1 << 20);
        sum.gone_on += survivors.len();
        sum.was_reset += lost;
        survivors.push(std::mem::replace(&mut idle, bulk));
        survivors.iter().for_each(Pair::end);
        let records = agent.until_records(survivors.len());
        survivors.iter().for_each(|pair| assert_told(&records, pair));
        agent.until_count("lb_frontend_connections_active", &[], 1);
        assert_eq!(agent.records().len(), survivors.len(), "round {round}");
        sum.moved += survivors.iter().map(|pair| 2 * pair.bytes).sum::<u64>();
    }
    println!("{sum:?}");
    assert!(sum.gone_on > 0, "no flow had left the agent");
    let told = agent.records().len();
    idle.end();
    agent.until_idle();
    assert_told(&agent.until_records(told + 1), &idle);
    sum.moved += 2 * idle.bytes;
    sum.counted += counted_bytes(&agent);
    assert!(sum.counted <= sum.moved, "bytes were counted twice: {sum:?}");
    let objects = Objects::of(&agent);
    agent.terminate();
    agent.wait();
    stage.assert_nothing_left(&objects);
}

/// What became of the flows of all agents.
#[derive(Debug, Default)]
struct Sum {
    /// Flows that had hardly begun and had left the agent, and that had not.
    gone_on: usize,
    was_reset: usize,
    /// Bytes both ways of those that went on, and how many agents have counted, as far as they told before they were killed.
    moved: u64,
    counted: u64,
}

fn counted_bytes(agent: &Agent) -> u64 {
    agent.scrape().count("lb_path_bytes_total", &[])
}

/// Kills an agent under a flow that streams both ways and several that begin: so long after they did, or when one more has left. The next agent,
/// those that went on, and how many did not; they are those of which the programs say so.
#[track_caller]
fn kill_under_way(
    stage: &Stage,
    agent: &mut Agent,
    bulk: &mut Pair,
    moment: Option<Duration>,
) -> (Agent, Vec<Pair>, usize) {
    let away = agent.own_flows(Path::Packet);
    let pairs: Vec<Pair> = (0..8).map(|_| stage.pair()).collect();
    let is_over = AtomicBool::new(false);
    let is_going = || !is_over.load(Ordering::Relaxed);
    let (next, carried, pairs) = std::thread::scope(|scope| {
        let talk = |mut pair: Pair| {
            scope.spawn(move || {
                while is_going() && pair.try_ping() {}
                pair
            })
        };
        let talking: Vec<_> = pairs.into_iter().map(talk).collect();
        let streaming = scope.spawn(|| {
            while is_going() {
                bulk.stream(8 << 20)
            }
        });
        match moment {
            None => until("a flow to leave the agent", || agent.own_flows(Path::Packet) > away),
            Some(moment) => std::thread::sleep(moment),
        }
        kill(agent);
        let carried = FlowMaps::kept(&stage.bpffs.path(STATE)).carried();
        let next = stage.agent();
        is_over.store(true, Ordering::Relaxed);
        streaming.join().expect("no panic");
        let talked = talking.into_iter().map(|thread| thread.join().expect("no panic"));
        (next, carried, talked.collect::<Vec<_>>())
    });
    let had_left = |pair: &Pair| carried.contains_key(&pair.client_port());
    let (mut survivors, mut lost): (Vec<Pair>, Vec<Pair>) = pairs.into_iter().partition(had_left);
    assert!(survivors.iter_mut().all(Pair::try_ping), "a flow that had left the agent was reset");
    assert!(!lost.iter_mut().any(Pair::try_ping), "who carries a flow that had not left the agent?");
    (next, survivors, lost.len())
}

/// Asserts that a flow is told of once, and exactly.
#[track_caller]
fn assert_told(records: &[Record], pair: &Pair) {
    let client = pair.client_address();
    let told: Vec<_> = records.iter().filter(|record| record.text("client") == client).collect();
    let [record] = told[..] else { panic!("{client} is told of {} times", told.len()) };
    assert_bytes(record, pair.bytes);
}

/// The programs have a flow from a segment on, and the agent throws the sockets away when it hears of that. One that stands still does not
/// hear, and its sockets are there when it is killed: nothing of what they say then goes out.
fn a_kill_between_flip_and_discard_costs_nothing(family: Family) {
    let stage = Stage::of(family);
    let mut agent = stage.agent();
    for _ in 0..size(1, 50) {
        let mut pair = stand_still_after_flip(&stage, &agent);
        kill(&mut agent);
        until("the sockets to be gone", || stage.sockets() == (0, 0));
        (0..100).for_each(|_| pair.ping());
        agent = stage.agent();
        pair.stream(1 << 20);
        pair.end();
        // Pairs before it may be told of, too.
        let told = until_some("its line", || {
            agent.records().into_iter().find(|record| record.text("client") == pair.client_address())
        });
        assert_bytes(&told, pair.bytes);
    }
    let objects = Objects::of(&agent);
    agent.until_idle();
    agent.terminate();
    agent.wait();
    stage.assert_nothing_left(&objects);
}

/// A flow that programs have, and whose sockets the agent, which stands still, still has.
#[track_caller]
fn stand_still_after_flip(stage: &Stage, agent: &Agent) -> Pair {
    let mut pair = stage.pair();
    until("a flow to flip while the agent stands still", || {
        pair.ping();
        stop(agent);
        let went = pair.pings_at_once();
        let (client, server) = stage.sockets();
        let is_between = went && client + server == 2;
        if !is_between {
            agent.process.signal(Signal::CONT);
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
    pair
}

/// Nobody looks while no agent runs; the programs remember.
fn flows_that_end_while_no_agent_runs_are_told_of_by_the_next(family: Family) {
    let stage = Stage::of(family);
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

/// What the counters of the programs and of the agents say goes on, too: together, each byte is counted once.
fn bytes_are_counted_once_by_all_agents_together(family: Family) {
    let stage = Stage::of(family);
    let mut agent = stage.agent();
    let mut pair = stage.spliced(&agent);
    let mut counted = 0;
    for _ in 0..size(2, 50) {
        pair.stream(1 << 20);
        until("all bytes to be counted", || counted + counted_bytes(&agent) == 2 * pair.bytes);
        counted += counted_bytes(&agent);
        kill(&mut agent);
        pair.stream(1 << 20);
        agent = stage.agent();
        until("the bytes in between to be counted", || counted + counted_bytes(&agent) == 2 * pair.bytes);
    }
    pair.end();
    assert_bytes(&agent.until_records(1)[0], pair.bytes);
}

/// Where nobody keeps anything, flows end with their agent, loudly, and that is told. Before Linux 6.6 a killed agent cannot take them along.
fn without_a_place_flows_end_with_their_agent(family: Family) {
    let stage = Stage::of(family);
    let config = stage.config().text().replace(&stage.bpffs.path(STATE).display().to_string(), "off");
    let mut agent = Agent::start(&stage.net, &Config::whole(&config));
    until_said(&agent, "flows of path packet end with lb");
    let mut pair = stage.spliced(&agent);
    kill(&mut agent);
    if has_links() {
        return pair.assert_reset();
    }
    // Filters stay until somebody takes them off.
    pair.ping();
}
