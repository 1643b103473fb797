// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole packets through the translation, beside a model that knows nothing of differences: it rewrites bytes and sums them anew. And
//! whole flows, beside two ends that speak TCP.

mod ends;
mod flow;
mod icmp;
mod model;
mod numbers;
mod offer;
mod offload;
mod options;
mod proof;
mod record;
mod rows;
mod rtt;
mod stall;
mod too_big;
mod transitions;
mod translation;
mod witness;
mod world;
