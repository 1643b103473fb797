// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent of lb. Start reading at [`session`]: the life of one connection as one straight function.
//!
//! Pure modules (`config`, `prelude::hello`, `route`, `balance`, `proxy`) import neither tokio nor sockets.
#![deny(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod backend;
pub mod balance;
pub mod cli;
pub mod coalescing;
pub mod config;
pub mod connect;
mod exit;
pub mod frontend;
pub mod health;
pub mod journal;
pub mod kernel;
pub mod net;
pub mod observe;
pub mod path;
pub mod prelude;
pub mod privileges;
pub mod proxy;
pub mod recycling;
pub mod resolve;
pub mod route;
pub mod runtime;
pub mod session;
pub mod worker;
