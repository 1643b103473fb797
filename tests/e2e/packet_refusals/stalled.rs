// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow that has left and stands still, because an end of it sends nothing any more that can be translated: both ends are reset, seconds later. What somebody
//! else sends in an end's name ends nothing that moves, and changes nothing without the end's numbers.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::flows::FlowMaps;
use lb_tests::stream::{End, receive_all, receive_exactly, say};
use lb_tests::wait::until;

use super::{Habit, IP_OPTIONS, MESSAGE, behind_a_router, dropped, far_pair};
use crate::packet_forged::{ACK, FAR, Forger};
use crate::packet_lab::{Family, Lab, Spliced, until_nothing_left};
use crate::packet_stage::{STATE, Stage, kill};

on_both_families! {
    an_end_that_sends_nothing_else_is_reset_and_the_other_too,
    an_end_that_answers_with_nothing_else_is_reset_and_the_other_too,
    an_end_that_sends_others_in_time_goes_on,
    a_flow_that_stalls_while_no_agent_runs_ends_with_the_next,
    fragments_with_wrong_numbers_change_nothing,
    fragments_with_right_numbers_end_nothing_that_moves,
    fragments_with_right_numbers_end_what_stands_still,
}

/// How long a flow stands still before it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// When it has ended at the latest, on a machine that is busy: what is sent again comes after 3 seconds, and after 6.
const SOON: Duration = Duration::from_secs(30);

/// IPV6_DSTOPTS (RFC 3542 section 9), with nothing but padding.
const DESTINATION_OPTIONS: Habit<'_> = Habit { level: 41, name: 59, on: "0000010400000000", off: "" };

/// What puts something between IP and TCP, and the reason for which it cannot be translated.
fn habit(family: Family) -> (Habit<'static>, &'static str) {
    match family {
        Family::V4 => (IP_OPTIONS, "ip-options"),
        Family::V6 => (DESTINATION_OPTIONS, "extension-header"),
    }
}

/// Asserts that both ends are reset, neither too soon nor too late from a moment on.
#[track_caller]
fn assert_cut(flow: &Spliced, since: Instant) {
    for end in [&flow.client, &flow.server] {
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
        let after = since.elapsed();
        assert!((PATIENCE..SOON).contains(&after), "after {after:?}");
    }
}

/// Asserts that the agent tells why it has ended so many flows, and keeps nothing of them.
#[track_caller]
fn assert_told(lab: &Lab, flows: usize) {
    lab.assert_closed(flows, "untranslatable");
    assert!(lab.agent.records().iter().all(|record| record.text("termination") == "ID"));
    let closed = [("reason", "untranslatable")];
    lab.agent.until_count("lb_connections_closed_total", &closed, flows as u64);
    assert!(lab.agent.scrape().count("lb_packet_resets_total", &[("result", "sent")]) >= 2 * flows as u64);
    until_nothing_left(&lab.agent);
}

fn an_end_that_sends_nothing_else_is_reset_and_the_other_too(family: Family) {
    let lab = Lab::start(family);
    let (habit, reason) = habit(family);
    for is_clients in [true, false] {
        let flow = lab.spliced();
        let before = dropped(&lab, reason);
        let (end, _) = flow.towards(is_clients);
        habit.begin(end);
        let since = Instant::now();
        say(end, &MESSAGE);
        assert_cut(&flow, since);
        assert!(dropped(&lab, reason) > before + 2, "it was sent again and again");
    }
    assert_told(&lab, 2);
}

/// It has got everything, and nobody gets to know.
fn an_end_that_answers_with_nothing_else_is_reset_and_the_other_too(family: Family) {
    let lab = Lab::start(family);
    let (habit, reason) = habit(family);
    for is_clients in [true, false] {
        let flow = lab.spliced();
        let before = dropped(&lab, reason);
        let (end, other) = flow.towards(is_clients);
        habit.begin(end);
        let since = Instant::now();
        say(other, &MESSAGE);
        assert_eq!(receive_exactly(end, MESSAGE.len()), MESSAGE);
        assert_cut(&flow, since);
        assert!(dropped(&lab, reason) > before + 2, "it has answered again and again");
    }
    assert_told(&lab, 2);
}

#[test]
fn an_end_whose_packets_a_router_cuts_is_reset_and_the_other_too() {
    let (lab, narrow) = behind_a_router();
    let flow = far_pair(&lab);
    lab.until_spliced(std::slice::from_ref(&flow));
    narrow(&lab, 1_000);
    let since = Instant::now();
    say(&flow.client, &MESSAGE);
    assert_cut(&flow, since);
    assert!(dropped(&lab, "fragment") > 2, "it was sent again and again");
    assert_told(&lab, 1);
}

fn an_end_that_sends_others_in_time_goes_on(family: Family) {
    let lab = Lab::start(family);
    let (habit, reason) = habit(family);
    let flow = lab.spliced();
    let since = Instant::now();
    while since.elapsed() < PATIENCE + Duration::from_secs(3) {
        let before = dropped(&lab, reason);
        habit.begin(&flow.client);
        say(&flow.client, &MESSAGE);
        until("packets to be dropped", || dropped(&lab, reason) > before + 1);
        habit.cease(&flow.client);
        assert_eq!(receive_exactly(&flow.server, MESSAGE.len()), MESSAGE);
    }
    flow.ping();
    flow.end();
    lab.assert_closed(1, "finished");
}

fn a_flow_that_stalls_while_no_agent_runs_ends_with_the_next(family: Family) {
    let stage = Stage::of(family);
    let mut first = stage.agent();
    let pair = stage.spliced(&first);
    kill(&mut first);
    habit(family).0.begin(&pair.client);
    say(&pair.client, &MESSAGE);
    let maps = FlowMaps::kept(&stage.bpffs.path(STATE));
    until("it to stall", || maps.carried()[&pair.client_port()].is_stalled);
    let second = stage.agent();
    for end in [&pair.client, &pair.server] {
        assert_eq!(receive_all(end), (Vec::new(), End::Reset));
    }
    let records = second.until_records(1);
    assert_eq!((records[0].close(), records[0].text("path")), ("untranslatable", "packet"));
}

/// Who sends first fragments in the name of an end.
struct Cutter(Forger);

impl Cutter {
    fn beside(lab: &Lab, flow: &Spliced, is_clients: bool) -> Self {
        let forger = Forger::beside(lab, flow, is_clients);
        let is_raw = match lab.family {
            Family::V4 => forger.raw.set_header_included_v4(true),
            Family::V6 => forger.raw.set_header_included_v6(true),
        };
        is_raw.expect("a raw socket");
        Self(forger)
    }

    /// Sends one with payload; numbers are relative to the right ones.
    #[track_caller]
    fn send(&self, sequence: u32, acknowledgement: u32) {
        let Self(forger) = self;
        // Fragments but the last have bytes in multiples of 8, headers included.
        let segment = forger.segment(ACK, sequence, acknowledgement, &[7; 12]);
        let packet = [header(&segment, forger.own.ip(), forger.peer.ip()), segment].concat();
        let sent = forger.raw.send_to(&packet, &SocketAddr::new(forger.peer.ip(), 0).into());
        assert_eq!(sent.expect("a raw socket"), packet.len());
    }
}

/// The headers of a fragment that more follow (RFC 791 section 3.1, RFC 8200 section 4.5). The kernel sums IPv4's (raw(7)).
fn header(segment: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let len = u16::try_from(segment.len()).expect("a short segment");
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (len + 20).to_be_bytes();
            let words = [[0x45, 0, high, low], [0, 1, 0x20, 0], [64, 6, 0, 0], from.octets(), to.octets()];
            words.concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = (len + 8).to_be_bytes();
            let first = [0x60, 0, 0, 0, high, low, 44, 64];
            [&first[..], &from.octets(), &to.octets(), &[6, 0, 0, 1, 0, 0, 0, 1]].concat()
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

fn fragments_with_wrong_numbers_change_nothing(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    let maps = FlowMaps::of(&lab.agent.process);
    for (flow, is_clients) in flows.iter().zip([true, false]) {
        let cutter = Cutter::beside(&lab, flow, is_clients);
        let record = || maps.carried().remove(&flow.client_port()).expect("the programs carry it").record;
        let (before, count) = (record(), dropped(&lab, "fragment"));
        let off = [1, 2, 1_000, FAR, 1_u32.wrapping_neg(), 20_000_u32.wrapping_neg(), FAR.wrapping_neg()];
        let unsent = [1, FAR, FAR.wrapping_neg()];
        let forged = off.iter().map(|&off| (off, 0)).chain(unsent.iter().map(|&off| (0, off)));
        let forged: Vec<(u32, u32)> = forged.collect();
        for (sequence, acknowledgement) in &forged {
            cutter.send(*sequence, *acknowledgement);
        }
        until("what was forged to come by", || dropped(&lab, "fragment") == count + forged.len() as u64);
        assert_eq!(record(), before);
        (0..10).for_each(|_| flow.ping());
    }
    flows.iter().for_each(Spliced::end);
    lab.assert_closed(2, "finished");
}

fn fragments_with_right_numbers_end_nothing_that_moves(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    let maps = FlowMaps::of(&lab.agent.process);
    for (flow, is_clients) in flows.iter().zip([true, false]) {
        let mut cutter = Cutter::beside(&lab, flow, is_clients);
        let (since, count, mut sent) = (Instant::now(), dropped(&lab, "fragment"), 0);
        while since.elapsed() < PATIENCE + Duration::from_secs(3) {
            flow.ping();
            let numbers = &mut cutter.0.numbers;
            (numbers.sends, numbers.expects) =
                (numbers.sends.wrapping_add(1), numbers.expects.wrapping_add(1));
            cutter.send(0, 0);
            sent += 1;
            thread::sleep(Duration::from_millis(100));
        }
        until("what was forged to come by", || dropped(&lab, "fragment") == count + sent);
        let state = maps.carried().remove(&flow.client_port()).expect("the programs carry it");
        assert_ne!(state.stalled_ms, 0, "it has passed for the end's own");
        flow.ping();
    }
    flows.iter().for_each(Spliced::end);
    lab.assert_closed(2, "finished");
}

/// Whoever knows the numbers could as well reset it, with one segment (`packet_forged`).
fn fragments_with_right_numbers_end_what_stands_still(family: Family) {
    let lab = Lab::start(family);
    let flows = lab.spliced_flows::<2>();
    for (flow, is_clients) in flows.iter().zip([true, false]) {
        let cutter = Cutter::beside(&lab, flow, is_clients);
        let (since, told) = (Instant::now(), lab.agent.records().len());
        until("the flow to end", || {
            cutter.send(0, 0);
            thread::sleep(Duration::from_millis(200));
            lab.agent.records().len() > told
        });
        assert_cut(flow, since);
    }
    assert_told(&lab, 2);
}
