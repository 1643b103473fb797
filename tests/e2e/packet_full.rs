// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet` without room or ports under load: flows that find none are carried in user space, exactly, and those that are there do not notice.

use lb_tests::agent::{Agent, Record};
use lb_tests::config::Path;
use lb_tests::net::Net;
use lb_tests::size;
use lb_tests::wait::until;

use crate::packet_lab::{Family, Lab, Lines, Spliced, until_nothing_left};
use crate::packet_stage::{Pair, Stage, kill};
use crate::support::stream_both_ways;

on_both_families! {
    flows_that_come_and_go_leave_no_room_and_disturb_nobody,
    of_twice_as_many_flows_as_ports_one_half_has_them,
    flows_of_another_agent_leave_no_room_and_are_not_disturbed,
}

/// What goes each way of each flow in the end.
const BYTES: u64 = 20_000;

/// How many flows there is room for.
fn room() -> usize {
    size(20, 1_000)
}

fn refused(agent: &Agent, reason: &str) -> u64 {
    agent.scrape().count("lb_path_fallbacks_total", &[("path", "packet"), ("reason", reason)])
}

/// Talks until each of these flows, which are new, has left or was refused for a reason.
#[track_caller]
fn until_settled(agent: &Agent, reason: &str, settled: u64, pairs: &[Spliced]) {
    until("each to leave or to be refused", || {
        pairs.iter().for_each(Spliced::ping);
        agent.own_flows(Path::Packet) + refused(agent, reason) >= settled
    });
}

/// Asserts that so many of these ended by the path, and all as they should.
#[track_caller]
fn assert_carried(records: &[Record], by_packet: usize) {
    assert!(records.iter().all(|record| record.close() == "finished"), "{records:?}");
    let carried = records.iter().filter(|record| record.text("path") == "packet").count();
    assert_eq!(carried, by_packet, "of {}", records.len());
}

/// One half of the room is taken by flows that stay. Those that end keep their places for some seconds, so that there is none for who comes next.
fn flows_that_come_and_go_leave_no_room_and_disturb_nobody(family: Family) {
    let (half, rounds) = (room() / 2, size(3, 10));
    let global = format!("max-connections = {}", room());
    let lab = Lab::with(Net::new(1), family, Lines { global: &global, ..Lines::default() });
    let connect = || (0..half).map(|_| Spliced::from(lab.pair())).collect::<Vec<_>>();
    let staying = connect();
    lab.until_spliced(&staying);
    for round in 1..=rounds {
        let coming = connect();
        until_settled(&lab.agent, "full", ((round + 1) * half) as u64, &coming);
        for flow in &coming {
            stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
        }
        staying.iter().for_each(Spliced::ping);
        lab.agent.until_records(round * half);
    }
    for flow in &staying {
        stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
    }
    let records = lab.agent.until_records((rounds + 1) * half);
    let refused = refused(&lab.agent, "full");
    println!("{refused} of {} flows that came and went found no room", rounds * half);
    assert!(refused > 0, "there was room for all");
    lab.assert_refused(&[("full", refused)]);
    assert_carried(&records, records.len() - refused as usize);
    until_nothing_left(&lab.agent);
}

fn of_twice_as_many_flows_as_ports_one_half_has_them(family: Family) {
    let (ports, flows) = (room(), 2 * room());
    let global = format!("packet-ports = \"61000-{}\"", 61_000 + ports - 1);
    let lab = Lab::with(Net::new(1), family, Lines { global: &global, ..Lines::default() });
    let pairs: Vec<_> = (0..flows).map(|_| Spliced::from(lab.pair())).collect();
    until_settled(&lab.agent, "no-port", flows as u64, &pairs);
    lab.assert_refused(&[("no-port", ports as u64)]);
    lab.agent.until_count("lb_packet_ports_taken", &[], ports as u64);
    for flow in &pairs {
        stream_both_ways(&flow.client, &flow.server, BYTES, BYTES);
    }
    assert_carried(&lab.agent.until_records(flows), ports);
    until_nothing_left(&lab.agent);
}

/// It has as many places as the agent that was there first, whatever its own configuration says.
fn flows_of_another_agent_leave_no_room_and_are_not_disturbed(family: Family) {
    let stage = Stage::of(family);
    let room = room();
    let start =
        |most: usize| Agent::start(&stage.net, &stage.config_with(&format!("max-connections = {most}")));
    let mut first = start(room);
    let mut pairs: Vec<Pair> = (0..room).map(|_| stage.pair()).collect();
    until("all to leave the agent", || {
        pairs.iter_mut().for_each(Pair::ping);
        first.own_flows(Path::Packet) == room as u64
    });
    kill(&mut first);
    let second = start(2 * room);
    second.until_count("lb_packet_places_taken", &[], room as u64);
    let mut late: Vec<Pair> = (0..room / 2).map(|_| stage.pair()).collect();
    until("all to be refused", || {
        late.iter_mut().for_each(Pair::ping);
        refused(&second, "full") == late.len() as u64
    });
    for pair in late.iter_mut().chain(&mut pairs) {
        pair.stream(BYTES);
        pair.end();
    }
    let records = second.until_records(room + room / 2);
    assert_carried(&records, room);
    for pair in late.iter().chain(&pairs) {
        let client = pair.client_address();
        let record = records.iter().find(|record| record.text("client") == client).expect("its line");
        let told = ["received_bytes", "sent_bytes"].map(|direction| record.number(direction));
        assert_eq!(told, [pair.bytes; 2], "{record:?}");
    }
    until_nothing_left(&second);
    // There is room again.
    stage.spliced(&second).end();
}
