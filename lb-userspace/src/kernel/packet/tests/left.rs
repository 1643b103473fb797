// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an agent leaves at interfaces, and what the next one makes of it: by links, and by filters as on older kernels.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_common::packet::flow::Phase;
use lb_common::packet::record::ENTRY_WORDS;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

use super::super::hooks::{WITHOUT_LINKS, has_tcx};
use super::super::kept::{Flushed, flush};
use super::super::ledger::{Ledger, Maps};
use super::super::records::Records;
use super::super::slots::Slots;
use super::super::{Attachment, OpenTerms, Orphan, Packet};
use super::bench::{Family, loaded, record};
use super::place::Row;
use crate::kernel::open_packet;

/// A BPF file system, for as long as this lives.
pub struct Bpffs(TempDir);

impl Bpffs {
    pub fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        mount("bpf", place.path(), "bpf", MountFlags::empty(), None).expect("root may mount");
        Self(place)
    }

    /// Where an agent keeps its flows.
    pub fn state(&self) -> PathBuf {
        self.0.path().join("lb")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

pub fn open(state: &Path, flows: u32) -> (Packet, Vec<Orphan>) {
    let terms = OpenTerms { flows, ports: 61_000..=65_535, state: Some(state) };
    let (packet, _bells, orphans) = open_packet(&terms).expect("privileged");
    (packet, orphans)
}

/// Opens on a directory, and attaches to an interface.
fn attached(state: &Path) -> (Packet, Attachment) {
    let (packet, _) = open(state, 4);
    let attachment = packet.attach("client").expect("an interface");
    packet.detach_rest();
    (packet, attachment)
}

/// The numbers of the programs that are filters of an interface.
fn filters(interface: &str) -> BTreeSet<String> {
    all_filters(interface).into_iter().collect()
}

/// The number of the program of each filter of an interface.
pub fn all_filters(interface: &str) -> Vec<String> {
    let shown = ["ingress", "egress"].map(|direction| {
        let output = Command::new("tc").args(["filter", "show", "dev", interface, direction]).output();
        String::from_utf8(output.expect("tc (iproute2) must be installed").stdout).expect("text")
    });
    let words = shown.iter().flat_map(|text| text.split_whitespace());
    let after_id = words.clone().zip(words.skip(1)).filter(|(word, _)| *word == "id");
    after_id.map(|(_, id)| id.to_owned()).collect()
}

/// Programs are replaced where they are, and none is left in the end.
#[test]
fn filters_stay_make_way_and_go() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    let state = bpffs.state();
    row.balancer.enter(|| {
        WITHOUT_LINKS.set(true);
        drop(attached(&state));
        let left = filters("client");
        assert_eq!(left.len(), 2, "one each way stays when the agent goes");
        let (packet, attachment) = attached(&state);
        let replaced = filters("client");
        assert!(replaced.len() == 2 && replaced.is_disjoint(&left), "{left:?} {replaced:?}");
        attachment.detach();
        packet.clear();
        drop(packet);
        assert_eq!(filters("client"), BTreeSet::new());
        assert!(!state.exists());

        drop(attached(&state));
        let (packet, _) = open(&state, 8);
        assert_eq!(filters("client"), BTreeSet::new(), "what is made anew leaves nothing of the old");
        drop(packet);
        drop(attached(&state));
        let (packet, _) = open(&state, 4);
        assert_eq!(packet.left_interfaces(), ["client"]);
        let attachment = packet.attach("client").expect("an interface");
        assert!(packet.left_interfaces().is_empty());
        drop((packet, attachment));
        let (packet, _) = open(&state, 4);
        packet.detach_rest();
        assert_eq!(filters("client"), BTreeSet::new(), "an interface that nobody wants any more");
        drop(packet);

        drop(attached(&state));
        assert_eq!(filters("client").len(), 2);
        assert_eq!(flush(&state).expect("nobody runs"), Flushed::Flows { count: 0, are_told: true });
        assert_eq!(filters("client"), BTreeSet::new());
    });
}

/// A link is one as long as somebody keeps it. Where the kernel has none, none is kept.
#[test]
fn links_stay_make_way_and_go() {
    if loaded(1).is_none() {
        return;
    }
    let (row, bpffs) = (Row::new(), Bpffs::new());
    let state = bpffs.state();
    row.balancer.enter(|| {
        let links = || {
            let names = std::fs::read_dir(&state).expect("kept").flatten();
            names.filter(|entry| entry.file_name().to_string_lossy().contains("gress-")).count()
        };
        let expected = if has_tcx() { 2 } else { 0 };
        drop(attached(&state));
        assert_eq!(links(), expected);
        let (packet, attachment) = attached(&state);
        assert_eq!(links(), expected);
        attachment.detach();
        packet.clear();
        assert!(!state.exists());
    });
}

/// What nobody is in is made anew where its size is not what is wanted; what is there is gone on with.
#[test]
fn an_empty_state_takes_the_size_that_is_wanted() {
    if loaded(1).is_none() {
        return;
    }
    let bpffs = Bpffs::new();
    let state = bpffs.state();
    for flows in [4, 8, 8] {
        let (packet, orphans) = open(&state, flows);
        assert!(orphans.is_empty());
        let slots: Vec<_> = std::iter::from_fn(|| packet.slot()).collect();
        assert_eq!(slots.len(), flows as usize);
    }
}

/// An agent that is killed while it tests the programs leaves a flow that nobody ever had.
#[test]
fn what_a_self_test_leaves_is_no_flow() {
    if loaded(1).is_none() {
        return;
    }
    let bpffs = Bpffs::new();
    let state = bpffs.state();
    let leave = |is_tested: bool| {
        let (packet, orphans) = open(&state, 4);
        let (slot, mut keys) = (packet.slot().expect("a slot"), packet.keys().expect("descriptors"));
        if is_tested {
            slot.disown();
        } else {
            slot.note_carried([0; 2], [0; 2]);
        }
        let mut flow = record(Family::V4, Phase::Spliced);
        // From one of the ports that are this agent's.
        flow.flow.to_server.ports = 61_000 << 16 | 443;
        slot.begin(flow);
        keys.publish(&slot).expect("nobody has them");
        std::mem::forget(slot);
        orphans.len()
    };
    assert_eq!(leave(true), 0);
    assert_eq!(leave(false), 0);
    let (packet, orphans) = open(&state, 4);
    assert_eq!((orphans.len(), packet.keys().expect("descriptors").entries()), (1, 2));
}

/// Which flows of an agent that is gone are taken up: those that have left user space, and whose line was not written.
#[test]
fn what_has_left_user_space_is_taken_up_unless_it_was_logged() {
    const SLOTS: u32 = 16;
    if loaded(1).is_none() {
        return;
    }
    let maps = Maps::create(SLOTS).expect("privileged");
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(u64::from(SLOTS) * ENTRY_WORDS as u64 * 8).expect("room");
    let records = || Records::map(&file, SLOTS).expect("files can be mapped");
    let ledger = || Ledger::new(&maps, SLOTS).expect("they were just made");
    let (entries, before) = (records(), ledger());
    let rows = [
        // Phase, whether it has carried something, whether it was told of and logged; whether it is taken up.
        (Phase::Track, false, true, false, false),
        (Phase::Armed, false, true, false, false),
        (Phase::Spliced, true, true, false, true),
        (Phase::Closing, true, true, false, true),
        // Made way for another, and nobody has heard.
        (Phase::Gone, true, true, false, true),
        // Left to its sockets for good.
        (Phase::Gone, false, true, false, false),
        (Phase::Gone, true, false, false, false),
        (Phase::Spliced, true, true, true, false),
        (Phase::Closing, true, true, true, false),
        // Nobody knows whose it is; it goes on all the same.
        (Phase::Spliced, true, false, false, true),
    ];
    for (slot, (phase, has_carried, is_told, is_logged, _)) in (0..).zip(rows) {
        entries.edit(slot, |record| {
            (record.flow.phase, record.flow.seen_ns) = (phase as u32, u64::from(has_carried));
        });
        before.note_carried(slot, [1, 2], [3, 4]);
        if is_told {
            before.tell(slot, b"once").expect("room");
        }
        if is_logged {
            before.note_logged(slot);
        }
    }
    // A kill leaves locks behind.
    (0..SLOTS).for_each(|slot| entries.hold_for_ever(slot));
    let (slots, orphans) = Slots::inherit(SLOTS, records(), ledger());
    for (slot, row) in (0..).zip(rows) {
        let found = orphans.iter().find(|orphan| orphan.slot.number() == slot);
        assert_eq!(found.is_some(), row.4, "{row:?}");
        if let Some(orphan) = found {
            let story: &[u8] = if row.2 { b"once" } else { b"" };
            assert_eq!((&orphan.story[..], orphan.slot.tally().copied), (story, [3, 4]), "{row:?}");
        } else {
            assert_eq!(entries.edit(slot, |record| record.flow.phase()), Phase::Gone, "{row:?}");
        }
    }
    // Nobody else has a story any more.
    let told: Vec<_> = ledger().stories().into_iter().map(|(slot, story, _)| (slot, story)).collect();
    let expected = orphans.iter().filter(|orphan| !orphan.story.is_empty());
    assert_eq!(told, expected.map(|orphan| (orphan.slot.number(), orphan.story.clone())).collect::<Vec<_>>());
    let free: Vec<_> = std::iter::from_fn(|| slots.take(std::time::Instant::now())).collect();
    assert_eq!(free.len() + orphans.len(), SLOTS as usize);
    // Dropped without being taken up, they are the next agent's; taken up, they are over.
    let count = orphans.len();
    drop((orphans, free, slots));
    let (_slots, again) = Slots::inherit(SLOTS, records(), ledger());
    assert_eq!(again.len(), count);
    again.iter().for_each(|orphan| orphan.slot.take_up());
    drop(again);
    assert!(Slots::inherit(SLOTS, records(), ledger()).1.is_empty());
}
