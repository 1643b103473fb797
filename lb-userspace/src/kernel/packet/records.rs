// SPDX-License-Identifier: MIT OR Apache-2.0
//! The array of flows in this process's memory.
//!
//! Whoever changes a record holds its lock, a program as well as user space, and programs drop a packet rather than wait for long. So
//! it is held for a few assignments only. Should the agent be killed with it, the packets of that flow are dropped until the next one
//! [takes it away](Records::break_lock).
#![expect(unsafe_code, reason = "records in memory that the kernel writes, too")]

use std::hint;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use lb_common::packet::flow::Phase;
use lb_common::packet::record::{Entry, LOCKED_BY_AGENT, Record, UNLOCKED};

use crate::kernel::mapped::Mapped;

/// How often the lock is tried before somebody else may as well have the processor.
const TRIES: u32 = 1024;

/// The map [`lb_common::packet::record::PACKET_FLOWS`], for as long as this lives.
#[derive(Debug)]
pub struct Records {
    entries: Mapped<Entry>,
}

/// The lock of a record, until it is dropped.
struct Held<'a>(&'a AtomicU64);

impl Records {
    /// Maps an array of so many flows.
    ///
    /// # Errors
    /// As mmap(2): the map is smaller than that, is not mappable, or memory lacks.
    pub fn map(flows: impl AsFd, slots: u32) -> io::Result<Self> {
        Ok(Self { entries: Mapped::new(flows, slots as usize)? })
    }

    /// Takes the lock away from an agent that is gone; whether one had it. To be called before anybody else here can have it.
    ///
    /// # Panics
    /// As [`Self::edit`].
    pub fn break_lock(&self, slot: u32) -> bool {
        let word = self.word(slot);
        word.compare_exchange(LOCKED_BY_AGENT, UNLOCKED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Reads or changes the record of a slot, for as short as possible: see above.
    ///
    /// # Panics
    /// The slot is none of the map's.
    pub fn edit<R>(&self, slot: u32, change: impl FnOnce(&mut Record) -> R) -> R {
        let entry = self.entries.at(slot as usize).as_ptr();
        let _held = Held::get(self.word(slot));
        // SAFETY: the record lies in the mapping, beside the lock. Only who has the lock changes it, and that is us until this function ends; what
        // programs read without it, they only read. It is made of numbers, so that any bytes are a record.
        change(unsafe { &mut (*entry).record })
    }

    /// Whether a slot has a flow at this moment, without the lock.
    ///
    /// # Panics
    /// As [`Self::edit`].
    pub fn is_there(&self, slot: u32) -> bool {
        let entry = self.entries.at(slot as usize).as_ptr();
        // SAFETY: the number lies in the mapping, aligned; others may write it meanwhile, as a whole, hence volatile.
        let phase = unsafe { (&raw const (*entry).record.flow.phase).read_volatile() };
        phase != Phase::Gone as u32
    }

    /// The record of a slot without the lock, so that nobody waits: parts may be older than others. To be compared with what is there before
    /// anything comes of it.
    ///
    /// # Panics
    /// As [`Self::edit`].
    pub fn glance(&self, slot: u32) -> Record {
        let entry = self.entries.at(slot as usize).as_ptr();
        // SAFETY: the record lies in the mapping, aligned; others may write it meanwhile, hence volatile, and it is made of numbers, so that
        // any bytes are a record.
        unsafe { (&raw const (*entry).record).read_volatile() }
    }

    /// Ends a flow for the programs: whatever comes of it from here on is the host's. How it was at that moment.
    ///
    /// # Panics
    /// As [`Self::edit`].
    pub fn end(&self, slot: u32) -> Record {
        self.edit(slot, |record| {
            let before = *record;
            record.flow.phase = Phase::Gone as u32;
            before
        })
    }

    /// Takes a lock and never gives it back, as an agent does that is killed.
    #[cfg(test)]
    pub fn hold_for_ever(&self, slot: u32) {
        std::mem::forget(Held::get(self.word(slot)));
    }

    fn word(&self, slot: u32) -> &AtomicU64 {
        let entry = self.entries.at(slot as usize).as_ptr();
        // SAFETY: the word lies in the mapping, aligned as in the map, which outlives the reference; everybody changes it atomically.
        unsafe { AtomicU64::from_ptr(&raw mut (*entry).lock) }
    }
}

impl<'a> Held<'a> {
    fn get(word: &'a AtomicU64) -> Self {
        let mut tries = 0_u32;
        while word
            .compare_exchange_weak(UNLOCKED, LOCKED_BY_AGENT, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            tries = tries.wrapping_add(1);
            if tries.is_multiple_of(TRIES) {
                thread::yield_now();
            }
            hint::spin_loop();
        }
        Self(word)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(UNLOCKED, Ordering::Release);
    }
}
