// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a flow whose bytes never cease is made to pause for long enough, so that it can leave.

use std::task::Context;
use std::time::Duration;

use lb_common::packet::flow::Phase;
use lb_common::packet::record::{ANNOUNCE, QUIESCE};
use lb_common::reason::PacketObstacle;

use super::{ARMS_MAX, Approach, RESTLESS_BYTES, State};
use crate::path::flow::Run;
use crate::path::packet::sockets::announce_windows;
use crate::runtime::{Moment, sleep};

/// How long both ends may take to rest: a round trip, and what is under way.
const REST_MAX: Duration = Duration::from_millis(500);

/// Between looks at a flow that is to rest.
const REST_LOOK: Duration = Duration::from_millis(1);

/// How often a flow is asked.
const RESTS_MAX: u8 = 10;

/// How often a flow is asked before its sockets may announce as much room as the kernel likes again: who is far away needs that.
const BRIEF_RESTS: u8 = 3;

impl Approach<'_> {
    /// Asks both ends to pause, where the flow has not left for long; or lets them go on. While nobody watches it they are not asked: user space
    /// pauses.
    pub(super) fn ask_for_rest(&mut self, cx: &mut Context<'_>, run: &mut Run<'_>) {
        let delivered = run.delivered();
        match self.rests_until {
            Some(until) if Moment::now() >= until => self.end_rest(),
            // The acknowledgement of the last bytes wakes nobody.
            Some(_) => self.look_again(cx),
            None if delivered >= self.asked_at + (RESTLESS_BYTES << self.rests) && self.rests < RESTS_MAX => {
                self.asked_at = delivered;
                self.rests += 1;
                if self.rests > BRIEF_RESTS {
                    self.brevity.end();
                }
                self.rests_until = Some(Moment::now() + REST_MAX);
                match &self.spliced {
                    Some(spliced) => spliced.slot.edit(|record| record.flags |= QUIESCE),
                    None => run.pause(),
                }
                self.look_again(cx);
            }
            None => {}
        }
    }

    /// Wakes the flow after a moment.
    fn look_again(&mut self, cx: &mut Context<'_>) {
        let tick = self.tick.get_or_insert_with(|| Box::pin(sleep(REST_LOOK)));
        tick.as_mut().reset(Moment::now() + REST_LOOK);
        if tick.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    /// Lets both ends go on that were asked to pause.
    pub(super) fn end_rest(&mut self) {
        if self.rests_until.take().is_some()
            && let Some(spliced) = &self.spliced
        {
            spliced.slot.edit(|record| record.flags = record.flags & !QUIESCE | ANNOUNCE);
            announce_windows([self.client, self.server]);
        }
    }

    /// The flow ends in user space: says why, if it was to leave. One that is over before anybody has asked it to pause was short.
    pub(super) fn note_stay(&self) {
        if matches!(self.state, State::Settled) {
            return;
        }
        let spliced = self.spliced.as_ref();
        let record = spliced.map(|spliced| spliced.slot.edit(|record| (record.flow.phase(), record.refusal)));
        if let Some((Phase::Gone, refusal)) = record {
            self.note_abandoned(refusal);
        } else if self.rests > 0 || self.arms >= ARMS_MAX {
            self.station.common.refused.note(PacketObstacle::Restless);
        }
    }
}
