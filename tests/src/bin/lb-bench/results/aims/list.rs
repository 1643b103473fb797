// SPDX-License-Identifier: MIT OR Apache-2.0
//! The aims themselves.

use super::{Against, Aim, Demand, Who};

/// What most of them have in common.
const AIM: Aim = Aim {
    text: "",
    who: Who::Only("lb-packet"),
    against: Against::Haproxy,
    suites: &["bulk"],
    metric: Some("GB/CPU-second"),
    message_bytes: None,
    demand: Demand::Level,
};

/// All aims but those of the suite micro ([`crate::micro::AIM_NS`]).
pub(super) const AIMS: &[Aim] = &[
    Aim {
        text: "balancer's CPU for a new connection: at most 0.8 of the best HAProxy's",
        who: Who::Subject,
        suites: &["connections"],
        metric: Some("balancer CPU, µs/connection"),
        demand: Demand::Beyond { aim: 0.8, least: None },
        ..AIM
    },
    Aim {
        text: "new connections in a second: more than the best HAProxy, 1.2 times as many where the ends can",
        who: Who::Subject,
        suites: &["connections"],
        metric: Some("connections/s"),
        demand: Demand::MoreUnlessEndsLimit(1.2),
        ..AIM
    },
    Aim {
        text: "balancer's CPU for a new connection of lb-packet-late: level with the best HAProxy's at least",
        who: Who::Only("lb-packet-late"),
        suites: &["connections"],
        metric: Some("balancer CPU, µs/connection"),
        ..AIM
    },
    Aim {
        text: "user memory of an idle flow, on every path: below 0.5 of the best HAProxy's",
        who: Who::Everybody,
        suites: &["idle"],
        metric: Some("balancer's user memory, KiB/flow"),
        demand: Demand::Beyond { aim: 0.5, least: None },
        ..AIM
    },
    Aim {
        text: "bytes per CPU-second of lb-splice: level with the best HAProxy at least",
        who: Who::Only("lb-splice"),
        ..AIM
    },
    Aim {
        text: "bytes per CPU-second of lb-packet: 3 times the best HAProxy's, 2.5 times at least",
        demand: Demand::Beyond { aim: 3.0, least: Some(2.5) },
        ..AIM
    },
    Aim {
        text: "bytes per CPU-second of lb-packet: 0.9 of direct routing's, 0.85 at least",
        against: Against::Direct,
        demand: Demand::Beyond { aim: 0.9, least: Some(0.85) },
        ..AIM
    },
    Aim {
        text: "median time of 64 B messages by lb-packet: at most 0.6 of the best HAProxy's",
        suites: &["latency", "pingpong"],
        metric: Some("p50, µs"),
        message_bytes: Some(64),
        demand: Demand::Beyond { aim: 0.6, least: None },
        ..AIM
    },
    Aim {
        text: "all that counts of lb-auto: not worse than the better of lb-splice and lb-sockmap",
        who: Who::Only("lb-auto"),
        against: Against::BestOf(&["lb-splice", "lb-sockmap"]),
        suites: &["connections", "bulk", "latency", "pingpong", "idle", "https"],
        metric: None,
        ..AIM
    },
];
