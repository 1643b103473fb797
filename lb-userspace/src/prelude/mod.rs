// SPDX-License-Identifier: MIT OR Apache-2.0
//! Before a backend is known: the client's first bytes, looked at and never taken.

mod arrivals;
pub mod hello;
pub mod peek;
pub mod pending;
pub mod proxy_header;
mod receive_buffer;
pub mod reject;
