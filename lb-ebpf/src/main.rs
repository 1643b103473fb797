// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The BPF programs of lb: every entry point, as one screen of verdicts.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Inline assembly for BPF is unstable; the crate is built with RUSTC_BOOTSTRAP=1 anyway, as build-std needs it.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod sockmap;

/// Lets the workspace's tools look at this crate on the host, where there is nothing to run.
#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("lb-ebpf holds programs for the kernel; `cargo xtask ebpf` builds them");
}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::sk_action::SK_PASS;
    use aya_ebpf::macros::stream_verdict;
    use aya_ebpf::programs::SkBuffContext;

    use crate::sockmap;

    /// Judges what a socket of the map `SOCKETS` received: it is counted and stays in the socket's own queue.
    #[stream_verdict]
    fn sockmap_verdict(ctx: SkBuffContext) -> u32 {
        sockmap::count(&ctx);
        SK_PASS
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
