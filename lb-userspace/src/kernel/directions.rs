// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arrays of directions and of their overdraft in this process's memory: what the program counts is read, and what it may do is
//! written, without a system call.
#![expect(unsafe_code, reason = "mmap(2) of BPF maps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::layout::{
    ALLOWED_WORD, Allowed, CALL_WORD, DIRECTION_WORDS, ENTERED_WORD, Moved, OUTSIDE_WORD, OVERDRAWN_WORD,
    ROUND_WORD, TAKEN_BACK_WORD, TURNED_AWAY_WORD,
};

/// The maps [`lb_common::layout::DIRECTIONS`] and [`lb_common::layout::OVERDRAFT`], for as long as this lives.
#[derive(Debug)]
pub struct Directions {
    words: Words,
    overdraft: Words,
}

/// An array map of 64-bit words, mapped for as long as this lives.
#[derive(Debug)]
struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
}

impl Directions {
    /// Maps an array of so many directions, and the one word of their overdraft.
    ///
    /// # Errors
    /// As mmap(2): the map is smaller than that, is not mappable, or memory lacks.
    pub fn map(directions: impl AsFd, slots: u32, overdraft: impl AsFd) -> io::Result<Self> {
        let words = Words::map(directions, slots as usize * DIRECTION_WORDS)?;
        Ok(Self { words, overdraft: Words::map(overdraft, 1)? })
    }

    /// What the program has counted. Each word is right by itself; [`Moved::charged`] is the oldest of them, so that it never
    /// covers more than [`Moved::redirected`] does.
    pub fn moved(&self, slot: u32) -> Moved {
        Moved::from_words(std::array::from_fn(|word| self.word(slot, word).load(Ordering::Acquire)))
    }

    /// Tells the program what it may do; the round comes last, for it makes the rest count.
    pub fn allow(&self, slot: u32, allowed: &Allowed) {
        self.word(slot, CALL_WORD).store(allowed.call_at, Ordering::Release);
        self.word(slot, OUTSIDE_WORD).store(allowed.outside, Ordering::Release);
        for (word, value) in [allowed.pause_at, allowed.stop_at, allowed.round].into_iter().enumerate() {
            self.word(slot, ALLOWED_WORD + word).store(value, Ordering::Release);
        }
    }

    /// Has the filter turn everything away until the next [`Self::allow`].
    pub fn turn_away(&self, slot: u32) {
        self.word(slot, ROUND_WORD).store(0, Ordering::SeqCst);
    }

    /// How many segments with payload the filter has let TCP have, or will as soon as it has looked: then the number may still go back by
    /// those. After [`Self::turn_away`] nothing else changes it.
    pub fn admitted(&self, slot: u32) -> u64 {
        // So that no segment is in both or only in the second.
        let turned_away = self.word(slot, TURNED_AWAY_WORD).load(Ordering::SeqCst);
        self.word(slot, ENTERED_WORD).load(Ordering::SeqCst).wrapping_sub(turned_away)
    }

    /// Takes back from the overdraft all but so much of what this direction has of it.
    pub fn take_back(&self, slot: u32, all_but: u64) {
        let (overdrawn, taken_back) = (self.word(slot, OVERDRAWN_WORD), self.word(slot, TAKEN_BACK_WORD));
        let part = overdrawn.load(Ordering::Acquire).wrapping_sub(taken_back.load(Ordering::Acquire));
        let surplus = part.cast_signed() - i64::try_from(all_but).unwrap_or(i64::MAX);
        if surplus > 0 || all_but == 0 {
            taken_back.fetch_add(surplus.cast_unsigned(), Ordering::AcqRel);
            self.overdraft.at(0).fetch_sub(surplus.cast_unsigned(), Ordering::AcqRel);
        }
    }

    /// What all directions together have waiting beyond their shares, in bytes of cost.
    pub fn overdraft(&self) -> u64 {
        // Less than nothing for a moment, when the program and somebody here count at the same time.
        self.overdraft.at(0).load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned()
    }

    /// Sets everything back to zero. Nobody may judge segments of this slot any more.
    pub fn clear(&self, slot: u32) {
        self.take_back(slot, 0);
        (0..DIRECTION_WORDS).for_each(|word| self.word(slot, word).store(0, Ordering::Release));
    }

    fn word(&self, slot: u32, word: usize) -> &AtomicU64 {
        assert!(word < DIRECTION_WORDS, "words of one direction");
        self.words.at(slot as usize * DIRECTION_WORDS + word)
    }
}

// SAFETY: the memory is shared with the kernel anyway, and touched through atomics alone.
unsafe impl Send for Words {}
// SAFETY: as above; no method hands out anything but atomics.
unsafe impl Sync for Words {}

impl Words {
    fn map(fd: impl AsFd, count: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has; the descriptor is open
        // during the call, and the mapping outlives it (mmap(2)).
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes(count),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { first, count })
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "slots come from the same capacity as the map");
        // SAFETY: the mapping holds `count` words, checked above; it is aligned to a page, and lives as long as `self`, from which the
        // reference borrows. The kernel writes whole words.
        unsafe { self.first.add(index).as_ref() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), bytes(self.count)) };
    }
}

fn bytes(words: usize) -> usize {
    words * size_of::<u64>()
}
