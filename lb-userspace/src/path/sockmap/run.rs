// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow inside the kernel, as user space has it: asleep until an end, a call of the program or a timeout.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lb_common::reason::CloseReason;
use rustix::event::epoll::EventFlags;

use super::lane::{Lane, Sight, Step};
use super::legs::{Legs, index};
use crate::config;
use crate::net::{self, TcpInfo};
use crate::path::drain::{RESET_DRAIN_ALL_MAX, RESET_DRAIN_MAX};
use crate::path::flow::COUNTING_DELAY_MAX;
use crate::path::meter::Meter;
use crate::path::settle::{SETTLED_AGE, settle};
use crate::path::silence::{Allowed, Outstanding, Silence, shorter};
use crate::path::{Side, Tools};
use crate::runtime::{Moment, Sleep, wake_later};

/// After something has moved: when to look whether it still does.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// What is left to do when no more bytes will move.
#[derive(Debug)]
pub(super) enum Ending {
    /// Both directions ended with a FIN.
    Clean,
    /// This side is gone; what it sent is in the other's socket.
    Reset(Side, CloseReason),
    /// Both sides are cut now; who let a timeout pass, if it was one.
    Cut(CloseReason, Option<Side>),
}

/// The state of a flow while it runs.
pub(super) struct Run<'a> {
    pub(super) legs: &'a Legs,
    /// By sender.
    lanes: [Lane; 2],
    backend: &'a config::Backend,
    tools: &'a Tools,
    meter: &'a mut Meter,
    /// By side: its FIN has come.
    fins: [bool; 2],
    /// The side that reset or died, once known, and what that makes of the flow.
    gone: Option<(Side, CloseReason)>,
    /// Nobody is left to take anything.
    are_both_gone: bool,
    /// Until when the other side may take what that one sent, at the latest.
    drains_until: Option<Moment>,
    silence: Silence,
    again_at: Option<Moment>,
    look_at: Option<Moment>,
    settles_at: Option<Moment>,
    counts_at: Option<Moment>,
    has_started: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        legs: &'a Legs,
        lanes: [Lane; 2],
        backend: &'a config::Backend,
        tools: &'a Tools,
        meter: &'a mut Meter,
        now: Moment,
    ) -> Self {
        Self {
            legs,
            lanes,
            backend,
            tools,
            meter,
            fins: [false; 2],
            gone: None,
            are_both_gone: false,
            drains_until: None,
            silence: Silence::new(now),
            again_at: None,
            look_at: Some(now + LOOK_AGAIN),
            settles_at: Some(now + SETTLED_AGE),
            counts_at: None,
            has_started: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Poll<Ending> {
        self.legs.seat.listen(cx.waker());
        self.legs.watched.listen(cx.waker());
        loop {
            let now = Moment::now();
            let heard = self.hear(now);
            let is_called = self.legs.seat.take_call();
            let is_due =
                self.again_at.is_some_and(|at| now >= at) || self.look_at.is_some_and(|at| now >= at);
            if (heard || is_called || is_due || !std::mem::replace(&mut self.has_started, true))
                && let Some(ending) = self.look(now, is_called)
            {
                return Poll::Ready(ending);
            }
            if let Some((_, reason)) = self.gone.filter(|_| self.are_both_gone) {
                return Poll::Ready(Ending::Cut(reason, None));
            }
            if let Some(ending) = self.overdue(now) {
                return Poll::Ready(ending);
            }
            let next = self.next_tick(now);
            if next <= now {
                // At once, but others have their turn first.
                wake_later(cx);
                return Poll::Pending;
            }
            if tick.deadline() != next || tick.is_elapsed() {
                tick.as_mut().reset(next);
            }
            if tick.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes in what the sockets report; whether that is anything.
    fn hear(&mut self, now: Moment) -> bool {
        let events = self.legs.watched.take();
        for side in SIDES {
            let event = events[index(side)];
            if event.contains(EventFlags::ERR) {
                self.note_gone(side, now);
            } else if event.contains(EventFlags::RDHUP) && !self.fins[index(side)] {
                self.fins[index(side)] = true;
                self.silence.break_at(now);
            }
        }
        events.iter().any(|event| !event.is_empty())
    }

    /// Notes that a side has reset. If it is the server, and its FIN was carried across before, its answer is complete.
    fn note_gone(&mut self, side: Side, now: Moment) {
        if let Some((gone, _)) = self.gone {
            self.are_both_gone |= gone != side;
            return;
        }
        let error = net::pending_error(self.legs.socket(side));
        tracing::debug!(backend = %self.backend.name, ?side, %error, "one end is gone");
        let is_answered = side == Side::Server && self.lanes[index(Side::Server)].has_ended;
        let reason = if is_answered { CloseReason::ServerClosed } else { side.reset_reason() };
        self.gone = Some((side, reason));
        self.drains_until = Some(now + RESET_DRAIN_ALL_MAX);
        if side == Side::Server {
            self.meter.leave_server();
        }
        // Nobody takes what the other side still sends: whether it is out of the map or only turned away is no matter.
        let _ = self.legs.unhook(side.other());
        self.silence.break_with(now, self.outstanding());
    }

    /// Notes who has reset, should nobody have said so: whoever moves bytes may be told instead, and then events are silent about it.
    fn note_closed(&mut self, infos: &[TcpInfo; 2], now: Moment) {
        for side in SIDES {
            // It is closed by FINs only after it was sent one.
            if infos[index(side)].is_closed && !self.lanes[index(side.other())].has_ended {
                self.note_gone(side, now);
            }
        }
    }

    /// Looks at both directions, and does what is due. `Some`: the flow ends.
    fn look(&mut self, now: Moment, is_called: bool) -> Option<Ending> {
        let infos = self.infos();
        let before = self.meter.carried;
        let was_backlogged = self.is_backlogged();
        self.again_at = None;
        self.note_closed(&infos, now);
        for side in SIDES {
            self.legs.learn(side, &infos[index(side)]);
        }
        for side in SIDES {
            if self.lanes[index(side)].has_ended || self.gone.is_some_and(|(gone, _)| gone != side) {
                continue;
            }
            let step = self.step(side, &infos, now);
            if let Some(side) = step.gone {
                self.note_gone(side, now);
            }
            if step.is_broken {
                tracing::warn!(backend = %self.backend.name, ?side, "bytes on path sockmap do not arrive: both ends are reset");
                return Some(Ending::Cut(CloseReason::PathFailed, None));
            }
            if step.is_complete
                && let Some(ending) = self.complete(side, now)
            {
                return Some(ending);
            }
            if let Some(again) = step.again {
                self.again_at = self.again_at.into_iter().chain([now + again]).min();
            }
        }
        self.wish();
        if self.meter.carried != before {
            self.note_activity(&infos, was_backlogged, now);
        } else if self.look_at.is_some_and(|at| now >= at) {
            self.look_at = (self.rest() || was_backlogged).then_some(now + LOOK_AGAIN);
        } else if is_called {
            self.look_at.get_or_insert(now + LOOK_AGAIN);
        }
        None
    }

    /// Nothing moves; whether a direction has been left to the program, and may have moved something meanwhile.
    fn rest(&mut self) -> bool {
        if self.gone.is_some() {
            return false;
        }
        let is_whole = self.fins == [false; 2];
        let mut has_changed = false;
        for lane in &mut self.lanes {
            has_changed |= is_whole && lane.rejoin(self.legs);
            lane.doze(self.legs);
        }
        self.wish();
        has_changed
    }

    /// By side.
    fn infos(&self) -> [TcpInfo; 2] {
        // The kernel answers for every TCP socket that is open.
        SIDES.map(|side| net::tcp_info(self.legs.socket(side)).unwrap_or_default())
    }

    fn step(&mut self, side: Side, infos: &[TcpInfo; 2], now: Moment) -> Step {
        let sight = Sight {
            infos,
            has_fin: self.fins[index(side)] && self.gone.is_none(),
            is_gone: self.gone.is_some(),
            answers_outside: self.lanes[index(side.other())].takes(),
            now,
        };
        let delivered = match side {
            Side::Client => &mut self.meter.carried.up,
            Side::Server => &mut self.meter.carried.down,
        };
        self.lanes[index(side)].step(self.legs, &sight, self.tools, delivered)
    }

    /// Everything that this side sent is in the other's socket.
    fn complete(&mut self, side: Side, now: Moment) -> Option<Ending> {
        if let Some((gone, reason)) = self.gone {
            return Some(Ending::Reset(gone, reason));
        }
        self.lanes[index(side)].has_ended = true;
        // The half-close timeout begins with the half-close, however long the flow was silent before.
        self.silence.break_at(now);
        if self.lanes.iter().all(|lane| lane.has_ended) {
            // The last FIN goes with the close.
            return Some(Ending::Clean);
        }
        net::send_fin(self.legs.socket(side.other()));
        None
    }

    /// Hears of input and room where a direction waits for it.
    fn wish(&self) {
        for side in SIDES {
            let (sends, receives) = (&self.lanes[index(side)], &self.lanes[index(side.other())]);
            let mut wish = EventFlags::empty();
            wish.set(EventFlags::IN, sends.wants_input);
            wish.set(EventFlags::OUT, receives.wants_room);
            self.legs.wish(side, wish);
        }
    }

    /// Something has been delivered since the last look: it came when bytes last came, or just now, if they had been waiting.
    fn note_activity(&mut self, infos: &[TcpInfo; 2], was_backlogged: bool, now: Moment) {
        let silent_for = infos.iter().map(|info| info.silent_for).min().unwrap_or_default();
        let at = if was_backlogged || self.is_backlogged() { now } else { now - silent_for };
        self.silence.break_at(at);
        self.look_at = Some(now + LOOK_AGAIN);
        self.counts_at.get_or_insert(now + COUNTING_DELAY_MAX);
    }

    fn is_backlogged(&self) -> bool {
        self.lanes.iter().any(|lane| lane.backlog() > 0)
    }

    /// What waits in the send buffers and in front of them.
    fn outstanding(&self) -> Outstanding {
        SIDES.map(|side| {
            // A socket that is gone has nothing outstanding.
            let unacknowledged = net::unacknowledged_bytes(self.legs.socket(side)).unwrap_or(0);
            let backlog = u32::try_from(self.lanes[index(side.other())].backlog()).unwrap_or(u32::MAX);
            unacknowledged.saturating_add(backlog)
        })
    }

    /// Whose turn it is: who does not take what is there for it, or else has not answered the other's FIN, or else the client.
    fn silent_side(&self) -> Side {
        let [for_client, for_server] = self.outstanding();
        let [up_ended, down_ended] = self.lanes.each_ref().map(|lane| lane.has_ended);
        match () {
            () if for_client > 0 => Side::Client,
            () if for_server > 0 => Side::Server,
            () if up_ended && !down_ended => Side::Server,
            () => Side::Client,
        }
    }

    /// The silence that is allowed in this state.
    fn allowed(&self) -> Allowed {
        if let Some((_, reason)) = self.gone {
            let drain = Some((RESET_DRAIN_MAX, reason));
            return Allowed { quiet: drain, stuck: drain };
        }
        let (frontend, backend) = (self.meter.frontend(), self.backend);
        let idle = shorter(frontend.idle_timeout, backend.idle_timeout);
        let idle = idle.map(|timeout| (timeout, CloseReason::IdleTimeout));
        if !self.lanes.iter().any(|lane| lane.has_ended) {
            return Allowed { quiet: idle, stuck: idle };
        }
        let half_closed = shorter(frontend.half_close_timeout, backend.half_close_timeout);
        let half_closed = half_closed.map(|timeout| (timeout, CloseReason::HalfCloseTimeout));
        Allowed { quiet: half_closed.or(idle), stuck: idle }
    }

    /// Until when the side that is not gone may take what the other sent; `None`: neither is gone.
    pub(super) fn drains_until(&self) -> Option<Moment> {
        self.drains_until
    }

    fn next_tick(&self, now: Moment) -> Moment {
        let far_off = now + Duration::from_secs(24 * 3600);
        let silence = self.silence.next_look(self.allowed());
        [silence, self.again_at, self.look_at, self.settles_at, self.counts_at, self.drains_until]
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
            settle(self.legs.socket(Side::Server), self.backend);
        }
        if let Some((_, reason)) = self.gone.filter(|_| self.drains_until.is_some_and(|until| now >= until)) {
            return Some(Ending::Cut(reason, None));
        }
        if self.silence.next_look(self.allowed()).is_none_or(|at| now < at) {
            return None;
        }
        // Nobody has told of what was carried meanwhile.
        if let Some(ending) = self.look(now, false) {
            return Some(ending);
        }
        let (allowed, outstanding) = (self.allowed(), self.outstanding());
        let reason = self.silence.overdue(now, allowed, || outstanding)?;
        match self.gone {
            // Who should take the rest has had his time.
            Some((_, reason)) => Some(Ending::Cut(reason, None)),
            None => Some(Ending::Cut(reason, Some(self.silent_side()))),
        }
    }
}

impl Drop for Run<'_> {
    /// What was carried since the last look counts, too, whatever ends the flow.
    fn drop(&mut self) {
        let infos = self.infos();
        for (lane, delivered) in
            self.lanes.iter().zip([&mut self.meter.carried.up, &mut self.meter.carried.down])
        {
            // Behind its end, the FIN would count until it is sent.
            if !lane.has_ended {
                lane.account(&infos, delivered);
            }
        }
    }
}
