// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The maps that the programs share with user space. Their names and layouts are in `lb_common::layout` and `lb_common::packet::record`.
//! Whoever loads the object makes all of them, and so for either path those of the other: they are as small as a map can be, and user space
//! sets the capacities of those that it uses.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockMap};
use lb_common::layout::{BELL_BYTES, Direction};
use lb_common::packet::record::{Entry, Key};

use crate::packet::Room;

/// The capacity of a map that is not used.
const UNUSED: u32 = 1;

/// Slots by cookie. Entries are allocated when they come: most connections never take this path.
#[map]
pub static SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(UNUSED, BPF_F_NO_PREALLOC);

/// Directions by slot.
#[map]
pub static DIRECTIONS: Array<Direction> = Array::with_max_entries(UNUSED, BPF_F_MMAPABLE);

/// Where bytes go, by slot. Without a program, so that a target is there before anything can be handed to it.
#[map]
pub static TARGETS: SockMap = SockMap::with_max_entries(UNUSED, 0);

/// Whose bytes are judged, by slot.
#[map]
pub static HOOKS: SockMap = SockMap::with_max_entries(UNUSED, 0);

/// What all directions have waiting beyond their shares, in bytes of cost.
#[map]
pub static OVERDRAFT: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Calls to user space. A slot is never in it more than a few times, so that it cannot overflow.
#[map]
pub static BELLS: RingBuf = RingBuf::with_byte_size(BELL_BYTES, 0);

/// Places by key. Entries are allocated when they come, as above.
#[map]
pub static PACKET_KEYS: HashMap<Key, u32> = HashMap::with_max_entries(UNUSED, BPF_F_NO_PREALLOC);

/// Flows by slot.
#[map]
pub static PACKET_FLOWS: Array<Entry> = Array::with_max_entries(UNUSED, BPF_F_MMAPABLE);

/// Calls to user space, as above.
#[map]
pub static PACKET_BELLS: RingBuf = RingBuf::with_byte_size(BELL_BYTES, 0);

/// What is counted, by processor.
#[map]
pub static PACKET_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(UNUSED, 0);

/// Where a program puts what it sums, by processor.
#[map]
pub static PACKET_ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// Where struct tcp_sock has `write_seq`, in bytes. User space knows from the kernel's BTF.
#[unsafe(no_mangle)]
pub static WRITE_SEQ_OFFSET: Global<u32> = Global::new(0);

/// The same of `copied_seq`.
#[unsafe(no_mangle)]
pub static COPIED_SEQ_OFFSET: Global<u32> = Global::new(0);

/// From which [`OVERDRAFT`] on whoever is beyond its own share gets nothing more.
#[unsafe(no_mangle)]
pub static OVERDRAFT_MAX: Global<u64> = Global::new(0);
