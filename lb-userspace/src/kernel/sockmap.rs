// SPDX-License-Identifier: MIT OR Apache-2.0
//! What path `sockmap` has in the kernel: maps and two programs, loaded once. Working with them needs no privilege.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use aya::maps::{HashMap, Map, MapData, MapError, RingBuf, SockMap};
use aya::programs::{SkSkb, SocketFilter};
use aya::{Ebpf, EbpfLoader};
use lb_common::layout::{
    Allowed, BELL_BYTES, BELLS, COPIED_SEQ_OFFSET, DIRECTIONS, HOOKS, Moved, OVERDRAFT, OVERDRAFT_MAX, SLOTS,
    SOCKMAP_FILTER, SOCKMAP_VERDICT, TARGETS, WRITE_SEQ_OFFSET,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::btf;
use super::directions::Directions;
#[cfg(feature = "bpf-log")]
use super::messages::Messages;
use super::seats::{Seat, Seats};
use super::{LoadError, absent, duplicate, errno, from_map, from_program, take};
use crate::privileges::Lack;

/// BPF_NOEXIST (include/uapi/linux/bpf.h): an entry must not be there yet.
const NO_EXIST: u64 = 1;

/// Calls of one slot that may wait in the ring buffer at the same time.
const CALLS_MAX: u32 = 4;

/// Most slots: the array of directions is memory that the kernel allocates at once, 256 bytes each.
const SLOTS_LIMIT: u32 = 1 << 20;

/// The kernel's side of the path. Dropping it detaches the program from the map; sockets that are inside keep it.
#[derive(Debug)]
pub struct Sockmap {
    seats: Arc<Seats>,
    maps: MapFds,
    filter: OwnedFd,
    /// Holds the programs.
    _ebpf: Ebpf,
}

/// Descriptors of the maps that user space writes.
#[derive(Debug)]
struct MapFds {
    slots: OwnedFd,
    targets: OwnedFd,
    hooks: OwnedFd,
}

/// The maps as one thread writes them.
pub struct Maps {
    slots: HashMap<MapData, u64, u32>,
    targets: SockMap<MapData>,
    hooks: SockMap<MapData>,
}

/// The program's calls, for the one thread that waits for them.
pub struct Calls {
    ring: RingBuf<MapData>,
    #[cfg(feature = "bpf-log")]
    messages: Messages,
    seats: Arc<Seats>,
}

/// Why the kernel did not take a socket into a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not established any more: the peer has sent its FIN or a RST (net/core/sock_map.c, sock_map_sk_state_allowed).
    NotEstablished,
    /// Something else holds the socket, the kernel lacks memory, or the map is full.
    Kernel(Errno),
}

impl Sockmap {
    /// Loads object and maps for so many flows at the same time, and attaches the program. All flows together may have so many bytes of
    /// cost waiting beyond their shares.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(object: &[u8], flows: u32, overdraft_max: u64) -> Result<(Self, Calls), LoadError> {
        let tcp_sock = btf::tcp_sock().map_err(LoadError::NoBtf)?;
        let slots = flows.saturating_mul(2).clamp(2, SLOTS_LIMIT);
        let ring_bytes =
            (slots * BELL_BYTES * CALLS_MAX).next_power_of_two().max(rustix::param::page_size() as u32);
        let mut loader = EbpfLoader::new();
        loader.override_global(WRITE_SEQ_OFFSET, &tcp_sock.write_seq, true);
        loader.override_global(COPIED_SEQ_OFFSET, &tcp_sock.copied_seq, true);
        loader.override_global(OVERDRAFT_MAX, &overdraft_max, true);
        for map in [SLOTS, DIRECTIONS, TARGETS, HOOKS] {
            loader.map_max_entries(map, slots);
        }
        loader.map_max_entries(BELLS, ring_bytes);
        let mut ebpf = loader.load(object).map_err(LoadError::from_ebpf)?;
        let hooks = take(&mut ebpf, HOOKS)?;
        attach(&mut ebpf, &hooks)?;
        let filter = load_filter(&mut ebpf)?;
        let maps = MapFds {
            slots: duplicate(&take(&mut ebpf, SLOTS)?)?,
            targets: duplicate(&take(&mut ebpf, TARGETS)?)?,
            hooks: duplicate(&hooks)?,
        };
        let (directions, overdraft) = (take(&mut ebpf, DIRECTIONS)?, take(&mut ebpf, OVERDRAFT)?);
        let directions = Directions::map(directions.fd().as_fd(), slots, overdraft.fd().as_fd());
        let seats = Seats::new(slots, directions.map_err(LoadError::Memory)?);
        let ring = Map::RingBuf(take(&mut ebpf, BELLS)?).try_into().map_err(from_map)?;
        let calls = Calls {
            ring,
            #[cfg(feature = "bpf-log")]
            messages: Messages::of(&mut ebpf)?,
            seats: Arc::clone(&seats),
        };
        Ok((Self { seats, maps, filter, _ebpf: ebpf }, calls))
    }

    /// The maps, for one more thread.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn maps(&self) -> Result<Maps, LoadError> {
        let again =
            |fd: &OwnedFd| MapData::from_fd(fd.try_clone().map_err(LoadError::Memory)?).map_err(from_map);
        Ok(Maps {
            slots: Map::HashMap(again(&self.maps.slots)?).try_into().map_err(from_map)?,
            targets: Map::SockMap(again(&self.maps.targets)?).try_into().map_err(from_map)?,
            hooks: Map::SockMap(again(&self.maps.hooks)?).try_into().map_err(from_map)?,
        })
    }

    /// A free place for a flow, its counters at zero.
    pub fn seat(&self) -> Option<Seat> {
        self.seats.take()
    }

    /// Wakes the flow with this number.
    pub fn wake(&self, number: u32) {
        self.seats.wake(number);
    }

    /// What the program has counted.
    pub fn moved(&self, slot: u32) -> Moved {
        self.seats.directions.moved(slot)
    }

    /// Tells the program what it may do.
    pub fn allow(&self, slot: u32, allowed: &Allowed) {
        self.seats.directions.allow(slot, allowed);
    }

    /// Has the filter turn a slot's segments away until the next [`Self::allow`].
    pub fn turn_away(&self, slot: u32) {
        self.seats.directions.turn_away(slot);
    }

    /// How many segments TCP has had or will have; see [`Directions::admitted`].
    pub fn admitted(&self, slot: u32) -> u64 {
        self.seats.directions.admitted(slot)
    }

    /// The last round in which a segment was turned away for want of memory; see [`Directions::crowded_out`].
    pub fn crowded_out(&self, slot: u32) -> u64 {
        self.seats.directions.crowded_out(slot)
    }

    /// Takes back from the overdraft what a direction does not need of it any more; see [`Directions::take_back`].
    pub fn take_back(&self, slot: u32, all_but: u64) {
        self.seats.directions.take_back(slot, all_but);
    }

    /// What all directions together have waiting beyond their shares, in bytes of cost.
    pub fn overdraft(&self) -> u64 {
        self.seats.directions.overdraft()
    }

    /// The object, for tests.
    #[cfg(test)]
    pub fn ebpf(&self) -> &Ebpf {
        &self._ebpf
    }

    /// The program that turns segments away, for [`crate::net::filter`].
    pub fn filter(&self) -> &OwnedFd {
        &self.filter
    }
}

impl Maps {
    /// Lets the program find a socket's slot.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn name(&mut self, cookie: u64, slot: u32) -> Result<(), Refusal> {
        self.slots.insert(cookie, slot, NO_EXIST).map_err(Refusal::from_map)
    }

    /// Sets where the bytes of a slot go.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn aim(&mut self, slot: u32, target: &OwnedFd) -> Result<(), Refusal> {
        self.targets.set(slot, target, NO_EXIST).map_err(Refusal::from_map)
    }

    /// Lets the program judge what a socket receives from now on; see also [`crate::net::kick`].
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn hook(&mut self, slot: u32, socket: &OwnedFd) -> Result<(), Refusal> {
        self.hooks.set(slot, socket, NO_EXIST).map_err(Refusal::from_map)
    }

    /// Ends [`Self::hook`]: what comes from now on stays in the socket's receive queue.
    pub fn unhook(&mut self, slot: u32) {
        // It may be out already: closing takes a socket out of all maps.
        let _ = self.hooks.clear_index(&slot);
    }

    /// Takes a slot and its socket's cookie out of the maps. Bytes on their way to its target are lost if no other map holds that.
    pub fn forget(&mut self, cookie: u64, slot: u32) {
        self.unhook(slot);
        // As there.
        let _ = self.slots.remove(&cookie);
        let _ = self.targets.clear_index(&slot);
    }

    /// Sockets and names in the maps, for tests.
    #[cfg(test)]
    pub fn entries(&self) -> usize {
        self.slots.keys().count()
    }
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl Calls {
    /// Wakes the flows that the program calls, and logs what it says, for ever.
    pub fn serve(mut self) {
        loop {
            while let Some(call) = self.ring.next() {
                if let Ok(slot) = <[u8; 4]>::try_from(&*call) {
                    self.seats.ring(u32::from_ne_bytes(slot));
                }
            }
            #[cfg(feature = "bpf-log")]
            self.messages.log();
            let mut fds = [
                PollFd::new(&self.ring, PollFlags::IN),
                #[cfg(feature = "bpf-log")]
                PollFd::new(&self.messages, PollFlags::IN),
            ];
            // An interruption is as good as a call.
            let _ = poll(&mut fds, None);
        }
    }
}

impl Refusal {
    fn from_map(error: MapError) -> Self {
        match errno(&error) {
            Some(Errno::OPNOTSUPP) => Self::NotEstablished,
            other => Self::Kernel(other.unwrap_or(Errno::INVAL)),
        }
    }
}

fn attach(ebpf: &mut Ebpf, hooks: &MapData) -> Result<(), LoadError> {
    let hooks: SockMap<MapData> =
        Map::SockMap(MapData::from_fd(duplicate(hooks)?).map_err(from_map)?).try_into().map_err(from_map)?;
    let program = ebpf.program_mut(SOCKMAP_VERDICT).ok_or_else(|| absent("program", SOCKMAP_VERDICT))?;
    let verdict: &mut SkSkb = program.try_into().map_err(from_program)?;
    // The maps are there: the other two capabilities are, too. Without this one the kernel does not know the helper that looks into a
    // socket (net/core/filter.c, bpf_sk_base_func_proto).
    if !may_look_into_sockets() {
        return Err(LoadError::NoPrivilege(Lack::of_this_thread()));
    }
    verdict.load().map_err(from_program)?;
    verdict.attach(hooks.fd()).map_err(from_program)?;
    Ok(())
}

fn load_filter(ebpf: &mut Ebpf) -> Result<OwnedFd, LoadError> {
    let program = ebpf.program_mut(SOCKMAP_FILTER).ok_or_else(|| absent("program", SOCKMAP_FILTER))?;
    let filter: &mut SocketFilter = program.try_into().map_err(from_program)?;
    filter.load().map_err(from_program)?;
    let filter = filter.fd().map_err(from_program)?;
    filter.as_fd().try_clone_to_owned().map_err(LoadError::Memory)
}

/// Whether this thread has CAP_PERFMON, or CAP_SYS_ADMIN, which implies it (capabilities(7)).
fn may_look_into_sockets() -> bool {
    let enough = CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN;
    capabilities(None).is_ok_and(|sets| sets.effective.intersects(enough))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_the_peer_has_gone() {
        let refused = |errno: Errno| {
            let error = aya::sys::SyscallError { call: "bpf_map_update_elem", io_error: errno.into() };
            Refusal::from_map(error.into())
        };
        assert_eq!(refused(Errno::OPNOTSUPP), Refusal::NotEstablished);
        assert_eq!(refused(Errno::BUSY), Refusal::Kernel(Errno::BUSY));
    }
}
