// SPDX-License-Identifier: MIT OR Apache-2.0
//! What path `packet` has in the kernel: maps and four programs, loaded once. What they decide is in `lb_common::packet`, what lies in the
//! maps in `lb_common::packet::record`.
//!
//! A flow is watched from when its agent says so, and not before: [`Slot::begin`] and [`Keys::publish`]. Flows that end soon cost nothing.

mod attach;
mod counters;
mod keys;
mod records;
mod slots;

use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use lb_common::packet::record::{
    BELL_BYTES, BELLS_PER_SLOT, COUNTERS, PACKET_BELLS, PACKET_COUNTERS, PACKET_EGRESS, PACKET_EGRESS_L3,
    PACKET_FLOWS, PACKET_INGRESS, PACKET_INGRESS_L3, PACKET_KEYS,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{LoadError, absent, duplicate, from_map, from_program, take};
use records::Records;
use slots::Slots;

pub use attach::{AttachError, Attachment};
pub use counters::{Counters, Counts};
pub use keys::{KeyRefusal, Keys, family, ports, way};
pub use slots::Slot;

/// Most slots: the array of flows is memory that the kernel allocates at once, 320 bytes each.
const SLOTS_LIMIT: u32 = 1 << 20;

/// The programs.
const PROGRAMS: [&str; 4] = [PACKET_INGRESS, PACKET_INGRESS_L3, PACKET_EGRESS, PACKET_EGRESS_L3];

/// The kernel's side of the path. Dropping it leaves programs where they are attached, with the maps.
#[derive(Debug)]
pub struct Packet {
    slots: Arc<Slots>,
    keys: OwnedFd,
    counters: OwnedFd,
    /// Holds the programs.
    ebpf: Ebpf,
}

/// The programs' calls, for the one thread that waits for them.
pub struct Bells {
    ring: RingBuf<MapData>,
    slots: Arc<Slots>,
}

impl Packet {
    /// Loads object, maps and programs for so many flows at the same time. Nothing is attached yet.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(object: &[u8], flows: u32) -> Result<(Self, Bells), LoadError> {
        let count = flows.clamp(1, SLOTS_LIMIT);
        let ring_bytes =
            (count * BELL_BYTES * BELLS_PER_SLOT).next_power_of_two().max(rustix::param::page_size() as u32);
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(PACKET_KEYS, count * 2);
        loader.map_max_entries(PACKET_FLOWS, count);
        loader.map_max_entries(PACKET_COUNTERS, COUNTERS);
        loader.map_max_entries(PACKET_BELLS, ring_bytes);
        let mut ebpf = loader.load(object).map_err(LoadError::from_ebpf)?;
        for name in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or_else(|| absent("program", name))?;
            let program: &mut SchedClassifier = program.try_into().map_err(from_program)?;
            program.load().map_err(from_program)?;
        }
        let records = Records::map(take(&mut ebpf, PACKET_FLOWS)?.fd().as_fd(), count);
        let slots = Slots::new(count, records.map_err(LoadError::Memory)?);
        let ring = Map::RingBuf(take(&mut ebpf, PACKET_BELLS)?).try_into().map_err(from_map)?;
        let bells = Bells { ring, slots: Arc::clone(&slots) };
        let keys = duplicate(&take(&mut ebpf, PACKET_KEYS)?)?;
        let counters = duplicate(&take(&mut ebpf, PACKET_COUNTERS)?)?;
        Ok((Self { slots, keys, counters, ebpf }, bells))
    }

    /// Attaches the programs to an interface of this network namespace, by its name: they see all that comes in there and goes out.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&mut self, interface: &str) -> Result<Attachment, AttachError> {
        attach::attach(&mut self.ebpf, interface)
    }

    /// A free slot, if there is one.
    pub fn slot(&self) -> Option<Slot> {
        self.slots.take(Instant::now())
    }

    /// The map of keys, for one more thread.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn keys(&self) -> Result<Keys, LoadError> {
        let map = Map::HashMap(again(&self.keys)?);
        Ok(Keys::new(map.try_into().map_err(from_map)?))
    }

    /// What the programs count.
    ///
    /// # Errors
    /// As [`Self::keys`].
    pub fn counters(&self) -> Result<Counters, LoadError> {
        let map = Map::PerCpuArray(again(&self.counters)?);
        Ok(Counters::new(map.try_into().map_err(from_map)?))
    }
}

fn again(fd: &OwnedFd) -> Result<MapData, LoadError> {
    MapData::from_fd(fd.try_clone().map_err(LoadError::Memory)?).map_err(from_map)
}

impl Bells {
    /// Wakes the flows that programs call, for ever.
    pub fn serve(mut self) {
        loop {
            self.answer();
            self.wait(None);
        }
    }

    /// Waits for a call, or for so long; whether there was one.
    fn wait(&self, patience: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&self.ring, PollFlags::IN)];
        // An interruption is as good as a call.
        poll(&mut fds, patience) != Ok(0)
    }

    /// Wakes the flows that programs have called by now.
    fn answer(&mut self) {
        while let Some(call) = self.ring.next() {
            if let Ok(slot) = <[u8; 4]>::try_from(&*call) {
                self.slots.ring(u32::from_ne_bytes(slot));
            }
        }
    }
}

impl fmt::Debug for Bells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bells").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
