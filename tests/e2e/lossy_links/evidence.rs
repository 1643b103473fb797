// SPDX-License-Identifier: MIT OR Apache-2.0
//! What shows that links did to packets what they were told, and not only that they were told.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::counters::counted;
use lb_tests::net::{Namespace, Net};
use serde_json::Value;

use super::spoilt;

/// A port on which nobody listens (RFC 863).
const DISCARD: u16 = 9;

/// How often it is asked how long a way is.
const TRIES: usize = 5;

/// What netem says of an interface (tc-netem(8)).
struct Queue(Value);

/// Asserts that every interface that was to have this fault still has it, and that packets were spoilt: by netem's own counters, and where it has none, by what those
/// have noticed who got the packets.
#[track_caller]
pub(super) fn assert_spoilt(net: &Net, fault: &[&str], receivers: &[&Namespace]) {
    let places = spoilt(net, fault).into_iter();
    let queues: Vec<_> = places.map(|(place, interface)| Queue::of(place, interface)).collect();
    let at_all_interfaces = |counter| queues.iter().all(|queue| queue.count(counter) > 0);
    for (index, kind) in fault.iter().enumerate().filter(|(_, word)| word.chars().all(char::is_alphabetic)) {
        assert!(queues.iter().all(|queue| queue.has(kind)), "an interface has lost its {kind}");
        let is_seen = match *kind {
            "loss" => at_all_interfaces("drops"),
            // What overtakes is put in front of what waits (net/sched/sch_netem.c, netem_enqueue).
            "reorder" => at_all_interfaces("requeues"),
            // What overtakes does not wait.
            "delay" if fault.contains(&"reorder") => true,
            "delay" => round_trips(net).min() >= Some(2 * duration(fault[index + 1])),
            "duplicate" => receivers.iter().all(|place| duplicates(place) > 0),
            "corrupt" => receivers.iter().all(|place| counted(place, "Tcp", "InCsumErrors") > 0),
            other => panic!("who would have noticed {other}?"),
        };
        assert!(is_seen, "no {kind}: {:?}", queues.iter().map(|queue| &queue.0).collect::<Vec<_>>());
    }
}

impl Queue {
    #[track_caller]
    fn of(place: &Namespace, interface: &str) -> Self {
        let shown = place.run(Command::new("tc").args(["-s", "-j", "qdisc", "show", "dev", interface]));
        let shown: Value = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
        let is_netem = |queue: &&Value| queue["kind"] == "netem";
        let found = shown.as_array().into_iter().flatten().find(is_netem);
        Self(found.unwrap_or_else(|| panic!("{interface} has no fault: {shown}")).clone())
    }

    /// Whether it has a fault of this kind. How the numbers are written is up to tc.
    fn has(&self, kind: &str) -> bool {
        let options = self.0["options"].as_object().expect("options");
        options.iter().any(|(name, _)| name.starts_with(kind))
    }

    #[track_caller]
    fn count(&self, counter: &str) -> u64 {
        self.0[counter].as_u64().unwrap_or_else(|| panic!("no {counter}: {}", self.0))
    }
}

/// Segments that a namespace has got once more (RFC 2883), in order or not.
fn duplicates(place: &Namespace) -> u64 {
    ["TCPDSACKOldSent", "TCPDSACKOfoSent"].map(|name| counted(place, "TcpExt", name)).iter().sum()
}

/// How long it takes over each link to hear that nobody listens at the other end: once to and once fro.
fn round_trips(net: &Net) -> impl Iterator<Item = Duration> {
    let links =
        [(&net.client, net.balancer.address(DISCARD)), (&*net.balancer, net.server().address(DISCARD))];
    links.into_iter().flat_map(|(from, to)| (0..TRIES).map(move |_| round_trip(from, to)))
}

#[track_caller]
fn round_trip(from: &Namespace, to: SocketAddr) -> Duration {
    let begun = Instant::now();
    let refused = from.try_connect(to).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    begun.elapsed()
}

/// As tc was told it.
#[track_caller]
fn duration(text: &str) -> Duration {
    let milliseconds = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or_else(|| panic!("{text} is no time")))
}
