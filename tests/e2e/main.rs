// SPDX-License-Identifier: MIT OR Apache-2.0
//! End-to-end tests: the promises of the product, each on real sockets, and on real programs where they exist.
//!
//! A test's name is its promise. Scenarios that concern the carrying of bytes run once a path, in the modules `splice`, `copy`, `sockmap`
//! and `auto` of their file.
#![forbid(unsafe_code)]

#[macro_use]
mod support;
#[macro_use]
mod packet_lab;

mod accounting;
mod admin;
mod backlog;
mod backpressure;
mod balance;
mod bench;
mod certificates;
mod demo;
mod descriptors;
mod doctor;
mod drain;
mod early_data;
mod ends;
mod exceptions;
mod exchanges;
mod faulty_relay;
mod flows;
mod half_close;
mod hand_over;
mod harness;
mod health;
mod health_cost;
mod health_proxy;
mod health_traffic;
mod hello;
mod idle;
mod leftovers;
mod limits;
mod logs;
mod lossy_links;
mod marked;
mod mistakes;
mod names;
mod objects;
mod overlaps;
mod packet;
mod packet_addresses;
mod packet_canary;
mod packet_cut;
mod packet_differential;
mod packet_ends;
mod packet_forged;
mod packet_full;
mod packet_interfaces;
mod packet_kill;
mod packet_limits;
mod packet_links;
mod packet_loopback;
mod packet_manager;
mod packet_memory;
mod packet_options;
mod packet_refusals;
mod packet_resets;
mod packet_restart;
mod packet_routes;
mod packet_rtt;
mod packet_stacked;
mod packet_stage;
mod packet_streams;
mod packet_tls;
mod packet_tracking;
mod packet_ways;
mod packet_websocket;
mod pauses;
mod pipes;
mod privileges;
mod promotion;
mod proxy_header;
mod proxy_in;
mod proxy_programs;
mod proxy_relay;
mod queue;
mod real_clients;
mod retries;
mod routes;
mod schedule;
mod servers;
mod service;
mod slow_clients;
mod slow_readers;
mod socket_kinds;
mod sockmap;
mod sockmap_bounds;
mod sockmap_failures;
mod sockmap_idle;
mod sockmap_memory;
mod source;
mod stalls;
mod taken_bytes;
mod timeouts;
mod transfer;
mod verbs;
mod wakeups;
mod withdrawals;
