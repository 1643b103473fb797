// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The BPF programs of lb.
fn main() {}
