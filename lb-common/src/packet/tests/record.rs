// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies in the maps: how ends are found, what is counted, and when user space is called.

use super::transitions::{armed, from_client, from_server, over, sent, spliced, to_client, tracked};
use crate::packet::flow::{Flow, Misfit, Phase, RESET, Segment, Side, Verdict};
use crate::packet::ip::Addresses;
use crate::packet::reason::Untranslatable;
use crate::packet::record::{
    COUNTERS, Counter, Key, Record, Unfit, V4, Way, code, place, reason, refused, side, slot, v4_mapped,
};
use crate::packet::tcp::{ACK, FIN, RST, SYN};

/// A client 1:11 that the balancer knows as 2:22, and a server 4:44 to which it is 3:33.
pub fn record(flow: Flow) -> Record {
    let way = |source, destination| Way {
        addresses: Addresses { source: v4_mapped(source), destination: v4_mapped(destination) },
        ..Way::default()
    };
    let mut record = Record::new(flow, V4, way(3, 4), way(2, 1));
    (record.flow.to_server.ports, record.flow.to_client.ports) = (33 << 16 | 44, 22 << 16 | 11);
    record
}

#[test]
fn an_end_is_found_by_what_it_sends() {
    let record = record(tracked());
    let key =
        |remote, local, ports| Key { remote: v4_mapped(remote), local: v4_mapped(local), ports, family: V4 };
    assert_eq!(record.key(Side::Client), key(1, 2, 11 << 16 | 22));
    assert_eq!(record.key(Side::Server), key(4, 3, 44 << 16 | 33));
    // What the balancer sends to it is the same the other way round.
    assert_eq!(record.key(Side::Server).reversed(), key(3, 4, 33 << 16 | 44));
    assert_eq!(key(1, 2, 3).words(), [0, 0, 0xffff, 1, 0, 0, 0xffff, 2, 3, V4]);
}

#[test]
fn a_place_is_a_slot_and_an_end() {
    for (number, slot_of, side_of) in [(0, 0, Side::Client), (1, 0, Side::Server), (7, 3, Side::Server)] {
        assert_eq!((slot(number), side(number), place(slot_of, side_of)), (slot_of, side_of, number));
    }
}

#[test]
fn user_space_is_called_when_it_has_something_to_do() {
    let check = |flow, from, segment, verdict, calls| {
        let received = record(flow).received(from, &segment, 1, 20);
        assert_eq!((received.verdict, received.calls), (verdict, calls), "{segment:?}");
    };
    let last = from_server(0, 0, ACK);
    check(tracked(), Side::Server, last, Verdict::ToSocket, false);
    check(armed(), Side::Server, last, Verdict::ToSocket, false);
    check(sent(), Side::Client, from_client(1, ACK), Verdict::Disarmed, true);
    check(sent(), Side::Server, last, Verdict::Flipped, true);
    check(spliced(), Side::Server, last, Verdict::Translated, false);
    check(spliced(), Side::Server, from_server(0, 0, FIN | ACK), Verdict::Translated, false);
    check(spliced(), Side::Server, from_server(0, 0, RST), Verdict::Translated, true);
    // Once is enough.
    check(over(), Side::Server, from_server(1, 0, ACK), Verdict::Translated, false);
    check(over(), Side::Client, Segment { flags: SYN, ..to_client(0, 0) }, Verdict::Another, true);
}

#[test]
fn what_is_translated_is_counted_by_direction() {
    let mut record = record(sent());
    for (payload, segments) in [(0, 1), (3_000, 3), (3_000, 3)] {
        record.received(Side::Server, &from_server(0, payload, ACK), segments, 20);
    }
    assert_eq!((record.to_client.segments, record.to_client.bytes), (7, 6_000));
    assert_eq!((record.to_server.segments, record.to_server.bytes), (0, 0));
    let mut before = self::record(tracked());
    before.received(Side::Server, &from_server(0, 10, ACK), 1, 20);
    assert_eq!(before.to_client.segments, 0);
}

#[test]
fn a_packet_that_nobody_understands_leaves_a_flow_to_its_sockets_or_is_dropped() {
    let check = |flow: Flow, misfit, phase, refusal| {
        let mut record = record(flow);
        let expected = Unfit { misfit, calls: misfit == Misfit::Abandoned };
        let mut from_end = record;
        let (segment, code) = (from_client(0, ACK), code(Untranslatable::Mptcp));
        assert_eq!(from_end.misfit_of_end(Side::Client, &segment, code, 20), expected);
        assert_eq!((record.misfit(code), record), (expected, from_end));
        assert_eq!((record.flow.phase(), reason(record.refusal)), (phase, refusal));
    };
    check(tracked(), Misfit::Abandoned, Phase::Gone, Some(Untranslatable::Mptcp));
    check(armed(), Misfit::Abandoned, Phase::Gone, Some(Untranslatable::Mptcp));
    check(spliced(), Misfit::Dropped, Phase::Spliced, None);
    check(over(), Misfit::Dropped, Phase::Closing, None);
    let mut gone = tracked();
    gone.misfit();
    check(gone, Misfit::ToSocket, Phase::Gone, None);
    assert_eq!(gone.received(Side::Client, &from_server(0, 1, RST), 1), Verdict::ToSocket);
    assert!(!gone.client.has(RESET));
}

#[test]
fn counters_do_not_overlap() {
    let reasons = Untranslatable::ALL.map(|untranslatable| refused(code(untranslatable)));
    let first = Counter::ALL.len() as u32;
    assert!(reasons.into_iter().eq(first..COUNTERS));
    for untranslatable in Untranslatable::ALL {
        assert_eq!(reason(code(untranslatable)), Some(untranslatable));
    }
    assert_eq!([reason(0), reason(COUNTERS)], [None, None]);
}
