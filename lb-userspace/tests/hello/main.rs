// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ClientHello parser against rows of bytes, every way to cut a hello, and rustls as the oracle.

mod build;
mod clients;
mod differential;
mod mutate;
mod oracle;
mod random;
mod splits;
mod table;
