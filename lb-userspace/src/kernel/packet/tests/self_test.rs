// SPDX-License-Identifier: MIT OR Apache-2.0
//! The self-test at start: it passes here, quickly, and leaves nothing; and it fails where programs do something else.

use std::time::{Duration, Instant};

use lb_common::packet::flow::Phase;

use super::super::self_test;
use super::bench::{Bench, Family, Link, loaded, record};
use crate::kernel::SelfTestError;

#[test]
fn every_step_passes_and_leaves_nothing() {
    let Some((packet, mut bells)) = loaded(2) else { return };
    let mut steps = Vec::new();
    packet.test(&mut |step| steps.push(step.behaviour)).expect("this kernel does what it should");
    assert_eq!(steps.len(), 5, "{steps:?}");
    assert_eq!(packet.keys().expect("descriptors").entries(), 0);
    bells.answer();
    assert!(packet.listed().is_empty());
}

/// A start may take a tenth of a second longer, and the fastest of three tells how long it takes where others do not get in between.
#[test]
fn it_takes_less_than_a_tenth_of_a_second() {
    let Some((packet, _bells)) = loaded(2) else { return };
    let took = (0..3).map(|_| {
        let begin = Instant::now();
        packet.test(&mut |_| {}).expect("this kernel does what it should");
        // A slot rests before somebody else gets it.
        std::thread::sleep(Duration::from_millis(20));
        begin.elapsed() - Duration::from_millis(20)
    });
    let took = took.min().expect("three");
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn flows_that_are_there_are_not_touched_and_may_have_every_slot() {
    let Some(bench) = Bench::new(Family::V4, Link::Ethernet, record(Family::V4, Phase::Spliced)) else {
        return;
    };
    let rest: Vec<_> = std::iter::from_fn(|| bench.packet.slot()).collect();
    for taken in [rest, Vec::new()] {
        let before = bench.slot.edit(|record| *record);
        bench.packet.test(&mut |_| {}).expect("this kernel does what it should");
        assert_eq!(bench.slot.edit(|record| *record), before);
        assert_eq!(bench.keys.entries(), 2);
        drop(taken);
        // A slot rests before somebody else gets it.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The programs are told to translate otherwise than the table expects.
#[test]
fn programs_that_do_something_else_fail_with_what_it_is() {
    let Some((packet, _bells)) = loaded(2) else { return };
    let fails = |spoil: fn(&mut lb_common::packet::record::Record)| {
        let slot = packet.slot().expect("two slots");
        let failed = self_test::run_spoiled(&packet, &slot, spoil, &mut |_| {});
        drop(slot);
        std::thread::sleep(Duration::from_millis(20));
        match failed {
            Err(SelfTestError::Behaviour(behaviour)) => behaviour,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fails(|record| record.flow.to_client.shift_to += 1), "taking a flow over from its sockets");
    assert_eq!(fails(|record| record.flow.phase = Phase::Gone as u32), "taking a flow over from its sockets");
    let in_translation = fails(|record| record.flow.to_server.shift_to += 1);
    assert_eq!(in_translation, "translating packets of one connection into those of the other");
}
