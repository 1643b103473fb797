// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be seen from outside: metrics, and one line a connection.

pub mod access_log;
pub mod metrics;
