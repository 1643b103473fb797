// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets of a flow that was spliced, beside the model.

use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::record::Counter;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::bench::{
    Bench, CLIENT, Fate, SERVER, change, ends_from, ends_to, record, shape, translation, way,
};
use super::model::{self, Change, Shape, cases};

/// Puts what the strategy has made between the ends of the flow: the addresses have to be these, the ports can be any.
fn of_the_flow(bench: &Bench, from: Side, shape: Shape, change: Change) -> (Shape, Change) {
    let (ends, _) = ends_from(bench.family, from);
    let (new_ends, _) = ends_to(bench.family, from.other());
    (Shape { ends, ..shape }, Change { ends: new_ends, ..change })
}

/// Has the flow translate so.
fn begin(bench: &mut Bench, from: Side, shape: &Shape, change: &Change) {
    let mut record = record(bench.family, Phase::Spliced);
    let (ends, _) = ends_to(bench.family, from);
    let back = Change {
        ends,
        ports: (shape.ports.1, shape.ports.0),
        ..super::bench::change(bench.family, from.other())
    };
    let ways = [(from, change), (from.other(), &back)];
    for (side, change) in ways {
        let (place, by) = match side {
            Side::Client => (&mut record.to_server, &mut record.flow.to_server),
            Side::Server => (&mut record.to_client, &mut record.flow.to_client),
        };
        (*place, *by) = (way(change), translation(change));
    }
    bench.begin(record);
}

/// Byte for byte what the model makes of it: whatever is in the packet, wherever options stand and numbers wrap.
#[test]
fn a_packet_becomes_that_of_the_other_connection() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let (family, link) = (bench.family, bench.link);
            let bench = std::cell::RefCell::new(bench);
            let strategy = (cases(), prop::sample::select(&Side::ALL[..]));
            let mut runner = TestRunner::new(Config::with_cases(512));
            let result = runner.run(&strategy, |((shape, change), from)| {
                let bench = &mut *bench.borrow_mut();
                let (shape, change) = of_the_flow(bench, from, shape, change);
                begin(bench, from, &shape, &change);
                let packet = shape.packet();
                let expected = model::translated(&packet, shape.padding, &change);
                prop_assert_eq!(bench.comes_in(&packet), Fate::Sent(expected));
                Ok(())
            });
            result.unwrap_or_else(|error| panic!("{family:?} {link:?}: {error}"));
        },
    );
}

/// The same without chance, so that what goes wrong has a name.
#[test]
fn options_in_every_layout() {
    const TIMESTAMPS: [u8; 10] = [8, 10, 0, 0, 0, 77, 0, 0, 0, 78];
    const SACK: [u8; 10] = [5, 10, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0x10];
    let rows: [Vec<u8>; 8] = [
        Vec::new(),
        [&[1, 1][..], &TIMESTAMPS].concat(),
        [&TIMESTAMPS[..], &[1, 1]].concat(),
        // No echo: it stays none.
        vec![1, 1, 8, 10, 0, 0, 0, 77, 0, 0, 0, 0],
        [&[1, 1][..], &TIMESTAMPS, &[1, 1], &SACK].concat(),
        // At odd offsets, where each byte counts in the other half of the checksum's words.
        [&[1][..], &SACK, &[1, 1, 1], &TIMESTAMPS].concat(),
        [&[1, 1][..], &TIMESTAMPS, &[5, 26], &[9; 24], &[1, 1]].concat(),
        vec![2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0xee],
    ];
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let (family, link) = (bench.family, bench.link);
            for (options, from) in rows.iter().flat_map(|row| Side::ALL.map(|side| (row, side))) {
                let shape = Shape { options: options.clone(), payload: vec![3; 5], ..shape(family, from) };
                let packet = shape.packet();
                let expected = model::translated(&packet, 0, &change(family, from));
                assert_eq!(bench.comes_in(&packet), Fate::Sent(expected), "{family:?} {link:?} {options:?}");
            }
            assert_eq!(bench.counts().of(Counter::Translated), 2 * rows.len() as u64);
        },
    );
}

/// What Ethernet adds to short frames is no payload, and stays.
#[test]
fn padding_is_not_payload() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let family = bench.family;
            let shape = Shape { padding: 6, payload: vec![9; 3], ..shape(family, CLIENT) };
            let packet = shape.packet();
            let expected = model::translated(&packet, 6, &change(family, CLIENT));
            assert_eq!(bench.comes_in(&packet), Fate::Sent(expected));
            let way = bench.slot.edit(|record| record.to_server);
            assert_eq!((way.segments, way.bytes), (1, 3));
        },
    );
}

/// As large as one frame can be here: most of it is not looked at.
#[test]
fn payload_is_left_alone() {
    Bench::at_each_place(
        |family| record(family, Phase::Spliced),
        |bench| {
            let family = bench.family;
            let payload = (0..1_400_u32).map(|byte| byte as u8).collect();
            let packet = Shape { payload, ..shape(family, SERVER) }.packet();
            let expected = model::translated(&packet, 0, &change(family, SERVER));
            assert_eq!(bench.comes_in(&packet), Fate::Sent(expected));
            assert_eq!(bench.slot.edit(|record| record.to_client.bytes), 1_400);
        },
    );
}
