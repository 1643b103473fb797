// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A flow in the map, from a packet: found, locked, asked what becomes of the packet. What it answers is in `lb_common::packet`.
//!
//! The functions that are not inlined have a part of the stack for themselves: of the 512 bytes that a program and all that it calls have.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::packet::flow::{Misfit, Outgoing, Phase, Segment, Side, Verdict};
use lb_common::packet::ip::Addresses;
use lb_common::packet::record::{
    Counter, Entry, Key, LOCKED_BY_PROGRAM, QUIESCE, Record, UNLOCKED, Unfit, refused, side, slot,
};
use lb_common::packet::tcp::Translation;
use lb_common::packet::too_big::is_due;

use super::Fate;
use super::segment::read_at;
use super::skb::Skb;
use crate::maps::{PACKET_BELLS, PACKET_COUNTERS, PACKET_FLOWS, PACKET_KEYS};

/// How often a program tries to get a lock that somebody else has, each of which takes some ten nanoseconds at least. Nobody has it for longer than
/// all of them take, unless user space has lost its processor with it: what waits for that is dropped instead, and sent again. The verifier goes on
/// from each.
const TRIES: u32 = 64;

/// No place: there are not so many slots.
pub const NOWHERE: u32 = u32::MAX;

/// A flow in the map, and an end of it.
#[derive(Clone, Copy)]
pub struct Found {
    entry: *mut Entry,
    place: u32,
}

/// What becomes of a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It goes on as if nobody had looked.
    Passed,
    /// It is translated.
    Translated,
    /// Likewise passed, and nobody shall find the flow any more.
    Another,
    /// It tells its end how much room there is.
    Announced,
    /// It is dropped: there is no socket for it any more.
    Silenced,
    /// It is dropped: somebody else has the lock.
    LockedOut,
}

/// Finds a flow.
#[inline(always)]
pub fn find(key: &Key) -> Option<Found> {
    at(find_place(key))
}

/// Finds the place alone; [`NOWHERE`] if there is none.
#[inline(always)]
pub fn find_place(key: &Key) -> u32 {
    // SAFETY: the value is a number that user space writes before it can be found, and that never changes if it is a place.
    unsafe { PACKET_KEYS.get(key) }.copied().unwrap_or(NOWHERE)
}

/// Finds what a SYN may offer, by its key from anywhere.
#[inline(always)]
pub fn find_offer(key: &Key) -> Option<*mut u32> {
    PACKET_KEYS.get_ptr_mut(key)
}

/// The flow at a place.
#[inline(always)]
pub fn at(place: u32) -> Option<Found> {
    let entry = PACKET_FLOWS.get_ptr_mut(slot(place))?;
    Some(Found { entry, place })
}

/// Lets nobody find the flow any more.
#[inline(never)]
pub fn forget(found: Found) {
    // SAFETY: the record lies in a map's value (see `find`). What keys are made of does not change while the flow can be found.
    let record = unsafe { &*found.record() };
    // User space may have been faster.
    let _ = PACKET_KEYS.remove(record.key(Side::Client));
    let _ = PACKET_KEYS.remove(record.key(Side::Server));
}

/// What becomes of a segment that came from the end, and was made of so many.
#[inline(never)]
pub fn judge(found: Found, segment: &Segment, segments: u32) -> Judgement {
    // SAFETY: the helper takes nothing and returns the time since boot.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if !found.lock() {
        return Judgement::LockedOut;
    }
    let received = found.held().received(found.side(), segment, segments, now_ns);
    found.unlock();
    if received.calls {
        found.ring();
    }
    match received.verdict {
        Verdict::ToSocket | Verdict::Disarmed => Judgement::Passed,
        Verdict::Flipped | Verdict::Translated => Judgement::Translated,
        Verdict::Another => Judgement::Another,
    }
}

/// What becomes of a segment that the balancer's socket sends to the end by an interface.
#[inline(never)]
pub fn watch(found: Found, segment: &Segment, interface: u32) -> Judgement {
    if !found.lock() {
        return Judgement::LockedOut;
    }
    let sent = found.held().sent(found.side(), segment, interface);
    found.unlock();
    if sent.calls {
        found.ring();
    }
    match sent.outgoing {
        Outgoing::Sent if sent.announces => Judgement::Announced,
        Outgoing::Sent | Outgoing::Disarmed => Judgement::Passed,
        Outgoing::Silenced => Judgement::Silenced,
    }
}

/// What becomes of a packet that nobody here understands, for a reason with this code: one that the balancer's socket sends.
#[inline(never)]
pub fn misfit(found: Found, code: u32) -> Fate {
    if !found.lock() {
        return counted(Counter::LockedOut, Fate::Dropped);
    }
    let unfit = found.held().misfit(code);
    found.unlock();
    handle(found, unfit, code)
}

/// Likewise of one that came from the end, and whose segment begins at an offset.
#[inline(never)]
pub fn misfit_of_end(skb: Skb, found: Found, at: u32, code: u32) -> Fate {
    let segment = read_at(skb, at);
    // SAFETY: as in `judge`.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if !found.lock() {
        return counted(Counter::LockedOut, Fate::Dropped);
    }
    let unfit = found.held().misfit_of_end(found.side(), &segment, code, now_ns);
    found.unlock();
    handle(found, unfit, code)
}

#[inline(always)]
fn handle(found: Found, unfit: Unfit, code: u32) -> Fate {
    if unfit.calls {
        found.ring();
    }
    match unfit.misfit {
        Misfit::ToSocket | Misfit::Abandoned => counted(Counter::Passed, Fate::Passed),
        Misfit::Dropped => {
            count(refused(code));
            Fate::Dropped
        }
    }
}

/// Gets a lock; whether it did. By itself, so that the verifier forgets how often it took before it goes on.
#[inline(never)]
fn lock(word: *mut u64) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the word lies in a map's value (see `find`), and everybody changes it atomically.
        let (_, is_mine) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Relaxed }>(
                word,
                UNLOCKED,
                LOCKED_BY_PROGRAM,
            )
        };
        if is_mine {
            return true;
        }
    }
    false
}

/// Counts a packet, and returns what becomes of it.
#[inline(always)]
pub fn counted(counter: Counter, fate: Fate) -> Fate {
    count(counter as u32);
    fate
}

/// Counts a packet by the number of its counter.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(number) = PACKET_COUNTERS.get_ptr_mut(counter) {
        // SAFETY: `number` is this processor's part of a map's value, and nobody else writes it. The kernel does not run two programs of this
        // kind on one processor at the same time (net/core/dev.c, with bottom halves off); a kernel for real time may, and a packet is
        // not counted then.
        unsafe { *number += 1 };
    }
}

impl Found {
    /// The end.
    #[inline(always)]
    pub fn side(self) -> Side {
        side(self.place)
    }

    /// Where the flow is in its life, if nobody changes it just now.
    #[inline(always)]
    pub fn phase(self) -> Phase {
        // SAFETY: `record` lies in a map's value (see `find`), which lives as long as the program runs; the word is read whole.
        Phase::from_index(unsafe { (&raw const (*self.record()).flow.phase).read_volatile() })
    }

    /// Whether the balancer's sockets shall announce no room.
    #[inline(always)]
    pub fn is_quiescing(self) -> bool {
        // SAFETY: as in `phase`.
        unsafe { (&raw const (*self.record()).flags).read_volatile() & QUIESCE != 0 }
    }

    /// By which interface packets leave that come from a side.
    #[inline(always)]
    pub fn interface(self, from: Side) -> u32 {
        let record = self.record();
        // SAFETY: as in `phase`.
        unsafe {
            match from {
                Side::Client => (&raw const (*record).to_server.interface).read_volatile(),
                Side::Server => (&raw const (*record).to_client.interface).read_volatile(),
            }
        }
    }

    /// Whether the end may be told now that what it sends is too large; from then on it is not, for a while.
    #[inline(always)]
    pub fn may_be_told(self) -> bool {
        let record = self.record();
        // SAFETY: as in `phase`; nobody else but programs writes the word, and whoever reads it reads it whole.
        unsafe {
            let told = match self.side() {
                Side::Client => &raw mut (*record).to_server.told_ms,
                Side::Server => &raw mut (*record).to_client.told_ms,
            };
            // The helper takes nothing and returns the time since boot.
            let now_ms = (bpf_ktime_get_ns() / 1_000_000) as u32;
            let is_due = is_due(now_ms, told.read_volatile());
            if is_due {
                told.write_volatile(now_ms);
            }
            is_due
        }
    }

    /// What the packets get that come from a side.
    #[inline(always)]
    pub fn addresses<'a>(self, from: Side) -> &'a Addresses<[u32; 4]> {
        let record = self.record();
        // SAFETY: they lie in a map's value (see `find`), which lives as long as the program runs, and nobody changes them from the flip on until
        // long after the flow can be found no more.
        unsafe {
            match from {
                Side::Client => &(*record).to_server.addresses,
                Side::Server => &(*record).to_client.addresses,
            }
        }
    }

    /// What the packets are translated by that come from a side.
    #[inline(always)]
    pub fn translation<'a>(self, from: Side) -> &'a Translation {
        let record = self.record();
        // SAFETY: as in `addresses`.
        unsafe {
            match from {
                Side::Client => &(*record).flow.to_server,
                Side::Server => &(*record).flow.to_client,
            }
        }
    }

    #[inline(always)]
    fn record(self) -> *mut Record {
        // SAFETY: `entry` points to a map's value (see `find`), in which the record lies.
        unsafe { &raw mut (*self.entry).record }
    }

    /// The record, for who has the lock.
    #[inline(always)]
    fn held<'a>(self) -> &'a mut Record {
        // SAFETY: it lies in a map's value (see `find`), which lives as long as the program runs. The caller has the lock, without which nobody
        // changes it, and takes one reference. What others read meanwhile they read by words.
        unsafe { &mut *self.record() }
    }

    /// Gets the lock; whether it did.
    #[inline(always)]
    fn lock(self) -> bool {
        // SAFETY: as in `record`.
        lock(unsafe { &raw mut (*self.entry).lock })
    }

    /// Gives it back.
    #[inline(always)]
    fn unlock(self) {
        // SAFETY: as in `lock`.
        let before = unsafe {
            let word = &raw mut (*self.entry).lock;
            atomic_xchg::<u64, { AtomicOrdering::AcqRel }>(word, UNLOCKED)
        };
        core::hint::black_box(before);
    }

    /// Calls user space. There is always room: see [`lb_common::packet::record::BELLS_PER_SLOT`].
    #[inline(always)]
    fn ring(self) {
        let _ = PACKET_BELLS.output::<u32>(slot(self.place), 0);
    }
}
