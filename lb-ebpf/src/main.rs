// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The BPF programs of lb: every entry point, as one screen of verdicts.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "atomic additions and locks, see `sockmap` and `packet`")
)]

#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod sockmap;

/// Lets the workspace's tools look at this crate on the host, where there is nothing to run.
#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("lb-ebpf holds programs for the kernel; `cargo xtask ebpf` builds them");
}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
    use aya_ebpf::bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC};
    use aya_ebpf::macros::{classifier, socket_filter, stream_verdict};
    use aya_ebpf::programs::{SkBuffContext, TcContext};

    use crate::packet::{self, BARE, ETHERNET, Fate};
    use crate::sockmap::{self, Outcome};

    /// Judges what a socket of the map `HOOKS` received. Every exit is a row.
    #[stream_verdict]
    fn sockmap_verdict(ctx: SkBuffContext) -> u32 {
        match sockmap::carry(&ctx) {
            // No payload. Redirected or passed, it would end the sending of a socket that has bytes to send (sk_psock_backlog takes a
            // length of 0 for a broken pipe).
            Outcome::Empty => SK_DROP,
            // The kernel has noted the target beside the segment.
            Outcome::Redirected => SK_PASS,
            // It stays in the socket's own queue.
            Outcome::Unknown => SK_PASS,
            // The target is gone. Nothing follows it: user space resets both ends.
            Outcome::Broken => SK_DROP,
        }
    }

    /// How much of a segment for a socket of the map `HOOKS` TCP may have: all, or nothing, as if it had never arrived.
    #[socket_filter]
    fn sockmap_filter(ctx: SkBuffContext) -> i64 {
        if sockmap::admits(&ctx) { i64::from(u32::MAX) } else { 0 }
    }

    /// Sees all that comes in at an interface with Ethernet's header.
    #[classifier]
    fn packet_ingress(ctx: TcContext) -> i32 {
        action(packet::ingress::<ETHERNET>(ctx.skb.skb))
    }

    /// The same at an interface without a link header.
    #[classifier]
    fn packet_ingress_l3(ctx: TcContext) -> i32 {
        action(packet::ingress::<BARE>(ctx.skb.skb))
    }

    /// Sees all that goes out at an interface with Ethernet's header.
    #[classifier]
    fn packet_egress(ctx: TcContext) -> i32 {
        action(packet::egress::<ETHERNET>(ctx.skb.skb))
    }

    /// The same at an interface without a link header.
    #[classifier]
    fn packet_egress_l3(ctx: TcContext) -> i32 {
        action(packet::egress::<BARE>(ctx.skb.skb))
    }

    /// What the kernel is told. Every exit is a row.
    fn action(fate: Fate) -> i32 {
        match fate {
            // The next program's, and then the kernel's.
            Fate::Passed => TC_ACT_UNSPEC,
            // The helper has noted where to.
            Fate::Sent => TC_ACT_REDIRECT,
            Fate::Dropped => TC_ACT_SHOT,
        }
    }
}

/// The licence that the programs declare to the kernel, which lends them its GPL-only helpers (include/linux/license.h).
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// No program can panic: the verifier refuses the loop. The language wants a handler all the same.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
