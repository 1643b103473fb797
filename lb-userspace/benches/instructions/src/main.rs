// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs each case of the suite `micro` a fixed number of times, for callgrind to count: `cargo xtask bench micro` starts it under
//! valgrind and has the instructions inside [`measured`] dumped after each call. Prints what it runs, in order: `NAME ROUNDS`.
//! With an argument it runs only cases whose name contains that.
#![forbid(unsafe_code)]

#[path = "../../cases/mod.rs"]
mod cases;

use cases::Case;

/// Its work depends on the sizes asked for alone, and not on the machine's C library and its settings.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    for mut case in cases::all().into_iter().filter(|case| case.name.contains(&filter)) {
        // What is made at the first use (caches, buffers that grow) is not what a connection costs.
        (case.run)(case.rounds);
        println!("{} {}", case.name, case.rounds);
        measured(&mut case);
    }
}

/// What is counted. Callgrind knows it by this name, so it must remain a function of its own.
#[inline(never)]
fn measured(case: &mut Case) {
    (case.run)(case.rounds);
}
