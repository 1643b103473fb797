// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole packets through the translation, beside a model that knows nothing of differences: it rewrites bytes and sums them anew.

mod icmp;
mod model;
mod numbers;
mod offload;
mod options;
mod rows;
mod translation;
