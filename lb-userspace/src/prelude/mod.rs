// SPDX-License-Identifier: MIT OR Apache-2.0
//! Before a backend is known: the client's first bytes.

pub mod hello;
