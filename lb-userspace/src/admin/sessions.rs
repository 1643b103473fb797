// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/api/v1/sessions`: the open connections of path `packet`, of which the agent has no sockets, as the kernel counts them at this moment.

use std::time::Duration;

use lb_common::packet::flow::{Phase, Side};
use lb_common::reason::PathKind;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::journal::Story;
use crate::kernel::Packet;
use crate::kernel::packet::{Listed, ends};

/// Most sessions that are listed, some 400 bytes each.
const LISTED_MAX: usize = 10_000;

#[derive(Debug, Default, Serialize)]
struct Sessions {
    sessions: Vec<SessionReport>,
    further_sessions: usize,
}

/// One connection. README lists the fields.
#[derive(Debug, Serialize)]
struct SessionReport {
    id: u64,
    client: Option<String>,
    local: Option<String>,
    frontend: String,
    backend: String,
    server: String,
    server_address: Option<String>,
    path: &'static str,
    state: &'static str,
    age_seconds: f64,
    idle_seconds: f64,
    received_bytes: u64,
    sent_bytes: u64,
    received_packets: u64,
    sent_packets: u64,
    client_rtt_seconds: Option<f64>,
    client_rtt_min_seconds: Option<f64>,
    server_rtt_seconds: Option<f64>,
    server_rtt_min_seconds: Option<f64>,
}

/// All of them, those first that were accepted first.
pub(super) fn sessions(kernel: Option<&Packet>) -> String {
    let now = now();
    let listed = kernel.map(Packet::listed).unwrap_or_default();
    let mut sessions: Vec<_> = listed.iter().filter_map(|listed| report(listed, now)).collect();
    sessions.sort_by_key(|session| session.id);
    let further_sessions = sessions.len().saturating_sub(LISTED_MAX);
    sessions.truncate(LISTED_MAX);
    let all = Sessions { sessions, further_sessions };
    serde_json::to_string(&all).expect("text, numbers and lists have a form in JSON")
}

fn report(listed: &Listed, now: Duration) -> Option<SessionReport> {
    let Listed { story, tally, record } = listed;
    let connections = Side::ALL.map(|side| ends(&record.key(side)));
    let story = Story::from_bytes(story)?.complete(connections);
    let flow = &record.flow;
    let since = |then: Duration| now.saturating_sub(then).as_secs_f64();
    let before = |direction: usize| tally.spliced[direction] + tally.copied[direction];
    Some(SessionReport {
        id: story.id,
        client: story.client.map(|address| address.to_string()),
        local: story.local.map(|address| address.to_string()),
        server_address: story.server_address.map(|address| address.to_string()),
        age_seconds: since(story.started()),
        frontend: story.frontend,
        backend: story.backend,
        server: story.server,
        path: PathKind::Packet.label(),
        state: if flow.phase() == Phase::Closing { "closing" } else { "open" },
        idle_seconds: since(Duration::from_nanos(flow.seen_ns)),
        received_bytes: before(0) + flow.delivered_to_server,
        sent_bytes: before(1) + flow.delivered_to_client,
        received_packets: record.to_server.segments,
        sent_packets: record.to_client.segments,
        client_rtt_seconds: flow.client.round_trip.smoothed_ns().map(seconds),
        client_rtt_min_seconds: flow.client.round_trip.shortest_ns().map(seconds),
        server_rtt_seconds: flow.server.round_trip.smoothed_ns().map(seconds),
        server_rtt_min_seconds: flow.server.round_trip.shortest_ns().map(seconds),
    })
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// The clock of programs and stories.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use lb_common::packet::flow::{End, Flow, RoundTrip, TICK_NS};
    use lb_common::packet::record::{Record, V4, Way};
    use lb_common::packet::tcp::Translation;

    use super::super::api::tests::{documented, keys};
    use super::*;
    use crate::kernel::packet::Tally;

    fn listed() -> Listed {
        let (end, by) = (End::default(), Translation::default());
        let measured = End { round_trip: RoundTrip { smoothed: 24, shortest: 2 }, ..end };
        let flow = Flow {
            phase: Phase::Spliced as u32,
            delivered_to_server: 100,
            delivered_to_client: 200,
            seen_ns: 1_000_000_000,
            ..Flow::tracked([end, measured], by, by)
        };
        let way = |segments| Way { segments, ..Way::default() };
        Listed {
            story: br#"{"n":7,"t":500000,"c":"192.0.2.1:5","f":"in"}"#.to_vec(),
            tally: Tally { spliced: [1, 2], copied: [10, 20], ..Tally::default() },
            record: Record::new(flow, V4, way(3), way(4)),
        }
    }

    #[test]
    fn what_was_carried_before_counts() {
        let report = report(&listed(), Duration::from_secs(3)).expect("a story");
        assert_eq!((report.received_bytes, report.sent_bytes), (111, 222));
        assert_eq!((report.received_packets, report.sent_packets), (3, 4));
        assert_eq!(
            (report.age_seconds.to_bits(), report.idle_seconds.to_bits()),
            (2.5_f64.to_bits(), 2_f64.to_bits())
        );
        assert_eq!((report.state, report.client.as_deref()), ("open", Some("192.0.2.1:5")));
    }

    #[test]
    fn round_trips_are_those_that_were_measured() {
        let report = report(&listed(), Duration::from_secs(3)).expect("a story");
        let shown = [
            report.client_rtt_seconds,
            report.client_rtt_min_seconds,
            report.server_rtt_seconds,
            report.server_rtt_min_seconds,
        ];
        // Smoothed ones are kept in eighths.
        assert_eq!(shown, [None, None, Some(seconds(3 * TICK_NS)), Some(seconds(2 * TICK_NS))]);
    }

    #[test]
    fn without_the_path_there_are_none() {
        assert_eq!(sessions(None), r#"{"sessions":[],"further_sessions":0}"#);
    }

    #[test]
    fn the_readme_lists_exactly_the_fields_of_sessions() {
        let report = report(&listed(), Duration::ZERO).expect("a story");
        let all = Sessions { sessions: vec![report], further_sessions: 0 };
        let mut fields = std::collections::BTreeSet::new();
        keys(&serde_json::to_value(all).expect("JSON"), &mut fields);
        assert_eq!(fields, documented("sessions"));
    }
}
