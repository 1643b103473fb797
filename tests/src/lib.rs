// SPDX-License-Identifier: MIT OR Apache-2.0
//! The harness of the end-to-end tests: network namespaces, the real `lb` binary, real peers (nginx, HAProxy, curl, OpenSSL,
//! Chromium, tshark) and scripted ones that know every byte.
//!
//! The tests need root (namespaces) and the binary under test in the environment variable `LB_AGENT`. Everything that a test
//! starts or creates is gone when its guard is dropped, also after a panic: namespaces have no names, so nothing can be left over.
#![forbid(unsafe_code)]

pub mod agent;
pub mod authority;
pub mod bpffs;
pub mod clients;
pub mod config;
pub mod counters;
pub mod dns;
pub mod flows;
pub mod hello;
mod host;
pub mod kernel;
pub mod metrics;
pub mod net;
pub mod peer;
pub mod process;
pub mod proxy_header;
pub mod proxy_protocol;
pub mod random;
pub mod servers;
pub mod stream;
pub mod trace;
pub mod wait;
pub mod websocket;

/// How much a scenario does, by the environment variable `LB_TEST_SIZE` (`small`, the default, or `soak`).
///
/// # Panics
/// If the variable holds another word.
pub fn size<T>(small: T, soak: T) -> T {
    match std::env::var("LB_TEST_SIZE").as_deref() {
        Err(_) | Ok("" | "small") => small,
        Ok("soak") => soak,
        Ok(other) => panic!("LB_TEST_SIZE={other}: must be small or soak"),
    }
}

/// Whether nothing else runs on this machine, as in the virtual machines of `cargo xtask vm`: LB_TEST_ALONE is set there.
pub fn is_alone() -> bool {
    std::env::var_os("LB_TEST_ALONE").is_some()
}
