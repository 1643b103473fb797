// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of a flow, from its first packet that is watched to the one that makes way for another.

use lb_common::packet::flow::{End, FIN_TAKEN, Flow, Phase, Position, RESET, Side};
use lb_common::packet::record::{Counter, QUIESCE, Record};

use super::bench::{Bench, CLIENT, Family, Fate, SERVER, change, record, shape, shape_to, translation};
use super::model::{self, Shape};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 0x10;

/// The next numbers: of the client, to the client, of the server, to the server; each about to wrap.
const FROM_CLIENT: u32 = u32::MAX - 10;
const TO_CLIENT: u32 = u32::MAX - 20;
const FROM_SERVER: u32 = u32::MAX - 30;
const TO_SERVER: u32 = u32::MAX - 40;

/// Bytes that the client sends first, and with how many more the server gets them.
const HELLO: u32 = 100;
const HEADER: u32 = 28;

/// A window, in every segment.
const WINDOW: u16 = 1_000;

/// A flow whose handshakes are over, and nothing more.
fn fresh(family: Family) -> Record {
    let mut record = record(family, Phase::Track);
    let ends = [(FROM_CLIENT, TO_CLIENT), (FROM_SERVER, TO_SERVER)];
    let [client, server] =
        ends.map(|(from, to)| End::established(from.wrapping_sub(1), to.wrapping_sub(1), WINDOW));
    let [to_server, to_client] = Side::ALL.map(|side| {
        let by = translation(&change(family, side));
        lb_common::packet::tcp::Translation { sequence_add: 0, acknowledgement_add: 0, ..by }
    });
    record.flow = Flow::tracked([client, server], to_server, to_client);
    record
}

/// A segment of an end: number and acknowledgement count from the first bytes above.
pub fn from(family: Family, side: Side, sequence: u32, acknowledgement: u32, flags: u8, len: usize) -> Shape {
    let (first, other) = if side == CLIENT { (FROM_CLIENT, TO_CLIENT) } else { (FROM_SERVER, TO_SERVER) };
    Shape {
        sequence: first.wrapping_add(sequence),
        acknowledgement: other.wrapping_add(acknowledgement),
        flags,
        window: WINDOW,
        payload: vec![0x5a; len],
        ..shape(family, side)
    }
}

/// A segment of the balancer's socket, likewise.
fn to(family: Family, side: Side, sequence: u32, acknowledgement: u32, flags: u8, len: usize) -> Shape {
    let (first, other) = if side == CLIENT { (TO_CLIENT, FROM_CLIENT) } else { (TO_SERVER, FROM_SERVER) };
    Shape {
        sequence: first.wrapping_add(sequence),
        acknowledgement: other.wrapping_add(acknowledgement),
        flags,
        window: WINDOW,
        payload: vec![0x5a; len],
        ..shape_to(family, side)
    }
}

#[track_caller]
fn passes_in(bench: &Bench, shape: &Shape) {
    assert_eq!(bench.comes_in(&shape.packet()), Fate::Passed(shape.packet()));
}

#[track_caller]
fn passes_out(bench: &Bench, shape: &Shape) {
    assert_eq!(bench.goes_out(&shape.packet()), Fate::Passed(shape.packet()));
}

fn phase(bench: &Bench) -> Phase {
    bench.slot.edit(|record| record.flow.phase())
}

/// Up to where the server has been sent everything and has acknowledged nothing.
pub fn until_sent(bench: &mut Bench) {
    let family = bench.family;
    bench.begin(fresh(family));
    passes_in(bench, &from(family, CLIENT, 0, 0, ACK, HELLO as usize));
    passes_out(bench, &to(family, CLIENT, 0, HELLO, ACK, 0));
    bench.slot.edit(|record| {
        record.flow.arm(
            Position { taken: FROM_CLIENT.wrapping_add(HELLO), given: TO_CLIENT },
            Position { taken: FROM_SERVER, given: TO_SERVER.wrapping_add(HEADER + HELLO) },
        );
    });
    passes_out(bench, &to(family, SERVER, 0, 0, ACK, (HEADER + HELLO) as usize));
    assert_eq!((phase(bench), bench.has_called()), (Phase::Armed, false));
}

/// The bare acknowledgement that flips, and what the model makes of it.
pub fn flipping(family: Family) -> Shape {
    from(family, SERVER, 0, HEADER + HELLO, ACK, 0)
}

/// What the other end gets of a segment, by the numbers above alone.
pub fn expected(family: Family, side: Side, shape: &Shape) -> Fate {
    let to_server = TO_SERVER.wrapping_add(HEADER + HELLO).wrapping_sub(FROM_CLIENT.wrapping_add(HELLO));
    let to_client = TO_CLIENT.wrapping_sub(FROM_SERVER);
    let (sequence_add, back) = if side == CLIENT { (to_server, to_client) } else { (to_client, to_server) };
    let acknowledgement_add = back.wrapping_neg();
    let change = model::Change { sequence_add, acknowledgement_add, ..change(family, side) };
    Fate::Sent(model::translated(&shape.packet(), 0, &change))
}

#[track_caller]
pub fn is_sent_on(bench: &Bench, side: Side, shape: &Shape) {
    assert_eq!(bench.comes_in(&shape.packet()), expected(bench.family, side, shape));
}

pub fn at_each_place(test: impl Fn(&mut Bench)) {
    Bench::at_each_place(fresh, test);
}

/// Up to where the flow is spliced.
fn until_spliced(bench: &mut Bench) {
    until_sent(bench);
    is_sent_on(bench, SERVER, &flipping(bench.family));
    assert_eq!((phase(bench), bench.has_called()), (Phase::Spliced, true));
}

#[test]
fn the_acknowledgement_of_the_last_byte_flips_and_is_translated() {
    at_each_place(|bench| {
        until_spliced(bench);
        let family = bench.family;
        is_sent_on(bench, CLIENT, &from(family, CLIENT, HELLO, 0, ACK, 700));
        is_sent_on(bench, SERVER, &from(family, SERVER, 0, HEADER + HELLO + 700, ACK, 900));
        is_sent_on(bench, CLIENT, &from(family, CLIENT, HELLO + 700, 900, ACK, 0));
        let flow = bench.slot.edit(|record| record.flow);
        assert_eq!((flow.delivered_to_server, flow.delivered_to_client), (700, 900));
        let [to_server, to_client] = bench.slot.edit(|record| [record.to_server, record.to_client]);
        assert_eq!((to_server.segments, to_server.bytes), (2, 700));
        assert_eq!((to_client.segments, to_client.bytes), (2, 900));
        assert!(!bench.has_called());
    });
}

#[test]
fn something_new_disarms_and_is_the_sockets() {
    at_each_place(|bench| {
        until_sent(bench);
        passes_in(bench, &from(bench.family, CLIENT, HELLO, 0, ACK, 1));
        assert_eq!((phase(bench), bench.has_called()), (Phase::Track, true));
        // So does a socket that closes.
        until_sent(bench);
        passes_out(bench, &to(bench.family, CLIENT, 0, HELLO, FIN | ACK, 0));
        assert_eq!((phase(bench), bench.has_called()), (Phase::Track, true));
    });
}

#[test]
fn the_sockets_are_silent_after_the_flip() {
    at_each_place(|bench| {
        until_spliced(bench);
        let family = bench.family;
        for flags in [ACK, FIN | ACK, RST | ACK] {
            assert_eq!(bench.goes_out(&to(family, CLIENT, 0, HELLO, flags, 0).packet()), Fate::Dropped);
        }
        assert_eq!(bench.counts().of(Counter::Silenced), 3);
        // What the program itself has sent on looks the same, but has come in before.
        let packet = to(family, CLIENT, 0, HELLO, ACK, 0).packet();
        assert_eq!(bench.is_forwarded(&packet), Fate::Passed(packet));
    });
}

#[test]
fn a_quiescing_flow_announces_no_room() {
    at_each_place(|bench| {
        let family = bench.family;
        bench.slot.edit(|record| record.flags = QUIESCE);
        let segment = to(family, CLIENT, 0, 0, ACK, 33);
        let closed = Shape { window: 0, ..segment.clone() };
        assert_eq!(bench.goes_out(&segment.packet()), Fate::Passed(closed.packet()));
        let allowed = bench.slot.edit(|record| record.flow.client.allowed);
        let shift = change(family, SERVER).shifts.1;
        assert_eq!(
            allowed,
            FROM_CLIENT.wrapping_add(u32::from(WINDOW) << shift),
            "the socket takes what it said"
        );
        passes_out(bench, &to(family, CLIENT, u32::MAX, 0, SYN | ACK, 0));
        assert_eq!(bench.counts().of(Counter::Quieted), 1);
    });
}

#[test]
fn both_fins_end_a_flow_and_a_syn_makes_way_for_another() {
    at_each_place(|bench| {
        until_spliced(bench);
        let family = bench.family;
        is_sent_on(bench, SERVER, &from(family, SERVER, 0, HEADER + HELLO, FIN | ACK, 10));
        is_sent_on(bench, CLIENT, &from(family, CLIENT, HELLO, 11, FIN | ACK, 0));
        assert_eq!((phase(bench), bench.has_called()), (Phase::Closing, false));
        is_sent_on(bench, SERVER, &from(family, SERVER, 11, HEADER + HELLO + 1, ACK, 0));
        assert!(bench.has_called(), "it is over");
        let flow = bench.slot.edit(|record| record.flow);
        assert!(flow.is_over() && flow.client.has(FIN_TAKEN) && flow.server.has(FIN_TAKEN));
        // Late ones still find it.
        is_sent_on(bench, SERVER, &from(family, SERVER, 11, HEADER + HELLO + 1, ACK, 0));
        assert_eq!((bench.keys.entries(), bench.has_called()), (2, false));
        passes_in(bench, &from(family, CLIENT, 0x1234_5678, 0, SYN, 0));
        assert_eq!((phase(bench), bench.keys.entries(), bench.has_called()), (Phase::Gone, 0, true));
    });
}

#[test]
fn a_reset_with_the_right_number_ends_a_flow_and_a_forged_one_does_not() {
    at_each_place(|bench| {
        until_spliced(bench);
        let family = bench.family;
        let before = bench.slot.edit(|record| record.flow);
        for (sequence, flags) in [(HELLO + 1, RST), (HELLO + (1 << 30), RST | ACK), (1 << 31, FIN | ACK)] {
            is_sent_on(bench, CLIENT, &from(family, CLIENT, sequence, 0, flags, 0));
        }
        assert_eq!(bench.slot.edit(|record| record.flow), before);
        a_syn_changes_nothing(bench, before);
        is_sent_on(bench, CLIENT, &from(family, CLIENT, HELLO, 0, RST, 0));
        let flow = bench.slot.edit(|record| record.flow);
        assert!(flow.is_over() && flow.client.has(RESET) && bench.has_called());
    });
}

/// A SYN on a flow that is not over: the end judges it.
fn a_syn_changes_nothing(bench: &mut Bench, before: Flow) {
    is_sent_on(bench, CLIENT, &from(bench.family, CLIENT, 0x0bad_cafe, 0, SYN, 0));
    assert_eq!(bench.slot.edit(|record| record.flow), before);
    assert!(!bench.has_called());
}

/// Segments say when they were sent, and the flip goes on where the balancer's clocks were.
#[test]
fn timestamps_go_on_at_the_flip() {
    at_each_place(|bench| {
        let family = bench.family;
        let mut record = fresh(family);
        record.flow.timestamps = 1;
        bench.begin(record);
        let stamped = |shape: Shape, value: u32, echo: u32| {
            let options = [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat();
            Shape { options, ..shape }
        };
        passes_in(bench, &stamped(from(family, CLIENT, 0, 0, ACK, HELLO as usize), 100, 7));
        passes_out(bench, &stamped(to(family, CLIENT, 0, HELLO, ACK, 0), 2_000, 100));
        bench.slot.edit(|record| {
            record.flow.arm(
                Position { taken: FROM_CLIENT.wrapping_add(HELLO), given: TO_CLIENT },
                Position { taken: FROM_SERVER, given: TO_SERVER.wrapping_add(HEADER + HELLO) },
            );
        });
        let all = (HEADER + HELLO) as usize;
        passes_out(bench, &stamped(to(family, SERVER, 0, 0, ACK, all), 30_000, 9));
        // The server's clock says 400_000, and the balancer's last word to the client was 2,000.
        let flip = stamped(flipping(family), 400_000, 30_000);
        let Fate::Sent(packet) = bench.comes_in(&flip.packet()) else { panic!("it does not flip") };
        let at = flip.ip_len() + 24;
        // The echo of what the client said last, for the server echoes what stands for that.
        assert_eq!(packet[at..at + 4], 2_000_u32.to_be_bytes());
        assert_eq!(packet[at + 4..at + 8], 100_u32.to_be_bytes());
    });
}
