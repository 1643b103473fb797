// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs as the kernel of this machine has loaded them, with packets that it hands them (BPF_PROG_TEST_RUN): what comes out is
//! compared, byte for byte, with a model that knows nothing of differences. Each test asserts one of two outcomes, by the privileges it finds.
//!
//! These packets have no device behind them: their checksums are whole, with nothing known of the packet's sum or all of it (CHECKSUM_NONE,
//! CHECKSUM_COMPLETE), and they are in one piece. In `net` and `tun` there are devices.

mod bench;
mod damage;
mod errors;
mod interfaces;
mod left;
mod life;
#[path = "../../../../../lb-common/src/packet/tests/model.rs"]
mod model;
mod net;
mod offer;
mod place;
mod refusals;
mod self_test;
mod stall;
mod too_big;
mod translation;
mod tun;

use std::thread;

use aya::maps::Map;
use aya::programs::SchedClassifier;
use lb_common::layout::{DIRECTIONS, SLOTS};
use lb_common::packet::record::{PACKET_FLOWS, PACKET_KEYS};

use super::*;
use crate::kernel::{load_packet, load_sockmap};
use crate::privileges::{self, Capability, Lack};

/// The verifier walks every way through a program and gives up after a million instructions (include/linux/bpf.h,
/// BPF_COMPLEXITY_LIMIT_INSNS), which differ from kernel to kernel. `cargo xtask vm` reads the lines that this prints.
#[test]
fn the_verifier_is_far_from_giving_up() {
    let Some((packet, _bells)) = bench::loaded(4) else { return };
    let programs = packet.programs();
    let verified = PROGRAMS.map(|name| {
        let program = programs.ebpf.program(name).expect("loaded");
        let program: &SchedClassifier = program.try_into().expect("a classifier");
        let info = program.info().expect("the kernel tells of it");
        // Since Linux 5.16.
        let verified = info.verified_instruction_count().expect("the kernel counts them");
        let (translated, jited) = (info.size_translated().unwrap_or(0), info.size_jitted());
        println!(
            "program {name}: {verified} instructions verified, {translated} bytes translated, {jited} bytes jited"
        );
        verified
    });
    assert!(verified.iter().all(|verified| (1..200_000).contains(verified)), "{verified:?} instructions");
}

#[test]
fn without_capabilities_the_reason_is_told() {
    let loaded = thread::spawn(|| {
        // Capabilities belong to a thread: the other tests keep theirs.
        privileges::give_up().expect("a thread can give up capabilities");
        load_packet(4).map(drop)
    });
    let missing = Lack::Capabilities(Capability::FOR_SOCKMAP.to_vec());
    assert!(
        matches!(loaded.join().expect("the thread ends"), Err(LoadError::NoPrivilege(lack)) if lack == missing)
    );
}

/// Whoever loads the object makes the maps of both paths.
#[test]
fn the_maps_of_the_other_path_cost_nothing() {
    let Some((packet, _bells)) = bench::loaded(1_000) else { return };
    assert_eq!([SLOTS, DIRECTIONS].map(|name| capacity(&packet.programs().ebpf, name)), [1, 1]);
    let (sockmap, _calls) = load_sockmap(1_000, 1 << 20).expect("as the other");
    assert_eq!([PACKET_KEYS, PACKET_FLOWS].map(|name| capacity(sockmap.ebpf(), name)), [1, 1]);
}

/// How many entries a map of the object has room for, if nobody has taken it out.
fn capacity(ebpf: &Ebpf, name: &str) -> u32 {
    match ebpf.map(name) {
        Some(Map::HashMap(map) | Map::Array(map)) => {
            map.info().expect("the kernel tells of it").max_entries()
        }
        _ => panic!("{name} is missing"),
    }
}
