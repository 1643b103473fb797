// SPDX-License-Identifier: MIT OR Apache-2.0
//! The harness of the end-to-end tests.
#![forbid(unsafe_code)]
