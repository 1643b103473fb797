// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes as the beginning of a connection: nothing panics, an outcome is the same however the bytes arrive, and where rustls
//! accepts a hello we find the same name and protocols in it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../lb-userspace/tests/hello/oracle.rs"]
mod oracle;

/// Prefixes looked at for one input: all of a short one, evenly spread ones of a long one.
const PREFIXES: usize = 64;

fuzz_target!(|wire: &[u8]| {
    oracle::compare(wire);
    let step = wire.len().div_ceil(PREFIXES).max(1);
    for end in (0..wire.len()).step_by(step) {
        oracle::check_prefix(wire, end);
    }
});
