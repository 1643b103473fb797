// SPDX-License-Identifier: MIT OR Apache-2.0
//! Array maps in this process's memory, which programs read and write without a system call of anybody.
#![expect(unsafe_code, reason = "mmap(2) of BPF maps")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

/// An array map whose values are mapped for as long as this lives.
#[derive(Debug)]
pub struct Mapped<T> {
    first: NonNull<T>,
    count: usize,
}

// SAFETY: the memory is shared with the kernel anyway, and this hands out nothing but addresses in it.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps so many values of an array map with BPF_F_MMAPABLE, or of a file that stands for one.
    ///
    /// # Errors
    /// As mmap(2): the map is smaller than that, is not mappable, or memory lacks.
    pub fn new(fd: impl AsFd, count: usize) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096, "a mapping is aligned to a page") };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that anybody has; the descriptor is open
        // during the call, and the mapping outlives it (mmap(2)).
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<T>(),
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

    /// Where a value lies, in memory that is readable and writable while this lives, and that the kernel changes, too.
    ///
    /// # Panics
    /// The index is not below the count: those who use it take it from the same capacity as the map.
    pub fn at(&self, index: usize) -> NonNull<T> {
        assert!(index < self.count, "indexes come from the same capacity as the map");
        // SAFETY: the mapping holds `count` values, checked above.
        unsafe { self.first.add(index) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}
