// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow carried in user space: two directions, the end of each, and the timeouts.
//!
//! How ends are carried across: a FIN becomes a FIN behind the last byte. A reset becomes a reset, once the bytes that arrived
//! before it are delivered and acknowledged, or make no progress. Both sockets reset on close (linger 0) until both
//! directions ended with a FIN, so that whatever stops the agent in between is never mistaken for a clean end.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use lb_common::reason::CloseReason;

use super::direction::{Direction, DirectionEnd};
use super::drain::{RESET_DRAIN_ALL_MAX, RESET_DRAIN_MAX, drain};
use super::flow_end::FlowEnd;
use super::lane::{Lane, Tools};
use super::meter::{Carried, Meter};
use super::settle::{SETTLED_AGE, settle};
use super::side::Side;
use super::silence::{Allowed, Silence, shorter};
use super::start::{Flow, Start};
use crate::net::{self, Socket};
use crate::runtime::{Moment, Sleep, sleep_until};

/// How late the counters may show bytes of a flow that goes on.
pub const COUNTING_DELAY_MAX: Duration = Duration::from_secs(1);

/// Carries a flow to its end, and says why it ended. `meter` is up to date whenever this future is not being polled.
// Not `async`: that would keep every parameter twice, as it came and as it is used.
pub fn carry<'a>(
    flow: &'a Flow<'a>,
    start: Start,
    tools: &'a Tools,
    meter: &'a mut Meter,
) -> impl Future<Output = FlowEnd> {
    let mut run = Run::new(flow, start, tools, meter);
    async move {
        let ending = {
            let mut tick = pin!(sleep_until(run.next_tick(Moment::now())));
            let run = &mut run;
            poll_fn(move |cx| run.poll(cx, tick.as_mut())).await
        };
        let (flow, flow_end) = (run.flow, run.conclude(&ending));
        let drains_until = run.drains_until();
        // A pipe with bytes for a side that is gone goes now, not after the wait below.
        drop(run);
        if let Ending::Reset(side, _) = ending {
            // Boxed, because it is rare and would make every flow's task larger.
            Box::pin(drain(side.other().of(flow), drains_until)).await;
        }
        flow_end
    }
}

/// What is left to do when no more bytes will move.
#[derive(Debug)]
pub(super) enum Ending {
    /// Both directions ended with a FIN.
    Clean,
    /// This side is gone; what it sent is in the other's socket.
    Reset(Side, CloseReason),
    /// Both sides are cut now.
    Cut(CloseReason),
}

/// The state of a flow while it runs.
pub(super) struct Run<'a> {
    flow: &'a Flow<'a>,
    tools: &'a Tools,
    meter: &'a mut Meter,
    /// From the client to the server.
    up: Direction,
    /// From the server to the client.
    down: Direction,
    up_ended: bool,
    down_ended: bool,
    /// The side that reset or died, once known, and what that makes of the flow.
    gone: Option<(Side, CloseReason)>,
    /// Until when one side may take what the other, which is gone, has sent.
    drains_until: Option<Moment>,
    silence: Silence,
    settles_at: Option<Moment>,
    /// When bytes that the counters do not show are counted at the latest.
    counts_at: Option<Moment>,
    /// Nothing more is taken from either side for now.
    is_paused: bool,
    /// See [`Self::take_care`].
    is_careful: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(flow: &'a Flow<'a>, start: Start, tools: &'a Tools, meter: &'a mut Meter) -> Self {
        let now = Moment::now();
        Self {
            flow,
            tools,
            meter,
            up: Direction::new(start.strategy).with_bytes_waiting(start.has_bytes_waiting, start.header),
            down: Direction::new(start.strategy),
            up_ended: false,
            down_ended: false,
            gone: None,
            drains_until: None,
            silence: Silence::new(now),
            settles_at: Some(now + SETTLED_AGE),
            // Not only when they have moved, because that would set the timer anew.
            counts_at: start.has_bytes_waiting.then(|| now + COUNTING_DELAY_MAX),
            is_paused: false,
            is_careful: false,
        }
    }

    /// Whether a direction has ended, or a side is gone.
    pub(super) fn is_over(&self) -> bool {
        self.up_ended || self.down_ended || self.gone.is_some()
    }

    /// Takes nothing more from either side until [`Self::resume`]; what was taken is delivered.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Whether each direction takes little until somebody has seen that it has taken [`super::lane::CAREFUL_BYTES`].
    pub(super) fn take_care(&mut self, is_careful: bool) {
        self.is_careful = is_careful;
    }

    /// Ends [`Self::pause`].
    pub(super) fn resume(&mut self, cx: &Context<'_>) {
        self.is_paused = false;
        cx.waker().wake_by_ref();
    }

    /// See [`Self::pause`].
    pub(super) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether every byte that user space took has been delivered, and the header before them; more may wait.
    pub(super) fn has_delivered_all(&self) -> bool {
        !self.is_over() && !self.up.is_stalled() && !self.down.is_stalled() && self.header_len() == 0
    }

    /// How long the header is that goes to the server with the client's first bytes, and is not counted, as long as it has not.
    pub(super) fn header_len(&self) -> usize {
        self.up.header_len()
    }

    /// Whether every byte that user space took has been delivered, and no more wait: then each segment that comes is whole.
    pub(super) fn is_between_bytes(&self) -> bool {
        // Not by a read: it would be told of a reset, which the kernel tells once, and the next read would find a clean end.
        let is_empty = |socket: &Socket| net::waiting_bytes(socket.get_ref()).is_ok_and(|bytes| bytes == 0);
        self.has_delivered_all() && is_empty(self.flow.client) && is_empty(self.flow.server)
    }

    /// What both sides have received so far, by path.
    pub(super) fn carried(&self) -> Carried {
        self.meter.carried
    }

    /// Bytes that both sides have received so far.
    pub(super) fn delivered(&self) -> u64 {
        self.meter.carried.received() + self.meter.carried.sent()
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Poll<Ending> {
        let before = self.meter.carried;
        let mut now = Moment::now();
        self.poll_directions(cx, now);
        if self.meter.carried != before {
            self.note_activity(now);
        }
        self.note_errors();
        if let Some(ending) = self.ending() {
            return Poll::Ready(ending);
        }
        self.poll_watches(cx);
        loop {
            if let Some(cut) = self.overdue(now) {
                return Poll::Ready(cut);
            }
            let next = self.next_tick(now);
            if tick.deadline() > next || tick.is_elapsed() {
                tick.as_mut().reset(next);
            }
            if tick.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            now = Moment::now();
        }
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>, now: Moment) {
        let (&Flow { client, server, .. }, tools, is_careful) = (self.flow, self.tools, self.is_careful);
        let poll = if self.is_paused { Direction::poll_rest } else { Direction::poll };
        if !self.up_ended
            && let Poll::Ready(end) = poll(
                &mut self.up,
                cx,
                &mut Lane { from: client, to: server, tools, moved: &mut self.meter.carried.up, is_careful },
            )
        {
            self.up_ended = true;
            self.ended(end, Side::Client, now);
        }
        if !self.down_ended
            && let Poll::Ready(end) = poll(
                &mut self.down,
                cx,
                &mut Lane {
                    from: server,
                    to: client,
                    tools,
                    moved: &mut self.meter.carried.down,
                    is_careful,
                },
            )
        {
            self.down_ended = true;
            self.ended(end, Side::Server, now);
        }
    }

    /// Notes the end of the direction that `sender` sends in.
    fn ended(&mut self, end: DirectionEnd, sender: Side, now: Moment) {
        // The half-close timeout begins with the half-close, however long the flow was silent before.
        self.silence.break_at(now);
        match end {
            // Behind a reset that the other direction met first, an end of file is not the peer's word.
            DirectionEnd::Fin if self.gone.is_some() => {}
            // The last FIN goes with the close.
            DirectionEnd::Fin if self.up_ended && self.down_ended => {}
            DirectionEnd::Fin => net::send_fin(sender.other().of(self.flow)),
            DirectionEnd::SenderGone(error) => self.note_gone(sender, sender.reset_reason(), &error),
            DirectionEnd::ReceiverGone(error) => self.note_deaf(sender.other(), &error),
        }
    }

    /// Notes that a side takes nothing any more. If it is the server, and its FIN came before, its answer is complete.
    fn note_deaf(&mut self, side: Side, error: &io::Error) {
        let is_answered = side == Side::Server && self.down_ended;
        let reason = if is_answered { CloseReason::ServerClosed } else { side.reset_reason() };
        self.note_gone(side, reason, error);
    }

    fn note_gone(&mut self, side: Side, reason: CloseReason, error: &io::Error) {
        if self.gone.is_none() {
            tracing::debug!(backend = %self.flow.backend.name, ?side, %error, "one end is gone");
            self.gone = Some((side, reason));
            let now = Moment::now();
            self.drains_until = Some(now + RESET_DRAIN_ALL_MAX);
            self.silence.break_with(now, self.flow.outstanding());
            if side == Side::Server {
                self.meter.leave_server();
            }
        }
    }

    /// What the flow comes to, if no byte will move any more.
    fn ending(&self) -> Option<Ending> {
        match self.gone {
            // What the side that is gone sent before is still being delivered.
            Some((side, reason)) => self.direction_from_ended(side).then_some(Ending::Reset(side, reason)),
            None => (self.up_ended && self.down_ended).then_some(Ending::Clean),
        }
    }

    fn direction_from_ended(&self, side: Side) -> bool {
        match side {
            Side::Client => self.up_ended,
            Side::Server => self.down_ended,
        }
    }

    /// Whose turn it is: who does not take what is there for it, or else has not answered the other's FIN, or else the client.
    fn silent_side(&self) -> Side {
        let [for_client, for_server] = self.flow.outstanding();
        match () {
            () if self.down.is_stalled() || for_client > 0 => Side::Client,
            () if self.up.is_stalled() || for_server > 0 => Side::Server,
            () if self.up_ended && !self.down_ended => Side::Server,
            () => Side::Client,
        }
    }

    fn direction_from_is_stalled(&self, side: Side) -> bool {
        match side {
            Side::Client => self.up.is_stalled(),
            Side::Server => self.down.is_stalled(),
        }
    }

    /// Whether nobody reads a side's socket, because its direction is stalled or has ended with a FIN: nobody else would notice that
    /// it resets.
    fn is_unread(&self, side: Side) -> bool {
        self.gone.is_none() && (self.direction_from_is_stalled(side) || self.direction_from_ended(side))
    }

    /// Notes what was heard of sockets that nobody reads.
    fn note_errors(&mut self) {
        for side in [Side::Client, Side::Server] {
            let socket = side.of(self.flow);
            if self.is_unread(side) && net::has_error(socket) {
                self.note_deaf(side, &net::pending_error(socket));
            }
        }
    }

    /// Waits for an error on sockets that nobody reads. What has happened is known: [`Self::note_errors`].
    fn poll_watches(&self, cx: &mut Context<'_>) {
        for side in [Side::Client, Side::Server] {
            if self.is_unread(side) {
                let _ = side.of(self.flow).poll_failed(cx);
            }
        }
    }

    fn note_activity(&mut self, now: Moment) {
        self.silence.break_at(now);
        self.counts_at.get_or_insert(now + COUNTING_DELAY_MAX);
    }

    /// The silence that is allowed in this state.
    fn allowed(&self) -> Allowed {
        if let Some((_, reason)) = self.gone {
            let drain = Some((RESET_DRAIN_MAX, reason));
            return Allowed { quiet: drain, stuck: drain };
        }
        let (frontend, backend) = (self.meter.frontend(), self.flow.backend);
        let idle = shorter(frontend.idle_timeout, backend.idle_timeout);
        let idle = idle.map(|timeout| (timeout, CloseReason::IdleTimeout));
        if !(self.up_ended || self.down_ended) {
            return Allowed { quiet: idle, stuck: idle };
        }
        let half_closed = shorter(frontend.half_close_timeout, backend.half_close_timeout);
        let half_closed = half_closed.map(|timeout| (timeout, CloseReason::HalfCloseTimeout));
        // Whoever has not received everything yet cannot be expected to answer the FIN behind it.
        Allowed { quiet: half_closed.or(idle), stuck: idle }
    }

    pub(super) fn drains_until(&self) -> Option<Moment> {
        self.drains_until
    }

    /// What becomes of the sockets.
    pub(super) fn conclude(&self, ending: &Ending) -> FlowEnd {
        match *ending {
            Ending::Clean => {
                net::end_cleanly(self.flow.client);
                net::end_cleanly(self.flow.server);
                FlowEnd::cut(CloseReason::Finished)
            }
            // Only of interest, and only worth asking, if a timeout ended it.
            Ending::Cut(reason) => FlowEnd { reason, silent: Some(self.silent_side()) },
            Ending::Reset(_, reason) => FlowEnd::cut(reason),
        }
    }

    pub(super) fn next_tick(&self, now: Moment) -> Moment {
        // From this moment, not from the last activity: a tick in the past would come again at once, for ever.
        let far_off = now + Duration::from_secs(24 * 3600);
        [self.silence.next_look(self.allowed()), self.drains_until(), self.settles_at, self.counts_at]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(far_off)
    }

    /// Does what is due. `Some`: the flow ends.
    fn overdue(&mut self, now: Moment) -> Option<Ending> {
        if self.counts_at.is_some_and(|at| now >= at) {
            self.counts_at = None;
            self.meter.count();
        }
        if self.settles_at.is_some_and(|at| now >= at) {
            self.settles_at = None;
            settle(self.flow.server.get_ref(), self.flow.backend);
        }
        if let Some((_, reason)) = self.gone.filter(|_| self.drains_until().is_some_and(|until| now >= until))
        {
            return Some(Ending::Cut(reason));
        }
        let (allowed, flow) = (self.allowed(), self.flow);
        self.silence.overdue(now, allowed, || flow.outstanding()).map(Ending::Cut)
    }
}
