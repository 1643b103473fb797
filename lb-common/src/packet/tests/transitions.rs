// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every transition of a flow, one by one.

extern crate std;

use crate::packet::flow::{
    End, FIN_TAKEN, Flow, Outgoing, Phase, Position, RESET, Segment, Side, TIMESTAMP_SEEN, TIMESTAMP_SENT,
    Verdict,
};
use crate::packet::tcp::{ACK, FIN, RST, SYN, Translation};

/// The first bytes: of the client, to the client, of the server, to the server.
const FROM_CLIENT: u32 = 1_000;
const TO_CLIENT: u32 = 2_000;
const FROM_SERVER: u32 = 3_000;
const TO_SERVER: u32 = 4_000;
const WINDOW: u16 = 10_000;

/// The hello of the client, and it with a header in front.
const HELLO: u32 = 500;
const HEADER: u32 = 28;

/// A flow whose client has sent a hello, which the agent has read and not sent yet.
pub fn tracked() -> Flow {
    let ends = [
        End::established(FROM_CLIENT - 1, TO_CLIENT - 1, WINDOW),
        End::established(FROM_SERVER - 1, TO_SERVER - 1, WINDOW),
    ];
    let mut flow = Flow::tracked(ends, Translation::default(), Translation::default());
    assert_eq!(flow.received(Side::Client, &hello(), 1), Verdict::ToSocket);
    assert_eq!(flow.sent(Side::Client, &to_client(0, ACK)), Outgoing::Sent);
    flow
}

pub fn armed() -> Flow {
    let mut flow = tracked();
    flow.arm(
        Position { taken: FROM_CLIENT + HELLO, given: TO_CLIENT },
        Position { taken: FROM_SERVER, given: TO_SERVER + HEADER + HELLO },
    );
    flow
}

/// Armed, and the server was sent everything.
pub fn sent() -> Flow {
    let mut flow = armed();
    let segment = Segment {
        sequence: TO_SERVER,
        acknowledgement: FROM_SERVER,
        payload: HEADER + HELLO,
        window: WINDOW,
        flags: ACK,
        ..Segment::default()
    };
    assert_eq!(flow.sent(Side::Server, &segment), Outgoing::Sent);
    flow
}

pub fn spliced() -> Flow {
    let mut flow = sent();
    assert_eq!(flow.received(Side::Server, &from_server(0, 0, ACK), 7), Verdict::Flipped);
    flow
}

/// Both have closed, and both know.
pub fn over() -> Flow {
    let mut flow = spliced();
    let last = Segment { acknowledgement: TO_CLIENT + 1, ..from_client(0, FIN | ACK) };
    let answer = Segment { acknowledgement: TO_SERVER + HEADER + HELLO + 1, ..from_server(1, 0, ACK) };
    flow.received(Side::Server, &from_server(0, 0, FIN | ACK), 8);
    flow.received(Side::Client, &last, 9);
    flow.received(Side::Server, &answer, 10);
    flow
}

fn hello() -> Segment {
    Segment { sequence: FROM_CLIENT, payload: HELLO, ..from_client(0, ACK) }
}

/// A segment of the client behind its hello.
pub fn from_client(payload: u32, flags: u8) -> Segment {
    Segment {
        sequence: FROM_CLIENT + HELLO,
        acknowledgement: TO_CLIENT,
        payload,
        window: WINDOW,
        flags,
        ..Segment::default()
    }
}

/// What the balancer's socket sends to the client behind its hello.
pub fn to_client(payload: u32, flags: u8) -> Segment {
    Segment {
        sequence: TO_CLIENT,
        acknowledgement: FROM_CLIENT + HELLO,
        payload,
        window: WINDOW,
        flags,
        ..Segment::default()
    }
}

/// A segment of the server that has everything.
pub fn from_server(offset: u32, payload: u32, flags: u8) -> Segment {
    Segment {
        sequence: FROM_SERVER + offset,
        acknowledgement: TO_SERVER + HEADER + HELLO,
        payload,
        window: WINDOW,
        flags,
        ..Segment::default()
    }
}

#[track_caller]
fn check(mut flow: Flow, side: Side, segment: Segment, verdict: Verdict, phase: Phase) -> Flow {
    assert_eq!((flow.received(side, &segment, 20), flow.phase()), (verdict, phase));
    flow
}

#[test]
fn the_acknowledgement_of_the_last_byte_flips() {
    let flow = check(sent(), Side::Server, from_server(0, 0, ACK), Verdict::Flipped, Phase::Spliced);
    let by = flow.to_server;
    assert_eq!(by.sequence_add, TO_SERVER + HEADER + HELLO - FROM_CLIENT - HELLO);
    assert_eq!(by.acknowledgement_add, FROM_SERVER - TO_CLIENT);
    assert_eq!(flow.to_client.sequence_add, by.acknowledgement_add.wrapping_neg());
    assert_eq!(flow.to_client.acknowledgement_add, by.sequence_add.wrapping_neg());
    // So do payload and FIN with it: they were no socket's.
    check(sent(), Side::Server, from_server(0, 100, ACK), Verdict::Flipped, Phase::Spliced);
    check(sent(), Side::Server, from_server(0, 0, FIN | ACK), Verdict::Flipped, Phase::Spliced);
}

#[test]
fn nothing_flips_before_both_ends_have_everything() {
    let half = Segment { acknowledgement: TO_SERVER + HEADER, ..from_server(0, 0, ACK) };
    check(tracked(), Side::Client, from_client(0, ACK), Verdict::ToSocket, Phase::Track);
    check(armed(), Side::Server, from_server(0, 0, ACK), Verdict::ToSocket, Phase::Armed);
    check(sent(), Side::Server, half, Verdict::ToSocket, Phase::Armed);
    check(sent(), Side::Client, from_client(0, ACK), Verdict::ToSocket, Phase::Armed);
    check(sent(), Side::Client, hello(), Verdict::ToSocket, Phase::Armed);
}

#[test]
fn what_does_not_fit_disarms() {
    let half = Segment { acknowledgement: TO_SERVER + HEADER, ..from_server(0, 100, ACK) };
    check(sent(), Side::Client, from_client(1, ACK), Verdict::Disarmed, Phase::Track);
    check(sent(), Side::Client, from_client(0, FIN | ACK), Verdict::Disarmed, Phase::Track);
    check(sent(), Side::Server, half, Verdict::Disarmed, Phase::Track);
    check(sent(), Side::Client, from_client(0, RST), Verdict::Disarmed, Phase::Track);
}

#[test]
fn what_a_socket_was_given_before_it_was_armed_does_not_flip() {
    let mut flow = tracked();
    flow.received(Side::Client, &from_client(5, ACK), 1);
    let mut late = sent();
    (late.client, late.phase) = (flow.client, Phase::Armed as u32);
    check(late, Side::Server, from_server(0, 0, ACK), Verdict::Disarmed, Phase::Track);
}

#[test]
fn what_a_socket_was_given_before_anybody_watched_does_not_flip() {
    let resumed = |taken, given| End::resumed(Position { taken, given }, 0, WINDOW.into());
    // Its client has sent a byte since its socket was asked.
    let ends = [resumed(FROM_CLIENT + 1, TO_CLIENT), resumed(FROM_SERVER, TO_SERVER)];
    let mut flow = Flow::tracked(ends, Translation::default(), Translation::default());
    flow.arm(
        Position { taken: FROM_CLIENT, given: TO_CLIENT },
        Position { taken: FROM_SERVER, given: TO_SERVER },
    );
    let last = Segment { acknowledgement: TO_SERVER, ..from_server(0, 0, ACK) };
    let mut read = check(flow, Side::Server, last, Verdict::Disarmed, Phase::Track);
    // Once it is read and delivered, nothing is in the way.
    read.sent(
        Side::Server,
        &Segment {
            sequence: TO_SERVER,
            payload: 1,
            acknowledgement: FROM_SERVER,
            flags: ACK,
            ..Segment::default()
        },
    );
    read.arm(
        Position { taken: FROM_CLIENT + 1, given: TO_CLIENT },
        Position { taken: FROM_SERVER, given: TO_SERVER + 1 },
    );
    let last = Segment { acknowledgement: TO_SERVER + 1, ..last };
    check(read, Side::Server, last, Verdict::Flipped, Phase::Spliced);
    // What is still unacknowledged has to be, first.
    let unacknowledged = End::resumed(Position { taken: FROM_SERVER, given: TO_SERVER }, 5, 0);
    assert_eq!(unacknowledged.acknowledged, TO_SERVER - 5);
}

#[test]
fn a_socket_that_closes_or_sends_more_disarms() {
    let check = |segment, outgoing, phase| {
        let mut flow = sent();
        assert_eq!((flow.sent(Side::Client, &segment), flow.phase()), (outgoing, phase));
    };
    check(to_client(0, ACK), Outgoing::Sent, Phase::Armed);
    check(to_client(1, ACK), Outgoing::Disarmed, Phase::Track);
    check(to_client(0, FIN | ACK), Outgoing::Disarmed, Phase::Track);
    check(to_client(0, RST | ACK), Outgoing::Disarmed, Phase::Track);
}

#[test]
fn what_an_end_may_send_is_what_its_socket_allows() {
    let check = |flags, allowed| {
        let mut flow = tracked();
        flow.to_client.shift_to = 3;
        flow.sent(Side::Client, &to_client(0, flags));
        assert_eq!(flow.client.allowed, FROM_CLIENT + HELLO + allowed);
    };
    check(ACK, u32::from(WINDOW) << 3);
    // A SYN's window is never shifted (RFC 7323 section 2.2).
    check(SYN | ACK, WINDOW.into());
}

/// Whoever had these ends before may be sent resets once more, with numbers of that time: later ones, or earlier.
#[test]
fn a_reset_changes_no_numbers() {
    for sequence in [TO_CLIENT + 1_000_000, TO_CLIENT.wrapping_sub(1_000_000)] {
        let stale = Segment { sequence, acknowledgement: sequence, ..to_client(0, RST | ACK) };
        let (mut flow, before) = (tracked(), tracked());
        assert_eq!(flow.sent(Side::Client, &stale), Outgoing::Sent);
        assert_eq!((flow.client, flow.phase()), (before.client, Phase::Track));
        let (mut flow, before) = (armed(), armed());
        assert_eq!(flow.sent(Side::Client, &stale), Outgoing::Disarmed);
        assert_eq!((flow.client, flow.phase()), (before.client, Phase::Track));
    }
}

#[test]
fn the_sockets_are_silent_after_the_flip() {
    for flags in [ACK, FIN | ACK, RST] {
        assert_eq!(spliced().sent(Side::Client, &to_client(0, flags)), Outgoing::Silenced);
        assert_eq!(over().sent(Side::Client, &to_client(0, flags)), Outgoing::Silenced);
    }
}

#[test]
fn the_agent_disarms_if_it_is_not_too_late() {
    let mut flow = armed();
    assert_eq!((flow.disarm(), flow.phase()), (true, Phase::Track));
    let mut flow = spliced();
    assert_eq!((flow.disarm(), flow.phase()), (false, Phase::Spliced));
    flow.arm(Position::default(), Position::default());
    assert_eq!(flow, spliced());
}

#[test]
fn timestamps_have_to_be_known_and_go_on_where_they_were() {
    let mut flow = sent();
    flow.timestamps = 1;
    check(flow, Side::Server, from_server(0, 0, ACK), Verdict::ToSocket, Phase::Armed);
    (flow.client.marks, flow.server.marks) = (TIMESTAMP_SEEN | TIMESTAMP_SENT, TIMESTAMP_SENT);
    (flow.client.timestamp, flow.client.timestamp_sent, flow.server.timestamp_sent) = (50, u32::MAX, 70);
    let first = Segment { timestamp: 900, has_timestamp: true, ..from_server(0, 0, ACK) };
    let flow = check(flow, Side::Server, first, Verdict::Flipped, Phase::Spliced);
    assert_eq!([flow.to_server.timestamp_add, flow.to_client.timestamp_add], [20, u32::MAX - 900]);
    assert_eq!([flow.to_server.echo_add, flow.to_client.echo_add], [901, u32::MAX - 19]);
}

#[test]
fn a_fin_counts_when_it_is_acknowledged() {
    let flow =
        check(spliced(), Side::Server, from_server(0, 40, FIN | ACK), Verdict::Translated, Phase::Spliced);
    let part = Segment { acknowledgement: TO_CLIENT + 40, ..from_client(0, ACK) };
    let flow = check(flow, Side::Client, part, Verdict::Translated, Phase::Spliced);
    assert_eq!(flow.delivered_to_client, 40);
    let all = Segment { acknowledgement: TO_CLIENT + 41, ..part };
    let flow = check(flow, Side::Client, all, Verdict::Translated, Phase::Closing);
    assert_eq!((flow.delivered_to_client, flow.is_over()), (40, false));
    assert!(flow.server.has(FIN_TAKEN) && over().is_over());
}

#[test]
fn a_reset_counts_at_the_number_that_is_expected() {
    let at =
        |offset: u32| Segment { sequence: (FROM_CLIENT + HELLO).wrapping_add(offset), ..from_client(0, RST) };
    let flow = check(spliced(), Side::Client, at(0), Verdict::Translated, Phase::Closing);
    assert!(flow.is_over() && flow.client.has(RESET) && !flow.server.has(RESET));
    for offset in [1, 5_000, u32::MAX, 1 << 31] {
        check(spliced(), Side::Client, at(offset), Verdict::Translated, Phase::Spliced);
    }
}

#[test]
fn a_reset_behind_an_accepted_fin_may_have_its_number() {
    let mut flow = spliced();
    flow.received(Side::Client, &from_client(0, FIN | ACK), 8);
    let answer = Segment { acknowledgement: TO_SERVER + HEADER + HELLO + 1, ..from_server(0, 0, ACK) };
    flow.received(Side::Server, &answer, 9);
    let flow = check(flow, Side::Client, from_client(0, RST), Verdict::Translated, Phase::Closing);
    assert!(flow.is_over());
}

#[test]
fn a_syn_begins_another_connection_only_when_this_one_is_over() {
    let syn = Segment { sequence: 77, flags: SYN, ..Segment::default() };
    check(tracked(), Side::Client, syn, Verdict::ToSocket, Phase::Track);
    check(sent(), Side::Client, syn, Verdict::ToSocket, Phase::Armed);
    check(spliced(), Side::Client, syn, Verdict::Translated, Phase::Spliced);
    check(over(), Side::Server, Segment { flags: SYN | ACK, ..syn }, Verdict::Translated, Phase::Closing);
    let flow = check(over(), Side::Client, syn, Verdict::Another, Phase::Gone);
    check(flow, Side::Client, syn, Verdict::ToSocket, Phase::Gone);
}

#[test]
fn an_end_that_comes_back_by_a_reset_gets_a_new_connection() {
    // The server answers the SYN with what it expects, and the client resets at that number (RFC 9293 section 3.5.2).
    let flow = check(spliced(), Side::Client, from_client(0, RST), Verdict::Translated, Phase::Closing);
    let syn = Segment { sequence: 77, flags: SYN, ..Segment::default() };
    check(flow, Side::Client, syn, Verdict::Another, Phase::Gone);
}

#[test]
fn payload_that_comes_again_counts_once() {
    let mut flow = spliced();
    for _ in 0..3 {
        flow.received(Side::Server, &from_server(0, 1_000, ACK), 8);
        let answer = Segment { acknowledgement: TO_CLIENT + 1_000, ..from_client(0, ACK) };
        flow.received(Side::Client, &answer, 8);
    }
    assert_eq!((flow.delivered_to_client, flow.delivered_to_server), (1_000, 0));
    // What was not sent cannot be acknowledged.
    let answer = Segment { acknowledgement: TO_CLIENT + 1_001, ..from_client(0, ACK) };
    flow.received(Side::Client, &answer, 8);
    assert_eq!(flow.delivered_to_client, 1_000);
}

#[test]
fn payload_beyond_32_bits_is_counted() {
    let mut flow = spliced();
    let mut at = 0_u64;
    while at < 5 << 30 {
        let number = |first: u32| first.wrapping_add(u32::try_from(at % (1 << 32)).expect("32 bits"));
        let segment = Segment { sequence: number(FROM_SERVER), ..from_server(0, 8_000, ACK) };
        let answer =
            Segment { acknowledgement: number(TO_CLIENT).wrapping_add(8_000), ..from_client(0, ACK) };
        flow.received(Side::Server, &segment, 8);
        flow.received(Side::Client, &answer, 8);
        at += 8_000;
    }
    assert_eq!(flow.delivered_to_client, at);
}

#[test]
fn only_what_moves_a_flow_on_ends_its_silence() {
    let mut flow = spliced();
    let mut check = |side, segment: Segment, now_ns, seen_ns| {
        flow.received(side, &segment, now_ns);
        assert_eq!(flow.seen_ns, seen_ns, "{segment:?}");
    };
    let question = Segment { sequence: FROM_CLIENT + HELLO - 1, ..from_client(0, ACK) };
    check(Side::Client, question, 20, 7);
    check(Side::Server, from_server(0, 0, ACK), 21, 7);
    check(Side::Server, from_server(0, 100, ACK), 30, 30);
    check(Side::Server, from_server(0, 100, ACK), 31, 30);
    let answer = Segment { acknowledgement: TO_CLIENT + 100, ..from_client(0, ACK) };
    check(Side::Client, answer, 40, 40);
    check(Side::Client, answer, 41, 40);
    check(Side::Server, from_server(100, 0, FIN | ACK), 50, 50);
    check(Side::Server, from_server(100, 0, FIN | ACK), 51, 50);
}
