// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two ends that do anything, by turns drawn from a seed, see the same on every path: the same bytes and the same kind of end. What they see
//! without a balancer's fault is what path `copy` shows them.
//!
//! A seed that failed is tried again with `LB_TEST_SEED`.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;

use lb_tests::agent::{Agent, Record};
use lb_tests::config::{Config, Path};
use lb_tests::net::Net;
use lb_tests::random::{Random, drawn_seed};
use lb_tests::size;
use lb_tests::stream::{End, Received};

use crate::faulty_relay::{Fault, FaultyRelay};
use crate::packet_lab::{Family, until_nothing_left};
use crate::schedule::{Outcome, Schedule};
use crate::support::{PORT, SERVER_PORT};

on_both_families! {
    all_paths_show_the_same,
}

/// The same flows on every path; at most so many of them at the same time.
const AT_ONCE: usize = 16;

fn all_paths_show_the_same(family: Family) {
    let schedules = drawn(size(64, 4_000));
    let (oracle, _) = on_path(Path::Copy, family, &schedules);
    for path in [Path::Splice, Path::Sockmap, Path::Packet] {
        shows_the_same(path, family, &schedules, &oracle);
    }
}

fn drawn(flows: usize) -> Vec<Schedule> {
    let seed = drawn_seed();
    println!("LB_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    (0..flows).map(|_| Schedule::new(&mut random)).collect()
}

/// How often the flows are tried until enough of them go over a path itself: whoever comes to `packet` waits for the kernel, which may take longer
/// than a flow lasts where others keep it busy (membarrier(2)).
const TRIES: usize = 5;

/// Asserts that ends see on a path what they see on `copy`, in each try, and that the path carries something of many flows itself: of one in six, and
/// path `packet` of one in ten of each kind until it ends.
#[track_caller]
fn shows_the_same(path: Path, family: Family, schedules: &[Schedule], oracle: &[Outcome]) {
    let (mut flows, mut own) = (0, 0);
    let mut by_packet = BTreeMap::new();
    for _ in 0..TRIES {
        let (outcomes, carried) = on_path(path, family, schedules);
        if let Err(difference) = compare(schedules, oracle, &outcomes) {
            panic!("{path:?} differs from copy: {difference}");
        }
        (flows, own) = (flows + schedules.len() as u64, own + carried);
        for (schedule, outcome) in schedules.iter().zip(&outcomes) {
            for kind in schedule.kinds() {
                let (ended, all) = by_packet.entry(kind).or_insert((0, 0));
                *ended += usize::from(outcome.path == "packet");
                *all += 1;
            }
        }
        println!("{own} of {flows} flows went over {path:?} itself; ended by packet: {by_packet:?}");
        let has_each = by_packet.values().all(|(ended, all)| ended * 10 >= *all);
        if own * 6 >= flows && (path != Path::Packet || has_each) {
            return;
        }
    }
    panic!("few of {flows} flows went over {path:?} itself: {own}, {by_packet:?}");
}

/// What the ends of each flow see on a path, and how many flows the path itself has carried something of.
#[track_caller]
fn on_path(path: Path, family: Family, schedules: &[Schedule]) -> (Vec<Outcome>, u64) {
    let net = Net::new(1);
    let listener = net.server().listen(SERVER_PORT);
    let (address, server) = (family.of(&net.balancer, PORT), family.of(net.server(), SERVER_PORT));
    let config = Config::new().path(path).tcp("in", address, "out", "").backend("out", server, "");
    let agent = Agent::start(&net, &config);
    let outcomes = follow_all(schedules, || (net.client.connect(address), listener.accept()));
    let records = agent.until_records(schedules.len());
    assert!(records.iter().all(|record| record.number("retries") == 0), "who is whose peer is not known");
    if path == Path::Packet {
        until_nothing_left(&agent);
    }
    // Lines are in the order in which connections came, and so are schedules.
    let complete = |(outcome, record): (Outcome, &Record)| Outcome {
        close: record.close().to_owned(),
        path: record.text("path").to_owned(),
        ..outcome
    };
    (outcomes.into_iter().zip(&records).map(complete).collect(), agent.own_flows(path))
}

/// Follows all schedules, each on a pair of client and server of its own; pairs come in the order of the schedules.
fn follow_all(schedules: &[Schedule], pair: impl Fn() -> (TcpStream, TcpStream) + Sync) -> Vec<Outcome> {
    let next = Mutex::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(schedules.len()) {
            scope.spawn(|| {
                loop {
                    let (index, ends) = {
                        let mut next = next.lock().expect("nobody has panicked");
                        let index = *next;
                        if index == schedules.len() {
                            return;
                        }
                        *next += 1;
                        (index, pair())
                    };
                    let outcome = schedules[index].follow(ends);
                    done.lock().expect("nobody has panicked").push((index, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody has panicked");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Whether two series of outcomes are what the schedules allow, and of the same kind.
///
/// # Errors
/// The first difference.
fn compare(schedules: &[Schedule], oracle: &[Outcome], others: &[Outcome]) -> Result<(), String> {
    for (index, schedule) in schedules.iter().enumerate() {
        let (oracle, other) = (&oracle[index], &others[index]);
        schedule.check(oracle).map_err(|wrong| format!("the oracle's flow {index}: {wrong}"))?;
        let difference = match schedule.check(other) {
            Err(wrong) => wrong,
            Ok(()) if kind(oracle) != kind(other) => "another kind of end".to_owned(),
            Ok(()) => continue,
        };
        let by = &other.path;
        return Err(format!("flow {index} by {by}: {difference}: {oracle:?}, {other:?}, of {schedule:?}"));
    }
    Ok(())
}

/// What has to be the same: the ends, and what the agent says of it.
fn kind(outcome: &Outcome) -> ([Option<End>; 2], &str) {
    (outcome.ends.each_ref().map(|end| end.as_ref().map(|received: &Received| received.end)), &outcome.close)
}

/// The comparison sees each of these faults in a relay that has it, and none in one without.
#[test]
fn a_relay_with_a_fault_is_found_out() {
    let schedules = drawn(size(48, 400));
    let relayed = |fault| {
        let net = Net::new(1);
        let (listener, address) = (net.server().listen(SERVER_PORT), net.frontend(PORT));
        let server: SocketAddr = net.server().address(SERVER_PORT);
        let _relay = FaultyRelay::start(&net.balancer, PORT, server, fault);
        follow_all(&schedules, || (net.client.connect(address), listener.accept()))
    };
    let oracle = relayed(Fault::None);
    assert_eq!(compare(&schedules, &oracle, &relayed(Fault::None)), Ok(()));
    for fault in
        [Fault::LosesAByte, Fault::DoublesAByte, Fault::ChangesAByte, Fault::EndsEarly, Fault::ForgivesResets]
    {
        let verdict = compare(&schedules, &oracle, &relayed(fault));
        println!(
            "{fault:?}: {}",
            verdict.as_ref().map_or_else(|found| &found[..found.len().min(150)], |()| "-")
        );
        assert!(verdict.is_err(), "{fault:?} was not found out");
    }
}
