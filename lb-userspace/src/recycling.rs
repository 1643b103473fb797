// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory allocator: the C library's, and in front of it what each worker keeps of the small blocks that its connections give back.
//!
//! A connection takes and gives back some twenty blocks, always of the same sizes. glibc keeps seven of a size for a thread
//! (tcache_count), fewer than a burst of connections has.
#![expect(unsafe_code, reason = "a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// The allocator of the agent. Only threads that called [`keep_blocks`] keep any.
#[derive(Debug)]
pub struct Recycling;

/// Largest block that is kept, in bytes. Larger ones go to the C library and back.
const KEPT_MAX: usize = 1032;

/// Most bytes that a thread keeps in blocks of one size.
const SHELF_BYTES: usize = 64 * 1024;

/// Sizes are 8 bytes short of multiples of this: glibc needs 8 bytes of each multiple for itself.
const STEP: usize = 16;

/// What the C library aligns every block to.
const ALIGN: usize = 16;

/// glibc's smallest block has two steps.
const SHELVES_LEN: usize = (KEPT_MAX + 8) / STEP - 1;

/// A block that is kept: its first bytes say where the next one of its size is.
struct Kept {
    next: *mut Kept,
}

/// Blocks of one size.
struct Shelf {
    first: Cell<*mut Kept>,
    count: Cell<usize>,
}

thread_local! {
    /// It has no destructor, so that it is there as long as the thread is: workers end with the process.
    static SHELVES: [Shelf; SHELVES_LEN] =
        const { [const { Shelf { first: Cell::new(ptr::null_mut()), count: Cell::new(0) } }; SHELVES_LEN] };
    static KEEPS: Cell<bool> = const { Cell::new(false) };
}

/// Has the calling thread keep small blocks from here on. For threads that end with the process: what they keep is not given back.
pub fn keep_blocks() {
    KEEPS.set(true);
}

/// Where blocks of a layout are kept, and the layout that all of them have; `None`: nowhere.
fn shelf_of(layout: Layout) -> Option<(usize, Layout)> {
    if layout.align() > ALIGN || layout.size() > KEPT_MAX {
        return None;
    }
    let steps = (layout.size() + 8).div_ceil(STEP).max(2);
    Some((steps - 2, Layout::from_size_align(steps * STEP - 8, ALIGN).ok()?))
}

// SAFETY: every block comes from `System`, with the layout that `shelf_of` gives for the one that was asked for, which is at least as
// large and as much aligned; and goes back to it with the same, because `shelf_of` depends on nothing else. A kept block is on the
// shelf of its layout alone, from when it was given back until it is handed out, and is at least 24 bytes long and aligned to 16, so
// that a `Kept` fits. Shelves are the thread's own, and nothing here allocates or calls back while one is changed.
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((index, layout)) = shelf_of(layout) else {
            // SAFETY: the caller's promise about the layout.
            return unsafe { System.alloc(layout) };
        };
        let kept = SHELVES.with(|shelves| {
            let shelf = &shelves[index];
            let first = shelf.first.get();
            if !first.is_null() {
                // SAFETY: it is on the shelf, so it is a block that nobody uses, and `dealloc` wrote a `Kept` to it.
                shelf.first.set(unsafe { (*first).next });
                shelf.count.set(shelf.count.get() - 1);
            }
            first
        });
        if kept.is_null() {
            // SAFETY: the layout is not empty.
            return unsafe { System.alloc(layout) };
        }
        kept.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((index, layout)) = shelf_of(layout) else {
            // SAFETY: a block of such a layout came from `System` as it is.
            return unsafe { System.dealloc(block, layout) };
        };
        let is_kept = KEEPS.get()
            && SHELVES.with(|shelves| {
                let shelf = &shelves[index];
                let has_room = (shelf.count.get() + 1) * layout.size() <= SHELF_BYTES;
                if has_room {
                    let kept: *mut Kept = block.cast();
                    // SAFETY: the caller gives the block up; a `Kept` fits, in size and alignment.
                    unsafe { kept.write(Kept { next: shelf.first.get() }) };
                    shelf.first.set(kept);
                    shelf.count.set(shelf.count.get() + 1);
                }
                has_room
            });
        if !is_kept {
            // SAFETY: it came from `System` with this layout.
            unsafe { System.dealloc(block, layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if shelf_of(layout).is_none() {
            // SAFETY: the caller's promise about the layout.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the same.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block is at least so large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size is not 0 and, rounded up to the alignment, fits into an isize.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (shelf_of(layout), shelf_of(wanted)) {
            // SAFETY: blocks of both layouts are the C library's as they are.
            (None, None) => return unsafe { System.realloc(block, layout, size) },
            (Some((_, has)), Some((_, wants))) if has == wants => return block,
            _ => {}
        }
        // SAFETY: the caller's promise about the layout.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks are at least so large, and the new one is nobody's yet; then the old one is given up.
            unsafe {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_has_a_shelf_that_is_large_enough_or_none() {
        for align in [1, 8, 16, 32, 64, 128, 256] {
            for size in 1..=2 * KEPT_MAX {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let Some((shelf, kept)) = shelf_of(layout) else {
                    assert!(size > KEPT_MAX || align > ALIGN, "{layout:?}");
                    continue;
                };
                assert!(shelf < SHELVES_LEN, "{layout:?}");
                assert!(kept.size() >= size && kept.align() >= align, "{layout:?} {kept:?}");
                assert!(kept.size() >= size_of::<Kept>(), "{kept:?}");
                // All that a shelf holds has one layout, which has no other shelf.
                assert_eq!(shelf_of(kept), Some((shelf, kept)), "{layout:?}");
            }
        }
    }

    #[test]
    fn blocks_come_back_and_keep_their_bytes_when_they_grow() {
        std::thread::spawn(|| {
            keep_blocks();
            for align in [8, 128] {
                let small = Layout::from_size_align(100, align).expect("a layout");
                let large = Layout::from_size_align(5_000, align).expect("a layout");
                // SAFETY: each block is used within its layout, and given back with the layout that it has then.
                unsafe {
                    let first = Recycling.alloc(small);
                    first.write_bytes(7, 100);
                    Recycling.dealloc(first, small);
                    let again = Recycling.alloc_zeroed(small);
                    assert!(again == first || align > ALIGN);
                    assert_eq!(again.addr() % align, 0);
                    assert_eq!(std::slice::from_raw_parts(again, 100), [0; 100]);
                    again.write_bytes(9, 100);
                    let grown = Recycling.realloc(again, small, 5_000);
                    assert_eq!(grown.addr() % align, 0);
                    let shrunk = Recycling.realloc(grown, large, 100);
                    assert_eq!(std::slice::from_raw_parts(shrunk, 100), [9; 100]);
                    Recycling.dealloc(shrunk, small);
                }
            }
        })
        .join()
        .expect("it holds");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        std::thread::spawn(|| {
            keep_blocks();
            let layout = Layout::from_size_align(1_000, 8).expect("a layout");
            // SAFETY: each block is given back once, with its layout.
            unsafe {
                let blocks: Vec<_> = (0..1_000).map(|_| Recycling.alloc(layout)).collect();
                blocks.into_iter().for_each(|block| Recycling.dealloc(block, layout));
            }
            let (index, kept) = shelf_of(layout).expect("a shelf");
            let count = SHELVES.with(|shelves| shelves[index].count.get());
            assert_eq!(count, SHELF_BYTES / kept.size());
        })
        .join()
        .expect("it holds");
    }
}
