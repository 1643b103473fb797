// SPDX-License-Identifier: MIT OR Apache-2.0
//! The PROXY protocol in both directions (HAProxy's doc/proxy-protocol.txt, versions 1 and 2; sections below are its). Pure.
//!
//! The crate ppp reads and writes what it gets right. What it does not is our own, and `v1` and `v2` have tests that show each case.

mod read;
mod tlv;
mod v1;
mod v2;
mod write;

pub use read::{Endpoints, HeaderOutcome, Received, parse};
pub use tlv::{Chain, Tlv, UNIQUE_ID_MAX, kind};
pub use write::{Content, header, local_header};

#[cfg(test)]
mod tests;
