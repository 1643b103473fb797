// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The maps that the programs share with user space. Their names and layouts are in `lb_common::layout`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, SockHash};
use lb_common::layout::{SOCKETS_MAX, SockmapStats};

/// Sockets by cookie.
#[map]
pub static SOCKETS: SockHash<u64> = SockHash::with_max_entries(SOCKETS_MAX, 0);

/// Counters by CPU, at index 0.
#[map]
pub static SOCKMAP_STATS: PerCpuArray<SockmapStats> = PerCpuArray::with_max_entries(1, 0);
