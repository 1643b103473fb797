// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths: how an established flow is carried.
