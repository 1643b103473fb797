// SPDX-License-Identifier: MIT OR Apache-2.0
//! What path `packet` has in the kernel: maps and four programs, loaded once. What they decide is in `lb_common::packet`, what lies in the
//! maps in `lb_common::packet::record`.
//!
//! A flow is watched from when its agent says so, and not before: [`Slot::begin`] and [`Keys::publish`]. Flows that end soon cost nothing.
//! Maps and programs may outlive the agent: [`kept`].

mod attach;
mod counters;
mod hooks;
mod interfaces;
pub mod kept;
mod keys;
mod ledger;
mod open;
mod records;
mod resets;
mod self_test;
mod slots;
mod vacancies;
mod ways;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use lb_common::packet::record::{PACKET_EGRESS, PACKET_EGRESS_L3, PACKET_INGRESS, PACKET_INGRESS_L3};
use prometheus_client::metrics::gauge::Gauge;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{LoadError, Step, from_map, load_packet};
use crate::net::claim::Claim;
use crate::net::routes::Routes;
use hooks::Hooks;
use kept::Keeper;
use slots::Slots;

pub use attach::{AttachError, Attachment, has_known_packets};
pub use counters::{Counters, Counts};
pub use interfaces::Interfaces;
pub use keys::{KeyRefusal, Keys, Opening, connections, ends, family, ports, way};
pub use ledger::{PART_BYTES, STORY_BYTES, Tally};
pub use open::{OpenError, OpenTerms};
pub use resets::{Outcome, Resets};
pub use slots::{Listed, Orphan, Receipt, Slot};

/// The programs.
const PROGRAMS: [&str; 4] = [PACKET_INGRESS, PACKET_INGRESS_L3, PACKET_EGRESS, PACKET_EGRESS_L3];

/// The kernel's side of the path. Dropping it leaves programs where they are attached, with the maps.
#[derive(Debug)]
pub struct Packet {
    slots: Arc<Slots>,
    keys: OwnedFd,
    counters: OwnedFd,
    programs: Mutex<Programs>,
    keeper: Keeper,
    /// Its ports, on this host.
    claim: Option<Claim>,
    /// `None`: the kernel does not let it ask, and flows stay where they are.
    routes: Option<Routes>,
    /// Whether no agent follows for whom anything would be kept.
    is_last: AtomicBool,
}

/// The programs, and by what they are at interfaces.
#[derive(Debug)]
struct Programs {
    /// Holds them.
    ebpf: Ebpf,
    hooks: Hooks,
}

/// The programs' calls, for the one thread that waits for them.
pub struct Bells {
    ring: RingBuf<MapData>,
    slots: Arc<Slots>,
}

impl Packet {
    /// Attaches the programs to an interface of this network namespace, by its name: they see all that comes in there and goes out. Those that
    /// another agent has left there make way for them, without missing a packet. To be called once for an interface. By links it takes no
    /// capability (kernel/bpf/tcx.c), by filters CAP_NET_ADMIN (net/sched): loading is what takes the others.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, interface: &str) -> Result<Attachment, AttachError> {
        attach::attach(&mut self.programs(), &self.keeper, interface)
    }

    /// Whether programs are not at their interface any more: only if the kernel says so, and not where it, or the process, lacks something to
    /// find out.
    pub fn is_gone(&self, attachment: &Attachment) -> bool {
        self.routes.as_ref().is_some_and(|routes| attachment.is_gone(routes))
    }

    /// Bytes that packets may have which the programs' interface makes of several that it has received; `None`: the kernel does not say.
    fn received_bytes(&self, attachment: &Attachment) -> Option<u32> {
        self.routes.as_ref()?.received_bytes(attachment.number())
    }

    /// Lets go of what was at an interface that is gone.
    pub fn bury(&self, attachment: Attachment) {
        self.programs().hooks.bury(&self.keeper, attachment.number());
        attachment.bury();
    }

    /// The interfaces at which another agent has left programs that were not replaced yet.
    pub fn left_interfaces(&self) -> Vec<String> {
        self.programs().hooks.left_interfaces()
    }

    /// Takes off the programs that another agent has left and that were not replaced.
    pub fn detach_rest(&self) {
        self.programs().hooks.detach_rest(&self.keeper);
    }

    /// What says on this host that its ports are in use.
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// Who has maps and programs when the agent is gone.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Whether maps, programs and flows outlive the agent.
    pub fn outlives(&self) -> bool {
        self.keeper.keeps() && !self.is_last.load(Ordering::Relaxed)
    }

    /// Says whether this is the last agent: then nothing outlives it.
    pub fn be_last(&self, is_last: bool) {
        self.is_last.store(is_last, Ordering::Relaxed);
    }

    /// Lets nobody keep anything.
    pub fn clear(&self) {
        let links = self.programs().hooks.names();
        self.keeper.clear(links.into_iter().chain(open::NAMES.map(str::to_owned)));
    }

    fn programs(&self) -> MutexGuard<'_, Programs> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes by which of the interfaces by which packets of a flow leave they do so because the routes say so: see [`Self::reroute`]. Whether none
    /// leaves by one that the routes do not say: programs would not find the next hop there. To be called when they have seen both.
    pub fn note_routed(&self, slot: &Slot) -> bool {
        let Some(routes) = &self.routes else { return true };
        self.slots.note_routed(slot.number(), |from, to| routes.interface(from, to))
    }

    /// The flows that programs carry.
    pub fn listed(&self) -> Vec<Listed> {
        self.slots.listed()
    }

    /// Has packets leave by other interfaces: those that are said for the addresses from and to which they go, where one is. How many flows that
    /// were. What has left by an interface that the routes did not say stays there, unless that one is lost; what is bound to one stays, unless that has a successor.
    pub fn reroute(
        &self,
        interface: impl FnMut(SocketAddr, SocketAddr) -> Option<u32>,
        is_lost: impl FnMut(u32) -> bool,
        successor: impl FnMut(u32) -> Option<u32>,
    ) -> u32 {
        self.slots.reroute(interface, is_lost, successor)
    }

    /// A free slot, if there is one.
    pub fn slot(&self) -> Option<Slot> {
        self.slots.take(Instant::now())
    }

    /// Shows from here on how many slots are taken.
    pub fn show_taken(&self, taken: Gauge) {
        self.slots.show_taken(taken);
    }

    /// The map of keys, for one more thread.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn keys(&self) -> Result<Keys, LoadError> {
        open::keys(&self.keys)
    }

    /// Tries whether the kernel does what the path relies on, and tells each step that it passes; see [`self_test`]. Whatever flows another agent
    /// has left are not touched. To be called with all privileges.
    ///
    /// # Errors
    /// [`LoadError::SelfTest`]; or, where flows have every slot, that the programs cannot be loaded once more.
    pub fn test(&self, passed: &mut dyn FnMut(Step)) -> Result<(), LoadError> {
        if let Some(slot) = self.slot() {
            return self_test::run(self, &slot, passed).map_err(LoadError::SelfTest);
        }
        let (other, _bells) = load_packet(1)?;
        let slot = other.slot().ok_or_else(|| LoadError::Memory(io::ErrorKind::Other.into()))?;
        self_test::run(&other, &slot, passed).map_err(LoadError::SelfTest)
    }

    /// What the programs count.
    ///
    /// # Errors
    /// As [`Self::keys`].
    pub fn counters(&self) -> Result<Counters, LoadError> {
        open::counters(&self.counters)
    }
}

fn again(fd: &OwnedFd) -> Result<MapData, LoadError> {
    MapData::from_fd(fd.as_fd().try_clone_to_owned().map_err(LoadError::Memory)?).map_err(from_map)
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
