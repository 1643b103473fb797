// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel side: loads the BPF object, and hides aya from everybody else.
