// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one list of what runs on each kernel.

use crate::test::{Size, links};

/// A group of tests, all whose name begins so.
pub struct Group {
    /// `unit` or `e2e`.
    pub program: &'static str,
    /// What their names begin with.
    pub prefix: &'static str,
    /// How many there are at least, so that none gets lost unseen.
    pub least: usize,
    /// How much they do with `--soak`.
    pub size: Size,
}

/// What runs on every kernel.
pub const GROUPS: [Group; 47] = [
    // Loading, and the self-test.
    Group { program: "unit", prefix: "kernel::", least: 48, size: Size::Small },
    Group { program: "e2e", prefix: "sockmap", least: 15, size: Size::Small },
    Group { program: "e2e", prefix: "packet::", least: 8, size: Size::Small },
    // What path packet promises. Not `packet_manager::`: bash hands its descriptors over, and is not there; not `packet_tls::` and
    // `packet_websocket::`: curl, Chromium, nginx and Python are at their ends, and are not there.
    Group { program: "e2e", prefix: "packet_streams::", least: 20, size: Size::Small },
    Group { program: "e2e", prefix: "packet_ends::", least: 18, size: Size::Small },
    Group { program: "e2e", prefix: "packet_options::", least: 22, size: Size::Small },
    Group { program: "e2e", prefix: "packet_limits::", least: 10, size: Size::Small },
    Group { program: "e2e", prefix: "packet_ways::", least: 10, size: Size::Small },
    Group { program: "e2e", prefix: "packet_routes::", least: 18, size: Size::Small },
    Group { program: "e2e", prefix: "packet_interfaces::", least: 18, size: Size::Small },
    Group { program: "e2e", prefix: "packet_addresses::", least: 6, size: Size::Small },
    Group { program: "e2e", prefix: "packet_loopback::", least: 14, size: Size::Small },
    Group { program: "e2e", prefix: "packet_rtt::", least: 4, size: Size::Small },
    Group { program: "e2e", prefix: "packet_stacked::", least: 42, size: Size::Small },
    Group { program: "e2e", prefix: "packet_refusals::", least: 24, size: Size::Small },
    Group { program: "e2e", prefix: "packet_full::", least: 3, size: Size::Small },
    Group { program: "e2e", prefix: "packet_forged::", least: 12, size: Size::Small },
    Group { program: "e2e", prefix: "packet_differential::", least: 3, size: Size::Small },
    Group { program: "e2e", prefix: "packet_resets::", least: 8, size: Size::Small },
    Group { program: "e2e", prefix: "packet_cut::", least: 17, size: Size::Small },
    Group { program: "e2e", prefix: "packet_tracking::", least: 23, size: Size::Small },
    Group { program: "e2e", prefix: "packet_canary::", least: 4, size: Size::Small },
    Group { program: "e2e", prefix: "packet_kill::", least: 12, size: Size::Small },
    Group { program: "e2e", prefix: "packet_restart::", least: 22, size: Size::Small },
    // What comes without privileges.
    Group { program: "e2e", prefix: "privileges::", least: 11, size: Size::Small },
    Group { program: "e2e", prefix: links::FAULTY.prefix, least: 36, size: Size::Soak },
    Group { program: "e2e", prefix: "transfer::", least: 16, size: Size::Small },
    Group { program: "e2e", prefix: "ends::", least: 44, size: Size::Small },
    Group { program: "e2e", prefix: "backpressure::", least: 8, size: Size::Small },
    Group { program: "e2e", prefix: "stalls::", least: 5, size: Size::Small },
    Group { program: "e2e", prefix: "early_data::", least: 8, size: Size::Small },
    // What else path sockmap promises.
    Group { program: "e2e", prefix: "hand_over::sockmap", least: 7, size: Size::Small },
    Group { program: "e2e", prefix: "half_close::sockmap", least: 7, size: Size::Small },
    Group { program: "e2e", prefix: "backlog::sockmap", least: 5, size: Size::Small },
    Group { program: "e2e", prefix: "slow_readers::sockmap", least: 3, size: Size::Small },
    Group { program: "e2e", prefix: "accounting::sockmap", least: 6, size: Size::Small },
    Group { program: "e2e", prefix: "timeouts::sockmap", least: 11, size: Size::Small },
    Group { program: "e2e", prefix: "withdrawals::", least: 4, size: Size::Small },
    Group { program: "e2e", prefix: "pauses::", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "promotion::", least: 4, size: Size::Small },
    Group { program: "e2e", prefix: "wakeups::", least: 2, size: Size::Small },
    Group { program: "e2e", prefix: "taken_bytes::sockmap", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "exchanges::", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "overlaps::sockmap", least: 1, size: Size::Small },
    Group { program: "e2e", prefix: "leftovers::sockmap", least: 1, size: Size::Small },
    // Both families and Multipath TCP, on every path.
    Group { program: "e2e", prefix: "socket_kinds::", least: 24, size: Size::Small },
    // 100,000 connections: here a process may have as many descriptors.
    Group { program: "e2e", prefix: IDLE, least: 1, size: Size::Soak },
];

/// Tests of what idle connections cost.
pub const IDLE: &str = "idle::";

const SETS_OPTIONS: &str = "Python sets an option of the sockets, and is not there; fragments run there";

/// What tests of these groups contain that do not run there, each with the reason.
pub const LEFT_OUT: [(&str, &str); 10] = [
    ("a_gigabyte_each_way", "minutes for each path; the bytes are those of 64 MiB, again and again"),
    (
        "where_bpf_is_forbidden",
        "Python makes the filter, and is not there; systemd's guest has a filter, too",
    ),
    ("what_is_sent_again_with_more", "Python makes the segments, and is not there"),
    ("::ip_options_", SETS_OPTIONS),
    ("signed_segments_", SETS_OPTIONS),
    ("an_end_that_sends_nothing_else", SETS_OPTIONS),
    ("an_end_that_answers_with_nothing_else", SETS_OPTIONS),
    ("an_end_that_sends_others_in_time", SETS_OPTIONS),
    ("a_flow_that_stalls_while_no_agent_runs", SETS_OPTIONS),
    ("curl_reports_an_error", "curl, nginx and what makes certificates are not there"),
];
