// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arrays of directions and of their overdraft in this process's memory: what the program counts is read, and what it may do is
//! written, without a system call.
#![expect(unsafe_code, reason = "words in memory that the kernel writes, too")]

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::layout::{
    ALLOWED_WORD, Allowed, CALL_WORD, DIRECTION_WORDS, ENTERED_WORD, FILTER_RUNG_WORD, FREED_WORD, Moved,
    OUTSIDE_WORD, OVERDRAWN_WORD, ROUND_WORD, TAKEN_BACK_WORD, TURNED_AWAY_WORD,
};

use super::mapped::Mapped;

/// The maps [`lb_common::layout::DIRECTIONS`] and [`lb_common::layout::OVERDRAFT`], for as long as this lives.
#[derive(Debug)]
pub struct Directions {
    words: Mapped<AtomicU64>,
    overdraft: Mapped<AtomicU64>,
}

impl Directions {
    /// Maps an array of so many directions, and the one word of their overdraft.
    ///
    /// # Errors
    /// As mmap(2): the map is smaller than that, is not mappable, or memory lacks.
    pub fn map(directions: impl AsFd, slots: u32, overdraft: impl AsFd) -> io::Result<Self> {
        let words = Mapped::new(directions, slots as usize * DIRECTION_WORDS)?;
        Ok(Self { words, overdraft: Mapped::new(overdraft, 1)? })
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
        self.word(slot, FREED_WORD).store(allowed.freed, Ordering::Release);
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

    /// The last round in which the filter has called, because it had to turn a segment away for want of memory.
    pub fn crowded_out(&self, slot: u32) -> u64 {
        self.word(slot, FILTER_RUNG_WORD).load(Ordering::Acquire)
    }

    /// Takes back from the overdraft all but so much of what this direction has of it.
    pub fn take_back(&self, slot: u32, all_but: u64) {
        let (overdrawn, taken_back) = (self.word(slot, OVERDRAWN_WORD), self.word(slot, TAKEN_BACK_WORD));
        let part = overdrawn.load(Ordering::Acquire).wrapping_sub(taken_back.load(Ordering::Acquire));
        let surplus = part.cast_signed() - i64::try_from(all_but).unwrap_or(i64::MAX);
        if surplus > 0 || all_but == 0 {
            taken_back.fetch_add(surplus.cast_unsigned(), Ordering::AcqRel);
            word(&self.overdraft, 0).fetch_sub(surplus.cast_unsigned(), Ordering::AcqRel);
        }
    }

    /// What all directions together have waiting beyond their shares, in bytes of cost.
    pub fn overdraft(&self) -> u64 {
        // Less than nothing for a moment, when the program and somebody here count at the same time.
        word(&self.overdraft, 0).load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned()
    }

    /// Sets everything back to zero. Nobody may judge segments of this slot any more.
    pub fn clear(&self, slot: u32) {
        self.take_back(slot, 0);
        (0..DIRECTION_WORDS).for_each(|word| self.word(slot, word).store(0, Ordering::Release));
    }

    fn word(&self, slot: u32, word: usize) -> &AtomicU64 {
        assert!(word < DIRECTION_WORDS, "words of one direction");
        self::word(&self.words, slot as usize * DIRECTION_WORDS + word)
    }
}

/// The word at an index.
fn word(words: &Mapped<AtomicU64>, index: usize) -> &AtomicU64 {
    // SAFETY: the mapping is aligned to a page, and lives as long as the reference borrows from it. It is touched through atomics alone, and the
    // kernel writes whole words.
    unsafe { words.at(index).as_ref() }
}
