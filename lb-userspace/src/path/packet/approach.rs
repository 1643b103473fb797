// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow's way to this path, while user space still carries it.
//!
//! ```text
//! unwatched ──between bytes──▶ watched ──grace──▶ ready ──between bytes──▶ armed ──a segment flips it──▶ spliced
//!                                                   ▲                        │
//!                                                   └──── anything happens ──┘
//! ```
//!
//! Where bytes never cease, both ends are asked to pause: what the sockets send announces no room ([`QUIESCE`]), until all that was under way
//! has been delivered and acknowledged; so that this is little, they are kept brief ([`Brevity`]). Then the flow is armed, the room is announced, and the
//! answer to that flips it. A flow that just begins is watched before its first byte; of one that is promoted in the midst of its bytes nothing is taken
//! for as long as it takes that all that was written has been sent: what a socket has not sent yet, the numbers do not tell.

mod rest;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use lb_common::packet::flow::Phase;
use lb_common::packet::record::{ANNOUNCE, QUIESCE, RUNG, reason};
use lb_common::reason::{PacketObstacle, PathKind};

use super::entry::{self, Basis, Obstacle, catch_up};
use super::sockets::{Brevity, announce_windows, resting, why_no_port, why_untold};
use super::{Common, Port, Spliced, Station};
use crate::net::Socket;
use crate::path::drain::drain;
use crate::path::flow::{Ending, Run};
use crate::path::meter::{Carried, Meter};
use crate::path::{Flow, FlowEnd, Start, Tools};
use crate::runtime::{Moment, Sleep, sleep_until};

/// Bytes after which a flow that does not leave is asked to rest for the first time. Until the next time it is twice as many as before.
pub(super) const RESTLESS_BYTES: u64 = 256 << 10;

/// How often a flow is armed in vain before it is only armed where it rests: arming costs some system calls.
const ARMS_MAX: u8 = 100;

/// How far a flow is.
enum State<'a> {
    /// Nobody watches it yet.
    Unwatched,
    /// Segments that had passed before it was watched may still be on their way to a socket.
    Watched(Pin<Box<dyn Future<Output = bool> + 'a>>),
    /// It can be armed.
    Ready,
    /// The next segment flips it, if it may.
    Armed,
    /// User space carries it to its end.
    Settled,
}

/// Why a flow can never be armed.
enum Why {
    /// A program has left it to its sockets, for a reason with this code.
    Abandoned(u32),
    /// Bytes have come past the programs: they do not see all of it.
    Unseen,
}

/// What is done beside carrying a flow.
struct Approach<'a> {
    station: &'a Rc<Station>,
    client: &'a Socket,
    server: &'a Socket,
    port: Option<Arc<Port>>,
    /// Who it is, for an agent that comes after.
    story: Option<Vec<u8>>,
    state: State<'a>,
    /// While it is watched.
    spliced: Option<Spliced>,
    /// Where the sockets were, and what had been carried, when it began to be watched.
    basis: Basis,
    before: Carried,
    /// All that had come before it was watched has been accounted for.
    is_known: bool,
    /// Bytes that had been delivered when it was last asked to rest.
    asked_at: u64,
    /// Until when it is to have come to rest.
    rests_until: Option<Moment>,
    rests: u8,
    arms: u8,
    tick: Option<Pin<Box<Sleep>>>,
    brevity: Brevity<'a>,
}

/// Carries a flow in user space until it ends, or until the programs carry it: then its sockets hold nothing, and are to be
/// [discarded](Spliced::discard). The sockets are kept [brief](Brevity), and are so no longer if it stays. `meter` is up to date whenever this future is
/// not being polled.
///
/// # Errors
/// How it ended.
pub async fn carry_until_spliced(
    station: &Rc<Station>,
    flow: &Flow<'_>,
    start: Start,
    tools: &Tools,
    meter: &mut Meter,
    (port, story, brevity): (Option<Arc<Port>>, Option<Vec<u8>>, Brevity<'_>),
) -> Result<Spliced, FlowEnd> {
    let mut run = Run::new(flow, start, tools, meter);
    let left = {
        let mut tick = pin!(sleep_until(run.next_tick(Moment::now())));
        let mut approach = Approach { story, ..Approach::new(station, flow, port, brevity) };
        approach.brevity.look(run.delivered());
        approach.begin_at_once(&run);
        let run = &mut run;
        poll_fn(move |cx| {
            if let Some(spliced) = approach.flipped(cx) {
                return Poll::Ready(Ok(spliced));
            }
            run.take_care(approach.brevity.is_awaited());
            if let Poll::Ready(ending) = run.poll(cx, tick.as_mut()) {
                approach.note_stay();
                return Poll::Ready(Err(ending));
            }
            approach.go_on(cx, run);
            Poll::Pending
        })
        .await
    };
    let ending = match left {
        Ok(spliced) => return Ok(spliced),
        Err(ending) => ending,
    };
    let (flow_end, drains_until) = (run.conclude(&ending), run.drains_until());
    drop(run);
    if let Ending::Reset(side, _) = ending {
        drain(side.other().of(flow), drains_until).await;
    }
    Err(flow_end)
}

impl<'a> Approach<'a> {
    fn new(station: &'a Rc<Station>, flow: &Flow<'a>, port: Option<Arc<Port>>, brevity: Brevity<'a>) -> Self {
        Self {
            station,
            client: flow.client,
            server: flow.server,
            port,
            story: None,
            state: State::Unwatched,
            spliced: None,
            basis: Basis::default(),
            before: Carried::default(),
            is_known: false,
            asked_at: 0,
            rests_until: None,
            rests: 0,
            arms: 0,
            tick: None,
            brevity,
        }
    }

    /// The flow, if the programs have it. If not, user space may go on: a flow that was armed is so no more.
    fn flipped(&mut self, cx: &mut Context<'_>) -> Option<Spliced> {
        let spliced = self.spliced.as_ref()?;
        spliced.slot.listen(cx.waker());
        if !matches!(self.state, State::Armed) {
            return None;
        }
        let (phase, refusal) = spliced.slot.edit(|record| {
            record.flags &= !RUNG;
            record.flow.disarm();
            (record.flow.phase(), record.refusal)
        });
        match phase {
            Phase::Spliced | Phase::Closing => return self.spliced.take(),
            Phase::Track | Phase::Armed => self.state = State::Ready,
            Phase::Gone => self.abandon(refusal),
        }
        None
    }

    /// Has the flow watched from its first byte on, if nothing that was written before waits for being sent.
    fn begin_at_once(&mut self, run: &Run<'_>) {
        if !self.station.common.canary.is_off() {
            self.begin(run);
        }
    }

    /// Does what is next, once user space has nothing more to do for now.
    fn go_on(&mut self, cx: &mut Context<'_>, run: &mut Run<'_>) {
        self.brevity.look(run.delivered());
        self.step(cx, run);
        let is_awaited = match self.state {
            State::Unwatched => self.rests_until.is_some(),
            State::Watched(_) => true,
            State::Ready | State::Armed | State::Settled => false,
        };
        if run.is_paused() && !is_awaited {
            run.resume(cx);
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, run: &mut Run<'_>) {
        if matches!(self.state, State::Settled) {
            return;
        }
        if run.is_over() {
            self.note_stay();
            return self.settle();
        }
        if self.station.common.canary.is_off() {
            self.station.common.refused.note(PacketObstacle::Unavailable);
            return self.settle();
        }
        let can_begin = if run.is_paused() { run.has_delivered_all() } else { run.is_between_bytes() };
        if matches!(self.state, State::Unwatched) && can_begin {
            self.begin(run);
        }
        if let State::Watched(grace) = &mut self.state {
            match grace.as_mut().poll(cx) {
                Poll::Ready(true) => self.state = State::Ready,
                Poll::Ready(false) => {
                    self.give_up(PacketObstacle::Kernel);
                }
                // It takes a moment, in which much can go by.
                Poll::Pending if run.delivered() >= RESTLESS_BYTES => run.pause(),
                Poll::Pending => {}
            }
        }
        match self.state {
            State::Unwatched => self.ask_for_rest(cx, run),
            State::Ready => {
                let may_arm = self.arms < ARMS_MAX || self.rests_until.is_some();
                if !(may_arm && run.is_between_bytes() && self.arm(run.carried())) {
                    self.ask_for_rest(cx, run);
                }
            }
            State::Watched(_) | State::Armed | State::Settled => {}
        }
    }

    /// Has the programs watch the flow, if it can take this path; stays where it is if this is not the moment.
    fn begin(&mut self, run: &Run<'_>) {
        let refused = &self.station.common.refused;
        let (client, server) = (self.client.get_ref(), self.server.get_ref());
        let Some(port) = self.port.take() else {
            refused.note(why_no_port([self.client, self.server], self.station.common.reach));
            return self.settle();
        };
        let Common { reach, conntrack, .. } = &self.station.common;
        let known = entry::look([client, server], port.segment_size(), (*reach, conntrack));
        let begun = known.and_then(|known| {
            let slot = self.station.common.kernel.slot().ok_or(Obstacle::Path(PacketObstacle::Full))?;
            if self.story.is_none() {
                return Err(Obstacle::Path(PacketObstacle::Kernel));
            }
            slot.begin(known.record);
            let published = self.station.keys.borrow_mut().publish(&slot);
            published.map_err(|refusal| {
                tracing::debug!(?refusal, "path packet does not take a flow");
                Obstacle::Path(PacketObstacle::Kernel)
            })?;
            Ok((slot, known.basis))
        });
        match begun {
            Ok((slot, basis)) => {
                let slot = Arc::new(slot);
                let station = Rc::clone(self.station);
                self.spliced =
                    Some(Spliced { slot, _port: Some(port), station, before: 0, is_tracked: false });
                (self.basis, self.before) = (basis.behind_header(run.header_len()), run.carried());
                self.rests_until = None;
                self.state = State::Watched(Box::pin(self.station.common.grace.pass()));
            }
            Err(Obstacle::Busy) => self.port = Some(port),
            Err(obstacle) => {
                match obstacle {
                    Obstacle::Terms(reason) => {
                        port.doubt();
                        refused.note_terms(reason);
                    }
                    Obstacle::Path(obstacle) => refused.note(obstacle),
                    Obstacle::Gone => refused.note(PacketObstacle::NotEstablished),
                    Obstacle::Busy => {}
                }
                self.settle();
            }
        }
    }

    /// Arms the flow, if nothing of it is in a socket; whether it is armed.
    fn arm(&mut self, carried: Carried) -> bool {
        let Some(spliced) = &self.spliced else { return false };
        let Some(unacknowledged) = resting(self.client).zip(resting(self.server)) else { return false };
        let is_resting = self.rests_until.is_some();
        if is_resting && unacknowledged != (0, 0) {
            return false;
        }
        if !self.station.common.kernel.note_routed(&spliced.slot) {
            return self.give_up(PacketObstacle::Unrouted);
        }
        // Most flows that end early are never armed, and need no story.
        if let Some(Err(error)) = self.story.take().map(|story| spliced.slot.tell(&story)) {
            return self.give_up(why_untold(&error));
        }
        let (client, server) = self.basis.positions(self.before, carried);
        let is_known = self.is_known;
        let by = |path: PathKind| [carried.up[path.index()], carried.down[path.index()]];
        spliced.slot.note_carried(by(PathKind::Splice), by(PathKind::Copy));
        let armed = spliced.slot.edit(|record| {
            // Programs look at nothing of it any more.
            if record.flow.phase() == Phase::Gone {
                return Err(Why::Abandoned(record.refusal));
            }
            let has_ways = record.to_server.interface != 0 && record.to_client.interface != 0;
            let flow = &mut record.flow;
            let is_seen = (catch_up(&mut flow.client, client, unacknowledged.0) || !is_known)
                & (catch_up(&mut flow.server, server, unacknowledged.1) || !is_known);
            if !is_seen || !has_ways {
                return if is_seen { Ok(false) } else { Err(Why::Unseen) };
            }
            flow.arm(client, server);
            record.flags &= !(QUIESCE | RUNG);
            record.flags |= if is_resting { ANNOUNCE } else { 0 };
            Ok(true)
        });
        self.is_known = true;
        match armed {
            Ok(true) => {}
            Ok(false) => return false,
            Err(Why::Abandoned(refusal)) => {
                self.abandon(refusal);
                return false;
            }
            Err(Why::Unseen) => return self.give_up(PacketObstacle::Unseen),
        }
        self.state = State::Armed;
        self.arms = self.arms.saturating_add(1);
        if is_resting {
            self.rests_until = None;
            // A look would disarm it, and so would make it miss the answer.
            self.tick = None;
            announce_windows([self.client, self.server]);
        }
        true
    }

    /// User space carries it to its end. Always false.
    fn give_up(&mut self, obstacle: PacketObstacle) -> bool {
        self.station.common.refused.note(obstacle);
        self.settle();
        false
    }

    /// A packet has made the programs leave it to its sockets for good, for a reason of which this is the code.
    fn abandon(&mut self, refusal: u32) {
        self.note_abandoned(refusal);
        self.settle();
    }

    fn note_abandoned(&self, refusal: u32) {
        let refused = &self.station.common.refused;
        match reason(refusal) {
            Some(reason) => refused.note_terms(reason),
            // Programs of another version, which know of more.
            None => refused.note(PacketObstacle::Kernel),
        }
    }

    /// User space carries it to its end.
    fn settle(&mut self) {
        self.end_rest();
        self.brevity.end();
        self.spliced = None;
        self.state = State::Settled;
    }
}
