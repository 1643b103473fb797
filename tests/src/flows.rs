// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the programs of path `packet` know of flows: what lies in their maps, whether an agent runs or not.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::Path;

use lb_common::packet::flow::{Flow, Phase, Side};
use lb_common::packet::record::{
    Entry, KEY_WORDS, Key, PACKET_FLOWS, PACKET_INGRESS, PACKET_KEYS, Record, STALLED, Way, side, slot,
    v4_mapped,
};

use crate::kernel::{bpftool, bytes, maps};
use crate::process::Process;

/// The maps.
#[derive(Clone, Debug)]
pub struct FlowMaps {
    /// By which bpftool knows them.
    keys: [String; 2],
    flows: [String; 2],
}

/// A flow that is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// All that is kept of it.
    pub record: Vec<u8>,
    /// Of that, what the programs decide by.
    pub flow: Vec<u8>,
    /// [`Record::stalled_ms`]
    pub stalled_ms: u64,
    /// [`STALLED`]
    pub is_stalled: bool,
    /// Segments that they have translated, from the client and from the server.
    pub segments: [u64; 2],
}

impl FlowMaps {
    /// Those of an agent.
    ///
    /// # Panics
    /// It has none, for the path is off.
    #[track_caller]
    pub fn of(process: &Process) -> Self {
        let maps = maps(process, PACKET_INGRESS);
        let [keys, flows] = [PACKET_KEYS, PACKET_FLOWS].map(|name| ["id".to_owned(), maps[name].clone()]);
        Self { keys, flows }
    }

    /// Those that outlive agents in a directory.
    pub fn kept(place: &Path) -> Self {
        let [keys, flows] = ["keys", "flows"]
            .map(|name| ["pinned".to_owned(), place.join(name).to_string_lossy().into_owned()]);
        Self { keys, flows }
    }

    /// How many connections the programs know.
    #[track_caller]
    pub fn keys(&self) -> usize {
        self.dump().len()
    }

    /// The flows that they carry, by the port of the client.
    #[track_caller]
    pub fn carried(&self) -> BTreeMap<u16, FlowState> {
        let clients = self.dump().into_iter().filter_map(|(key, place)| {
            // A SYN that is on its way has a key, too, from anywhere.
            let is_connection = ![v4_mapped(0), [0; 4]].contains(&key.local);
            let port = u16::try_from(key.ports >> 16).expect("half a word");
            (is_connection && side(place) == Side::Client).then(|| (port, slot(place)))
        });
        let carried = |(port, slot): (u16, u32)| {
            let entry = self.entry(slot);
            let phase = number(&entry, RECORD + offset_of!(Record, flow) + offset_of!(Flow, phase), 4);
            let is_carried = [Phase::Spliced, Phase::Closing].map(|phase| phase as u64).contains(&phase);
            is_carried.then(|| (port, FlowState::of(&entry)))
        };
        clients.filter_map(carried).collect()
    }

    #[track_caller]
    fn dump(&self) -> Vec<(Key, u32)> {
        let [kind, name] = &self.keys;
        let entries = bpftool(&["map", "dump", kind, name]);
        let entries = entries.as_array().expect("bpftool prints an array").iter();
        entries
            .map(|entry| {
                let key: [u32; KEY_WORDS] = words(&bytes(&entry["key"])).try_into().expect("a key");
                let [a, b, c, d, e, f, g, h, ports, family] = key;
                let key = Key { remote: [a, b, c, d], local: [e, f, g, h], ports, family };
                (key, words(&bytes(&entry["value"]))[0])
            })
            .collect()
    }

    /// What lies in a slot.
    #[track_caller]
    fn entry(&self, slot: u32) -> Vec<u8> {
        let [kind, name] = &self.flows;
        let key = slot.to_ne_bytes().map(|byte| byte.to_string());
        let mut arguments = vec!["map", "lookup", kind, name, "key"];
        arguments.extend(key.iter().map(String::as_str));
        let entry = bytes(&bpftool(&arguments)["value"]);
        assert_eq!(entry.len(), size_of::<Entry>());
        entry
    }
}

/// Where the record begins in an entry.
const RECORD: usize = offset_of!(Entry, record);

impl FlowState {
    fn of(entry: &[u8]) -> Self {
        let flow = RECORD + offset_of!(Record, flow);
        let segments = [offset_of!(Record, to_server), offset_of!(Record, to_client)];
        Self {
            record: entry[RECORD..RECORD + size_of::<Record>()].to_vec(),
            is_stalled: number(entry, RECORD + offset_of!(Record, flags), 4) & u64::from(STALLED) != 0,
            stalled_ms: number(entry, RECORD + offset_of!(Record, stalled_ms), 4),
            flow: entry[flow..flow + size_of::<Flow>()].to_vec(),
            segments: segments.map(|way| number(entry, RECORD + way + offset_of!(Way, segments), 8)),
        }
    }
}

/// A number of so many bytes, at most 8, somewhere.
fn number(entry: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    let room = if cfg!(target_endian = "little") { 0..len } else { 8 - len..8 };
    word[room].copy_from_slice(&entry[at..at + len]);
    u64::from_ne_bytes(word)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().expect("4 bytes"))).collect()
}
