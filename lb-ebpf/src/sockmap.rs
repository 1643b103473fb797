// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What the verdict on a socket's received bytes needs.

use core::arch::asm;
use core::ptr::addr_of_mut;

use aya_ebpf::programs::SkBuffContext;

use crate::maps::SOCKMAP_STATS;

/// Adds one segment to this CPU's counters.
#[inline(always)]
pub fn count(ctx: &SkBuffContext) {
    let Some(stats) = SOCKMAP_STATS.get_ptr_mut(0) else { return };
    // SAFETY: `stats` is this CPU's slot of the map's only entry; it is valid for as long as the program runs, and aligned to
    // 8 bytes, as the kernel rounds the size of an array map's values up to that (kernel/bpf/arraymap.c). Its fields are
    // only touched by `add` and, from user space, read word by word.
    unsafe {
        add(addr_of_mut!((*stats).segments), 1);
        add(addr_of_mut!((*stats).bytes), u64::from(ctx.len()));
    }
}

/// Adds to a counter in a map, atomically: the kernel pins a verdict to its CPU (bpf_prog_run_pin_on_cpu in
/// net/core/skmsg.c), but a softirq in between may run another socket's verdict on the same slot. Written in assembly, because
/// the target's lack of compare-and-swap takes `AtomicU64::fetch_add` away from the language.
///
/// # Safety
///
/// `counter` is a valid, 8-byte-aligned address in a map's value.
#[inline(always)]
unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: BPF's atomic add (BPF_STX | BPF_ATOMIC | BPF_DW, Documentation/bpf/standardization/instruction-set.rst) touches the
    // 8 bytes at `counter`, which the caller vouches for, and no register.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {amount}", counter = in(reg) counter, amount = in(reg) amount);
    }
}
