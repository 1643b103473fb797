// SPDX-License-Identifier: MIT OR Apache-2.0
//! The array of directions in this process's memory: what the program counts is read, and what it may do is written, without a
//! system call.
#![expect(unsafe_code, reason = "mmap(2) of a BPF map")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::layout::{ALLOWED_WORD, Allowed, DIRECTION_WORDS, Moved};

/// The map [`lb_common::layout::DIRECTIONS`], mapped for as long as this lives.
#[derive(Debug)]
pub struct Directions {
    words: NonNull<AtomicU64>,
    slots: usize,
}

// SAFETY: the memory is shared with the kernel anyway, and touched through atomics alone.
unsafe impl Send for Directions {}
// SAFETY: as above; no method hands out anything but values.
unsafe impl Sync for Directions {}

impl Directions {
    /// Maps an array of so many directions.
    ///
    /// # Errors
    /// As mmap(2): the map is smaller than that, is not mappable, or memory lacks.
    pub fn map(fd: impl AsFd, slots: u32) -> io::Result<Self> {
        let slots = slots as usize;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has; the descriptor is open
        // during the call, and the mapping outlives it (mmap(2)).
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes(slots),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { words, slots })
    }

    /// What the program has counted. Each word is right by itself; [`Moved::charged`] is the oldest of them, so that it never
    /// covers more than [`Moved::redirected`] does.
    pub fn moved(&self, slot: u32) -> Moved {
        Moved::from_words(std::array::from_fn(|word| self.word(slot, word).load(Ordering::Acquire)))
    }

    /// Tells the program what it may do.
    pub fn allow(&self, slot: u32, allowed: &Allowed) {
        for (word, value) in [allowed.limit, allowed.bell].into_iter().enumerate() {
            self.word(slot, ALLOWED_WORD + word).store(value, Ordering::Release);
        }
    }

    /// Sets everything back to zero. Nobody may judge segments of this slot any more.
    pub fn clear(&self, slot: u32) {
        (0..DIRECTION_WORDS).for_each(|word| self.word(slot, word).store(0, Ordering::Release));
    }

    fn word(&self, slot: u32, word: usize) -> &AtomicU64 {
        let slot = slot as usize;
        assert!(slot < self.slots && word < DIRECTION_WORDS, "slots come from the same capacity as the map");
        // SAFETY: the mapping holds `slots` directions of `DIRECTION_WORDS` words, checked above; it is aligned to a page, and lives
        // as long as `self`, from which the reference borrows. The kernel writes whole words.
        unsafe { self.words.add(slot * DIRECTION_WORDS + word).as_ref() }
    }
}

impl Drop for Directions {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; no reference into it outlives `self`.
        unsafe { libc::munmap(self.words.as_ptr().cast(), bytes(self.slots)) };
    }
}

fn bytes(slots: usize) -> usize {
    slots * DIRECTION_WORDS * size_of::<u64>()
}
