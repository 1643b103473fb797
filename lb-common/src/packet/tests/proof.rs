// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that were changed on their way: nothing that they say counts.

use super::transitions::{from_client, from_server, over, sent, spliced, tracked};
use crate::packet::checksum::Difference;
use crate::packet::flow::{Checksum, Flow, Phase, Segment, Side, Verdict};
use crate::packet::ip::{Ipv4, Ipv6};
use crate::packet::tcp::{ACK, FIN, RST, SYN};

/// A segment with a checksum that is wrong leaves a flow as it was, but for its phase.
#[track_caller]
fn check(flow: Flow, side: Side, segment: Segment, verdict: Verdict, phase: Phase) {
    let mut after = flow;
    let segment = Segment { checksum: Checksum::Wrong, ..segment };
    assert_eq!((after.received(side, &segment, 99), after.phase()), (verdict, phase));
    assert_eq!(Flow { phase: flow.phase, ..after }, flow);
}

#[test]
fn a_damaged_acknowledgement_does_not_flip() {
    check(sent(), Side::Server, from_server(0, 0, ACK), Verdict::ToSocket, Phase::Armed);
    check(sent(), Side::Client, from_client(0, RST), Verdict::ToSocket, Phase::Armed);
}

#[test]
fn damaged_payload_is_nobodys_but_disarms() {
    check(sent(), Side::Server, from_server(0, 10, ACK), Verdict::Disarmed, Phase::Track);
    check(sent(), Side::Client, from_client(0, FIN | ACK), Verdict::Disarmed, Phase::Track);
}

#[test]
fn a_damaged_time_is_not_that_from_which_the_others_go_on() {
    let late = Segment { timestamp: u32::MAX / 2, has_timestamp: true, ..from_client(10, ACK) };
    check(tracked(), Side::Client, late, Verdict::ToSocket, Phase::Track);
}

#[test]
fn nothing_damaged_counts_after_the_flip() {
    for flags in [ACK, FIN | ACK, RST, SYN, SYN | ACK] {
        check(spliced(), Side::Client, from_client(10, flags), Verdict::Translated, Phase::Spliced);
        check(over(), Side::Client, from_client(10, flags), Verdict::Translated, Phase::Closing);
    }
}

#[test]
fn the_sum_of_a_segment_and_its_pseudo_header_is_whole() {
    // A FIN from 10.0.0.1 port 1 to 10.0.0.2 port 2, and its checksum as RFC 1071 section 1 makes it.
    let words = [0x0001_0002_u32, 0, 0, 0x5001_0000, 0];
    let header = Ipv4([0, 0, 0, 0x0a00_0001, 0x0a00_0002]);
    let sum = words.iter().fold(Difference::NONE, |sum, word| sum.plus(*word));
    let check = |pseudo: Difference| {
        let checksum = !pseudo.and(sum).folded();
        let bytes = sum.plus(u32::from(checksum) << 16);
        assert!(pseudo.and(bytes).is_whole());
        assert!(pseudo.and(Difference::of_kernel(u32::from(bytes.folded().to_be()))).is_whole());
        assert!(!pseudo.and(bytes.plus(1)).is_whole());
    };
    // 0a00 + 0001 + 0a00 + 0002 + 0006 + 0014.
    assert_eq!(header.pseudo(20).folded(), 0x141d);
    check(header.pseudo(20));
    check(Ipv6([0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).pseudo(20));
}
