// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which server is next. Pure decisions over weights and counts; [`crate::backend`] holds the servers.
