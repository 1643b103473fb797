// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow that the programs carry, as the agent has it: asleep until it is over, or silent for too long.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lb_common::packet::flow::{FIN_TAKEN, Flow, Phase};
use lb_common::packet::record::RUNG;
use lb_common::reason::{CloseReason, PathKind};
use rustix::time::{ClockId, clock_gettime};

use super::{Progress, Spliced, Trial, reason_of};
use crate::config;
use crate::path::meter::Meter;
use crate::path::silence::shorter;
use crate::path::{FlowEnd, Side};
use crate::runtime::sleep;

/// Between looks at a flow: the first, while something moves, and the longest.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(16);

/// Waits for the end of a flow. `meter` is up to date to [`LOOK_MIN`] while something moves, and exactly at the end.
pub async fn watch(spliced: &Spliced, backend: &config::Backend, meter: &mut Meter) -> FlowEnd {
    let (mut wait, mut seen_ns) = (LOOK_MIN, 0);
    let (canary, mut trial) = (&spliced.station.common.canary, Trial::from(spliced.before));
    loop {
        let (flow, progress) = spliced.slot.edit(|record| {
            record.flags &= !RUNG;
            (record.flow, Progress::of(record))
        });
        trial.look(canary, progress, now_ns());
        let packet = PathKind::Packet.index();
        // A flow that has left user space does not come back.
        let delivered = [flow.delivered_to_server, flow.delivered_to_client];
        [meter.carried.up[packet], meter.carried.down[packet]] = delivered;
        if meter.is_behind() {
            meter.count();
            spliced.slot.note_counted(delivered);
        }
        let left = match end(&flow, meter, backend) {
            Ok(left) => left,
            Err(flow_end) => return flow_end,
        };
        let is_calm = flow.seen_ns == seen_ns && !canary.is_listening();
        wait = if is_calm { (wait * 2).min(LOOK_MAX) } else { LOOK_MIN };
        seen_ns = flow.seen_ns;
        rest(spliced, wait.min(left)).await;
    }
}

/// Waits for a call of the programs, but not for long.
async fn rest(spliced: &Spliced, wait: Duration) {
    let mut tick = pin!(sleep(wait));
    poll_fn(|cx| {
        spliced.slot.listen(cx.waker());
        if spliced.slot.take_call() { Poll::Ready(()) } else { tick.as_mut().poll(cx) }
    })
    .await;
}

/// How long a flow may be silent yet.
///
/// # Errors
/// How it has ended.
fn end(flow: &Flow, meter: &Meter, backend: &config::Backend) -> Result<Duration, FlowEnd> {
    let marks = [flow.client.marks, flow.server.marks];
    if flow.is_over() || flow.phase() == Phase::Gone {
        return Err(FlowEnd::cut(reason_of(marks)));
    }
    let silent_for = Duration::from_nanos(now_ns().saturating_sub(flow.seen_ns));
    let frontend = meter.frontend();
    let idle = shorter(frontend.idle_timeout, backend.idle_timeout);
    let half_closed = shorter(frontend.half_close_timeout, backend.half_close_timeout);
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
