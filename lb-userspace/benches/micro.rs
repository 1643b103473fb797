// SPDX-License-Identifier: MIT OR Apache-2.0
//! The suite `micro`: how long one connection's decisions take, each alone. `cargo xtask bench micro` runs it and counts its
//! instructions; `cargo bench --bench micro FILTER` runs a part.
#![forbid(unsafe_code)]

mod cases;

use std::time::{Duration, Instant};

use criterion::Criterion;

fn main() {
    // Short, because the instruction counts are the guard; times only have to say how much that is.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    for mut case in cases::all() {
        // What is made at the first use (caches, buffers that grow) is not what a connection costs.
        (case.run)(case.rounds);
        criterion.bench_function(&case.name, |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                (case.run)(rounds);
                start.elapsed()
            });
        });
    }
    criterion.final_summary();
}
