// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent and the BPF programs share: the closed lists of reasons (which are the metric labels), limits, and pure
//! arithmetic that the host can test. No allocation, no input, no output.
#![cfg_attr(not(feature = "user"), no_std)]
#![forbid(unsafe_code)]

mod labelled;
pub mod layout;
pub mod limits;
pub mod packet;
pub mod reason;
pub mod verdict;
