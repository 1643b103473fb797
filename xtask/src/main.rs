// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask <verb>`: the chores of this repository.
fn main() {}
