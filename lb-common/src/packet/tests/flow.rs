// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows between two ends that speak TCP, on wires that lose, double, reorder and damage, and with a stranger who only guesses. In all of them
//! the times that a flow shows are judged by a [witness](super::witness).

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::ends::Sent;
use super::model::number;
use super::world::{Setup, Wire, World};
use crate::packet::flow::{Checksum, Phase, RESET, Segment, Side};
use crate::packet::tcp::{ACK, FIN, RST, SYN};

/// What can happen.
#[derive(Clone, Debug)]
enum Event {
    Write(Side, u64),
    Close(Side),
    Send(Side, u64),
    Resend(Side, u64),
    Acknowledge(Side),
    Agent,
    Socket(Side, u64),
    ResendFromSocket(Side, u64),
    Deliver(Wire, Index),
    Lose(Wire, Index),
    Double(Wire, Index),
    Damage(Wire, Index, Damage),
    Forge(Side, Forged),
}

/// A segment of somebody who does not see the flow.
#[derive(Clone, Debug)]
struct Forged {
    flags: u8,
    /// What its number is off by: more than any window.
    off: u32,
    /// Whether its number is right and the acknowledgement is off.
    knows_sequence: bool,
    acknowledgement: u32,
    payload: u32,
    timestamp: u32,
}

/// A bit of a segment that changes on its way.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Sequence(u32),
    Acknowledgement(u32),
    Payload(u32),
    Timestamp(u32),
    Window(u32),
    Flags(u32),
}

impl Damage {
    fn of(self, mut segment: Segment) -> Segment {
        match self {
            Self::Sequence(bit) => segment.sequence ^= 1 << bit,
            Self::Acknowledgement(bit) => segment.acknowledgement ^= 1 << bit,
            // As long as a packet can be.
            Self::Payload(bit) => segment.payload ^= 1 << (bit % 11),
            Self::Timestamp(bit) => segment.timestamp ^= 1 << bit,
            Self::Window(bit) => segment.window ^= 1 << (bit % 16),
            Self::Flags(bit) => segment.flags ^= 1 << (bit % 8),
        }
        Segment { checksum: Checksum::Wrong, ..segment }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0_u32..32).prop_map(Damage::Sequence),
        (0_u32..32).prop_map(Damage::Acknowledgement),
        (0_u32..32).prop_map(Damage::Payload),
        (0_u32..32).prop_map(Damage::Timestamp),
        (0_u32..32).prop_map(Damage::Window),
        (0_u32..32).prop_map(Damage::Flags),
    ]
}

fn side() -> impl Strategy<Value = Side> {
    prop::sample::select(&Side::ALL[..])
}

fn wire() -> impl Strategy<Value = Wire> {
    prop_oneof![side().prop_map(Wire::From), side().prop_map(Wire::To)]
}

fn forged() -> impl Strategy<Value = Forged> {
    let flags = prop::sample::select(&[FIN | ACK, RST, RST | ACK, SYN, SYN | ACK, ACK, FIN, 0][..]);
    let off = 1_u32 << 28..u32::MAX - (1 << 28);
    (flags, off, any::<bool>(), any::<u32>(), 0_u32..1_400, any::<u32>()).prop_map(
        |(flags, off, knows_sequence, acknowledgement, payload, timestamp)| Forged {
            flags,
            off,
            knows_sequence,
            acknowledgement,
            payload,
            timestamp,
        },
    )
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let len = || 1_u64..3_000;
    let at_an_end = prop_oneof![
        4 => (side(), 1_u64..20_000).prop_map(|(side, len)| Event::Write(side, len)),
        6 => (side(), len()).prop_map(|(side, len)| Event::Send(side, len)),
        2 => (side(), len()).prop_map(|(side, len)| Event::Resend(side, len)),
        4 => side().prop_map(Event::Acknowledge),
        1 => side().prop_map(Event::Close),
    ];
    let at_the_balancer = prop_oneof![
        3 => Just(Event::Agent),
        5 => (side(), len()).prop_map(|(side, len)| Event::Socket(side, len)),
        1 => (side(), len()).prop_map(|(side, len)| Event::ResendFromSocket(side, len)),
    ];
    let between = prop_oneof![
        20 => (wire(), any::<Index>()).prop_map(|(wire, place)| Event::Deliver(wire, place)),
        2 => (wire(), any::<Index>()).prop_map(|(wire, place)| Event::Lose(wire, place)),
        2 => (wire(), any::<Index>()).prop_map(|(wire, place)| Event::Double(wire, place)),
        2 => (wire(), any::<Index>(), damage()).prop_map(|(wire, place, damage)| Event::Damage(wire, place, damage)),
        3 => (side(), forged()).prop_map(|(side, forged)| Event::Forge(side, forged)),
    ];
    let event = prop_oneof![17 => at_an_end, 9 => at_the_balancer, 27 => between];
    prop::collection::vec(event, 0..300)
}

/// The same, but nobody closes.
fn events_without_end() -> impl Strategy<Value = Vec<Event>> {
    events().prop_map(|mut events| {
        events.retain(|event| !matches!(event, Event::Close(_)));
        events
    })
}

fn setup() -> impl Strategy<Value = Setup> {
    let four = || [number(), number(), number(), number()];
    let shifts = || prop::array::uniform4(0_u8..=10);
    let step_ns = prop::sample::select(&[1_000, 1_000_000, 150_000_000][..]);
    (four(), shifts(), four(), any::<bool>(), 0_u64..600, step_ns).prop_map(
        |(syns, shifts, clocks, has_timestamps, header, step_ns)| Setup {
            syns,
            shifts,
            clocks,
            has_timestamps,
            header,
            step_ns,
        },
    )
}

fn happen(world: &mut World, event: Event) {
    world.tick();
    match event {
        Event::Write(side, len) if !world.end(side).is_closed => world.end(side).written += len,
        Event::Write(..) => {}
        Event::Close(side) => world.end(side).is_closed = true,
        Event::Send(side, len) => world.send(side, len),
        Event::Resend(side, len) => world.resend(side, len),
        Event::Acknowledge(side) => world.acknowledge(side),
        Event::Agent => world.run_agent(),
        Event::Socket(side, len) if !world.is_spliced() => world.run_socket(side, len),
        Event::ResendFromSocket(side, len) if !world.is_spliced() => world.resend_from_socket(side, len),
        Event::Socket(..) | Event::ResendFromSocket(..) => {}
        Event::Forge(side, forged) => forge(world, side, &forged),
        Event::Deliver(wire, place) => {
            if let len @ 1.. = world.wire(wire).len() {
                world.deliver(wire, place.index(len));
            }
        }
        Event::Lose(wire, place) => {
            if let len @ 1.. = world.wire(wire).len() {
                world.wire(wire).remove(place.index(len));
            }
        }
        Event::Damage(wire, place, damage) => {
            if let len @ 1.. = world.wire(wire).len() {
                let sent = &mut world.wire(wire)[place.index(len)];
                sent.segment = damage.of(sent.segment);
            }
        }
        Event::Double(wire, place) => {
            if let len @ 1.. = world.wire(wire).len() {
                let sent = world.wire(wire)[place.index(len)];
                world.wire(wire).push(sent);
            }
        }
    }
}

/// A stranger's segment arrives at the balancer. It changes nothing, and the end that it claims to be for takes it for what it is.
fn forge(world: &mut World, side: Side, forged: &Forged) {
    let before = world.flow;
    let end = *before.end(side);
    let segment = Segment {
        sequence: end.reached.wrapping_add(if forged.knows_sequence { 0 } else { forged.off }),
        acknowledgement: if forged.knows_sequence {
            end.acknowledged.wrapping_add(forged.off)
        } else {
            forged.acknowledgement
        },
        payload: forged.payload,
        timestamp: forged.timestamp,
        window: 0,
        // A reset with the right number is one, whoever sent it.
        flags: if forged.knows_sequence { forged.flags & FIN | ACK } else { forged.flags },
        has_timestamp: true,
        ..Segment::default()
    };
    let is_another = segment.flags & (SYN | ACK) == SYN && before.is_over();
    if !is_another {
        let mut after = before;
        after.received(side, &segment, u64::MAX);
        assert_eq!(after, before, "{segment:?}");
        world.arrive(side, Sent { segment, position: u64::MAX });
    }
}

/// Goes on until nothing is left to do, and lets a flow flip that has nothing against it.
fn settle(world: &mut World) {
    world.settle();
    for side in Side::ALL {
        world.acknowledge(side);
    }
    world.settle();
}

proptest! {
    /// Whatever happens, no byte gets lost or counts twice, no socket is thrown away too early, a flow that pauses flips, and both FINs end it.
    #[test]
    fn every_byte_arrives_and_counts_once(setup in setup(), events in events_without_end()) {
        let mut world = World::new(setup);
        events.into_iter().for_each(|event| happen(&mut world, event));
        settle(&mut world);
        prop_assert_eq!(world.flow.phase(), Phase::Spliced);
        let delivered = [world.flow.delivered_to_server, world.flow.delivered_to_client];
        prop_assert_eq!(delivered, world.arrived());
        let [client, server] = Side::ALL.map(|side| world.end(side).clone());
        prop_assert_eq!(server.payload(), client.written + setup.header);
        prop_assert_eq!(client.payload(), server.written);
        for side in Side::ALL {
            prop_assert!(!world.flow.is_over());
            world.end(side).is_closed = true;
            settle(&mut world);
            prop_assert_eq!(world.flow.phase(), Phase::Closing);
        }
        prop_assert!(world.flow.is_over());
        // The FINs are no payload.
        prop_assert_eq!([world.flow.delivered_to_server, world.flow.delivered_to_client], delivered);
    }

    /// The same if ends close whenever they want, also before the flip: then the sockets carry the flow to its end.
    #[test]
    fn an_early_end_is_carried_across(setup in setup(), events in events()) {
        let mut world = World::new(setup);
        events.into_iter().for_each(|event| happen(&mut world, event));
        Side::ALL.into_iter().for_each(|side| world.end(side).is_closed = true);
        settle(&mut world);
        let [client, server] = Side::ALL.map(|side| world.end(side).clone());
        prop_assert_eq!(server.payload(), client.written + setup.header);
        prop_assert_eq!(client.payload(), server.written);
        prop_assert!(client.is_ended() && server.is_ended());
        prop_assert_eq!(world.flow.is_over(), world.is_spliced());
        if world.is_spliced() {
            let delivered = [world.flow.delivered_to_server, world.flow.delivered_to_client];
            prop_assert_eq!(delivered, world.arrived());
        }
    }

    /// A real reset ends it, at both ends.
    #[test]
    fn a_reset_is_carried_across(setup in setup(), events in events_without_end(), side in side()) {
        let mut world = World::new(setup);
        events.into_iter().for_each(|event| happen(&mut world, event));
        settle(&mut world);
        world.reset(side);
        world.settle();
        prop_assert!(world.flow.is_over() && world.flow.end(side).has(RESET));
        prop_assert!(Side::ALL.into_iter().all(|side| world.end(side).is_reset));
        prop_assert_eq!(world.flow.phase(), Phase::Closing);
    }
}
