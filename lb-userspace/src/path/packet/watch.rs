// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow that the programs carry, as the agent has it: asleep until it is over, or silent for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lb_common::packet::flow::{FIN_TAKEN, Phase};
use lb_common::packet::record::{RUNG, Record};
use lb_common::reason::{CloseReason, PathKind};
use rustix::time::{ClockId, clock_gettime};

use super::{Progress, Spliced, Trial, reason_of};
use crate::backend::Server;
use crate::config;
use crate::frontend::Frontend;
use crate::kernel::packet::Tally;
use crate::path::meter::{self, Carried};
use crate::path::silence::shorter;
use crate::path::{FlowEnd, Side};
use crate::runtime::{Sleep, sleep};

/// Between looks at a flow: the first, while something moves, and the longest.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(16);

/// What a flow belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Kinship<'a> {
    /// The frontend that it came in by.
    pub frontend: &'a Frontend,
    /// The settings of its backend.
    pub backend: &'a config::Backend,
    /// Its server.
    pub server: &'a Server,
}

/// How long a flow may be silent.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// While both directions are open.
    idle: Option<Duration>,
    /// Once one has ended.
    half_closed: Option<Duration>,
}

impl Kinship<'_> {
    /// The shorter ones of frontend and backend.
    fn limits(&self) -> Limits {
        let (frontend, backend) = (&self.frontend.settings, self.backend);
        Limits {
            idle: shorter(frontend.idle_timeout, backend.idle_timeout),
            half_closed: shorter(frontend.half_close_timeout, backend.half_close_timeout),
        }
    }
}

/// Looks at one flow now and then.
#[derive(Debug)]
pub struct Watch {
    /// When to look next.
    tick: Sleep,
    wait: Duration,
    seen_ns: u64,
    /// While the canary listens.
    trial: Option<Box<Trial>>,
}

impl Watch {
    /// Of a flow that it has not looked at yet.
    pub fn new(spliced: &Spliced) -> Self {
        let trial = spliced.station.common.canary.is_listening();
        let trial = trial.then(|| Box::new(Trial::from(spliced.before)));
        Self { tick: sleep(Duration::ZERO), wait: LOOK_MIN, seen_ns: 0, trial }
    }

    /// Waits for the end of the flow. The counters are up to date to [`LOOK_MIN`] while something moves.
    pub fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        spliced: &Spliced,
        kinship: &Kinship<'_>,
    ) -> Poll<FlowEnd> {
        spliced.slot.listen(cx.waker());
        loop {
            // What a program calls for is looked at at once.
            if !spliced.slot.take_call() && Pin::new(&mut self.tick).poll(cx).is_pending() {
                return Poll::Pending;
            }
            match self.look(spliced, kinship) {
                Ok(wait) => self.tick = sleep(wait),
                Err(flow_end) => return Poll::Ready(flow_end),
            }
        }
    }

    /// Looks at the flow, and counts what it has carried; how long until the next look.
    ///
    /// # Errors
    /// How it has ended.
    fn look(&mut self, spliced: &Spliced, kinship: &Kinship<'_>) -> Result<Duration, FlowEnd> {
        let (record, progress) = spliced.slot.edit(|record| {
            record.flags &= !RUNG;
            (*record, Progress::of(record))
        });
        let flow = record.flow;
        let canary = &spliced.station.common.canary;
        if let Some(trial) = &mut self.trial {
            trial.look(canary, progress, now_ns());
        }
        if !canary.is_listening() {
            self.trial = None;
        }
        let tally = spliced.slot.tally();
        let delivered = [flow.delivered_to_server, flow.delivered_to_client];
        if tally.counted != delivered {
            meter::count(
                kinship.frontend,
                kinship.server,
                &carried(&tally, tally.counted),
                &carried(&tally, delivered),
            );
            spliced.slot.note_counted(delivered);
        }
        let left = end(&record, kinship.limits(), now_ns())?;
        let is_calm = flow.seen_ns == self.seen_ns && self.trial.is_none();
        self.wait = if is_calm { (self.wait * 2).min(LOOK_MAX) } else { LOOK_MIN };
        self.seen_ns = flow.seen_ns;
        Ok(self.wait.min(left))
    }
}

/// What was carried of a flow, of which programs have carried so much, from the client and from the server.
pub fn carried(tally: &Tally, [up, down]: [u64; 2]) -> Carried {
    let mut carried = Carried::default();
    let paths =
        [(PathKind::Splice, tally.spliced), (PathKind::Copy, tally.copied), (PathKind::Packet, [up, down])];
    for (path, [up, down]) in paths {
        (carried.up[path.index()], carried.down[path.index()]) = (up, down);
    }
    carried
}

/// How long a flow may be silent yet, at a time of the programs' clock.
///
/// # Errors
/// How it has ended.
fn end(record: &Record, limits: Limits, now_ns: u64) -> Result<Duration, FlowEnd> {
    let flow = &record.flow;
    let marks = [flow.client.marks, flow.server.marks];
    if flow.is_over() || flow.phase() == Phase::Gone {
        return Err(FlowEnd::cut(reason_of(marks)));
    }
    if record.is_stalled(now_ns) {
        return Err(FlowEnd::cut(CloseReason::Untranslatable));
    }
    let silent_for = Duration::from_nanos(now_ns.saturating_sub(flow.seen_ns));
    let Limits { idle, half_closed } = limits;
    let has_ended = marks.map(|marks| marks & FIN_TAKEN != 0);
    let (limit, reason) = if has_ended == [false; 2] {
        (idle, CloseReason::IdleTimeout)
    } else {
        (half_closed.or(idle), CloseReason::HalfCloseTimeout)
    };
    let silent = if has_ended[0] { Side::Server } else { Side::Client };
    match limit {
        Some(limit) if silent_for >= limit => Err(FlowEnd { reason, silent: Some(silent) }),
        Some(limit) => Ok(limit - silent_for),
        None => Ok(LOOK_MAX),
    }
}

/// The clock of the programs (bpf_ktime_get_ns: CLOCK_MONOTONIC).
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use lb_common::packet::flow::{End, FIN_SEEN, Flow, RESET};
    use lb_common::packet::record::{STALLED, V4, Way};
    use lb_common::packet::tcp::Translation;

    use super::*;

    const FIN: u32 = FIN_SEEN | FIN_TAKEN;

    /// One that was last moved on a second after the clock began, by the marks of its client and its server.
    fn flow(phase: Phase, [client, server]: [u32; 2]) -> Record {
        let [client, server] = [client, server].map(|marks| End { marks, ..End::default() });
        let by = Translation::default();
        let flow =
            Flow { phase: phase as u32, seen_ns: 1_000_000_000, ..Flow::tracked([client, server], by, by) };
        Record::new(flow, V4, Way::default(), Way::default())
    }

    fn limits(idle: u64, half_closed: Option<u64>) -> Limits {
        Limits { idle: Some(Duration::from_secs(idle)), half_closed: half_closed.map(Duration::from_secs) }
    }

    #[track_caller]
    fn check(flow: &Record, limits: Limits, second: u64, expected: Result<u64, (CloseReason, Option<Side>)>) {
        let found = end(flow, limits, second * 1_000_000_000);
        let found = found.map(|left| left.as_secs()).map_err(|end| (end.reason, end.silent));
        assert_eq!(found, expected, "at {second} s");
    }

    #[test]
    fn silence_ends_a_flow() {
        let flow = flow(Phase::Spliced, [0, 0]);
        check(&flow, limits(10, Some(3)), 1, Ok(10));
        check(&flow, limits(10, Some(3)), 10, Ok(1));
        check(&flow, limits(10, Some(3)), 11, Err((CloseReason::IdleTimeout, Some(Side::Client))));
        // A clock that goes back ends nothing.
        check(&flow, limits(10, None), 0, Ok(10));
        let never = Limits { idle: None, half_closed: Some(Duration::from_secs(3)) };
        check(&flow, never, 1_000_000, Ok(LOOK_MAX.as_secs()));
    }

    #[test]
    fn silence_of_one_direction_ends_a_flow_whose_other_has_ended() {
        let end_of = |silent| Err((CloseReason::HalfCloseTimeout, Some(silent)));
        let [of_client, of_server] = [[FIN, 0], [0, FIN]].map(|marks| flow(Phase::Closing, marks));
        check(&of_client, limits(10, Some(3)), 3, Ok(1));
        check(&of_client, limits(10, Some(3)), 4, end_of(Side::Server));
        check(&of_server, limits(10, Some(3)), 4, end_of(Side::Client));
        // Without one of its own, the other limit counts.
        check(&of_client, limits(10, None), 10, Ok(1));
        check(&of_client, limits(10, None), 11, end_of(Side::Server));
        // A FIN that nobody has acknowledged ends nothing yet.
        check(&flow(Phase::Spliced, [FIN_SEEN, 0]), limits(10, Some(3)), 4, Ok(7));
    }

    #[test]
    fn what_stands_still_for_want_of_what_was_dropped_has_ended() {
        let no_limits = Limits { idle: None, half_closed: None };
        let stalled = |record: Record| Record { flags: STALLED, stalled_ms: 2_000, ..record };
        let open = stalled(flow(Phase::Spliced, [0, 0]));
        check(&open, no_limits, 8, Err((CloseReason::Untranslatable, None)));
        check(
            &stalled(flow(Phase::Closing, [FIN, 0])),
            no_limits,
            8,
            Err((CloseReason::Untranslatable, None)),
        );
        // Something has moved since; a packet was dropped once.
        let moved = Record { flow: Flow { seen_ns: 3_000_000_000, ..open.flow }, ..open };
        check(&moved, no_limits, 8, Ok(LOOK_MAX.as_secs()));
        check(&Record { flags: 0, ..open }, no_limits, 8, Ok(LOOK_MAX.as_secs()));
        // An end was faster.
        check(
            &stalled(flow(Phase::Closing, [RESET, 0])),
            no_limits,
            8,
            Err((CloseReason::ClientReset, None)),
        );
    }

    #[test]
    fn what_is_over_has_ended_however_long_it_may_be_silent() {
        let no_limits = Limits { idle: None, half_closed: None };
        for (phase, marks, reason) in [
            (Phase::Closing, [FIN, FIN], CloseReason::Finished),
            (Phase::Closing, [RESET, 0], CloseReason::ClientReset),
            (Phase::Closing, [0, RESET], CloseReason::ServerReset),
            // It has made way for another.
            (Phase::Gone, [FIN, 0], CloseReason::Finished),
        ] {
            check(&flow(phase, marks), no_limits, 1, Err((reason, None)));
        }
    }
}
