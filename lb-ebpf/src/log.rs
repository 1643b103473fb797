// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What the programs tell a person who looks for a fault, in objects that were built with the feature `log`: what happens once a flow or
//! once a round, never what happens with every segment.

use aya_ebpf::programs::SkBuffContext;

/// Bytes had no target: the flow will be reset.
#[inline(always)]
pub fn lost(ctx: &SkBuffContext, slot: u32, bytes: u32) {
    #[cfg(feature = "log")]
    aya_log_ebpf::warn!(ctx, "slot {}: {} bytes have no target", slot, bytes);
    #[cfg(not(feature = "log"))]
    let _ = (ctx, slot, bytes);
}

/// Too much waits: further segments are turned away until user space answers.
#[inline(always)]
pub fn stopped(ctx: &SkBuffContext, slot: u32, before: u64, round: u64) {
    #[cfg(feature = "log")]
    if before != round {
        aya_log_ebpf::info!(ctx, "slot {}: segments are turned away in round {}", slot, round);
    }
    #[cfg(not(feature = "log"))]
    let _ = (ctx, slot, before, round);
}
