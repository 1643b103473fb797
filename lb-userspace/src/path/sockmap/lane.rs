// SPDX-License-Identifier: MIT OR Apache-2.0
//! One direction of a flow inside the kernel: how much it may have on its way, when it pauses, and when it has ended.

mod calm;
mod look;
mod share;
mod stuck;

use std::sync::Arc;
use std::time::Duration;

use lb_common::layout::Moved;
use lb_common::reason::PathKind;

use super::Backpressure;
use super::grant::Grant;
use super::legs::{Basis, Legs, index};
use super::pace::Pace;
use super::pump::{Pump, Stop};
use crate::net::{self, TcpInfo};
use crate::path::{Moved as Delivered, Side, Tools};
use crate::runtime::Moment;
use stuck::Stuck;

/// Between looks at a direction that waits: the first, and the longest.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The first [`lb_common::layout::Allowed::round`].
pub(super) const FIRST_ROUND: u64 = 1;

/// How long a direction that could go on waits for others to make room inside the kernel, before user space moves its bytes instead.
const STARVED_MAX: Duration = Duration::from_secs(1);

/// One direction.
#[derive(Debug)]
pub(super) struct Lane {
    /// Who sends.
    pub(super) sender: Side,
    /// Its sender's FIN has been carried across.
    pub(super) has_ended: bool,
    /// Events of the sender's and the receiver's socket that are waited for.
    pub(super) wants_input: bool,
    pub(super) wants_room: bool,
    basis: Basis,
    /// What user space had delivered before.
    before: Delivered,
    backpressure: Backpressure,
    grant: Grant,
    pace: Pace,
    pump: Pump,
    state: State,
    /// What the program may do now; see [`lb_common::layout::Allowed::round`].
    round: u64,
    /// Bytes that the program had handed over at the last look and the receiver had not accepted.
    backlog: u64,
    /// What had been accepted at the last look.
    accepted_before: u64,
    wait: Duration,
    /// Something that had come before a pause was not there after it.
    has_lost: bool,
    /// The program calls for the next segment.
    is_dozing: bool,
    /// What the program is told that is free again; see [`lb_common::layout::Allowed::freed`].
    freed: u64,
    stuck: Stuck,
    /// Since when the receiver has caught up and others hold the memory for what comes.
    starved_since: Option<Moment>,
    /// The sender has reset, and its socket holds nothing more.
    is_exhausted: bool,
    /// A side that moving bytes has shown to be gone.
    gone: Option<Side>,
    /// It is to leave the program's hands as soon as it can.
    is_leaving: bool,
}

/// Who moves what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The program.
    Hooked,
    /// Nobody, until the receiver has accepted what is on its way.
    Paused,
    /// User space, until nothing moves; or until the end, if the kernel takes the socket into no map any more.
    Withdrawn,
}

/// What came of leaving a direction to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// The program has it.
    Inside,
    /// Others hold the memory for what waits of it.
    Crowded,
    /// More waits than may come at once, or the kernel does not take the socket.
    Refused,
}

/// What a look at a direction comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// When to look again, if no event comes before.
    pub(super) again: Option<Duration>,
    /// Bytes were lost, or do not move any more: the flow must end loudly.
    pub(super) is_broken: bool,
    /// Everything that the sender ever sent has been accepted by the receiver's socket.
    pub(super) is_complete: bool,
    /// This side's connection has turned out to be broken.
    pub(super) gone: Option<Side>,
}

/// What the flow knows of its sockets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    /// By side.
    pub(super) infos: &'a [TcpInfo; 2],
    /// The sender's FIN has come.
    pub(super) has_fin: bool,
    /// The sender has reset.
    pub(super) is_gone: bool,
    /// How often user space has found bytes of the other direction to move.
    pub(super) answers_outside: u64,
    /// This moment.
    pub(super) now: Moment,
}

impl Lane {
    pub(super) fn new(
        sender: Side,
        grant: Grant,
        basis: Basis,
        is_hooked: bool,
        before: Delivered,
        backpressure: Backpressure,
    ) -> Self {
        let has_share = grant.share > 0;
        Self {
            sender,
            has_ended: false,
            wants_input: false,
            wants_room: false,
            basis,
            before,
            backpressure,
            grant,
            pace: Pace::new(Moment::now()),
            pump: Pump::default(),
            state: if is_hooked { State::Hooked } else { State::Withdrawn },
            round: FIRST_ROUND,
            backlog: 0,
            accepted_before: 0,
            wait: WAIT_MIN,
            has_lost: false,
            is_dozing: !has_share,
            freed: 0,
            stuck: Stuck::default(),
            starved_since: None,
            is_exhausted: false,
            gone: None,
            is_leaving: false,
        }
    }

    /// Bytes that wait for the receiver's socket, as of the last look.
    pub(super) fn backlog(&self) -> u64 {
        self.backlog + self.pump.held()
    }

    /// Looks, writes down what has been delivered, and does what is due.
    pub(super) fn step(
        &mut self,
        legs: &Legs,
        sight: &Sight<'_>,
        tools: &Tools,
        delivered: &mut Delivered,
    ) -> Step {
        (self.wants_input, self.wants_room) = (false, false);
        self.account(sight.infos, delivered);
        let step = self.act(legs, sight, tools);
        // What user space has just moved.
        delivered[PathKind::Splice.index()] = self.spliced();
        step
    }

    /// Writes down what has been delivered.
    pub(super) fn account(&self, infos: &[TcpInfo; 2], delivered: &mut Delivered) {
        delivered[PathKind::Sockmap.index()] = self.accepted(infos).saturating_sub(self.pump.spliced);
        delivered[PathKind::Splice.index()] = self.spliced();
    }

    fn spliced(&self) -> u64 {
        self.before[PathKind::Splice.index()] + self.pump.spliced
    }

    /// Bytes of this direction that the receiver's socket has accepted.
    fn accepted(&self, infos: &[TcpInfo; 2]) -> u64 {
        infos[index(self.sender.other())].accepted.wrapping_sub(self.basis.accepted)
    }

    fn act(&mut self, legs: &Legs, sight: &Sight<'_>, tools: &Tools) -> Step {
        let accepted = self.accepted(sight.infos);
        let moved = legs.moved(self.sender);
        let carried = accepted.saturating_sub(self.pump.spliced);
        let inside = moved.inside_after(carried);
        self.backlog = moved.redirected.saturating_sub(carried);
        self.freed = self.freed.max(moved.charged - inside);
        self.note_progress(accepted);
        if moved.dropped > 0 || self.has_lost || self.is_stuck(legs, sight.now) {
            let (dropped, has_lost, backlog) = (moved.dropped, self.has_lost, self.backlog);
            tracing::debug!(dropped, has_lost, inside, backlog, state = ?self.state, "a direction inside the kernel is broken");
            return Step { is_broken: true, ..Step::default() };
        }
        if sight.has_fin && self.received(sight) == accepted + 1 && !self.pump.is_holding() {
            return Step { is_complete: true, ..Step::default() };
        }
        // No segment may come any more that would do so.
        legs.take_back(self.sender, inside.saturating_sub(self.grant.share));
        let again = self.move_on(legs, &moved, inside, tools, sight);
        let is_delivered = sight.is_gone && self.backlog == 0 && !self.pump.is_holding();
        Step {
            again,
            is_broken: false,
            is_complete: is_delivered && (self.state != State::Withdrawn || self.is_exhausted),
            gone: self.gone.take(),
        }
    }

    /// Does what its state asks for; when to look again.
    fn move_on(
        &mut self,
        legs: &Legs,
        moved: &Moved,
        inside: u64,
        tools: &Tools,
        sight: &Sight<'_>,
    ) -> Option<Duration> {
        match self.state {
            State::Hooked => self.run(legs, moved, inside, sight),
            State::Paused if sight.is_gone => self.withdraw(legs),
            State::Paused if self.backlog == 0 && self.backpressure == Backpressure::Outside => {
                self.withdraw(legs)
            }
            State::Paused if self.backlog == 0 => self.resume(legs, sight),
            State::Paused => self.await_room(),
            State::Withdrawn if self.backlog > 0 => self.await_room(),
            State::Withdrawn => {
                let (from, to) = (legs.socket(self.sender), legs.socket(self.sender.other()));
                let stop = self.pump.run(from, to, tools);
                self.is_exhausted = sight.is_gone && matches!(stop, Stop::Sender | Stop::SenderGone);
                let may_enter = !sight.is_gone && !sight.has_fin && !self.pump.is_holding();
                // The program needs no pipe.
                if may_enter && stop == Stop::Scarcity && self.enter(legs) == Entry::Inside {
                    return Some(WAIT_MIN);
                }
                self.await_stop(stop)
            }
        }
    }

    /// The program moves bytes: grants it more, or pauses it, and answers its call.
    fn run(&mut self, legs: &Legs, moved: &Moved, inside: u64, sight: &Sight<'_>) -> Option<Duration> {
        let is_short = self.is_short(legs, moved, inside);
        if moved.redirected >= self.look_at() && self.pace.take(&self.look(legs, moved, sight)) == Some(true)
        {
            self.is_leaving = true;
        }
        if (self.is_leaving || is_short && !self.grant.grow()) && !sight.is_gone {
            return self.pause(legs);
        }
        if is_short || moved.rung == self.round {
            self.answer(legs);
        }
        if sight.has_fin || sight.is_gone {
            net::kick(legs.socket(self.sender));
            return self.await_room();
        }
        None
    }

    /// What the sender sends stays in its socket from now on.
    fn pause(&mut self, legs: &Legs) -> Option<Duration> {
        if !legs.unhook(self.sender) {
            // The program takes what was turned away.
            self.answer(legs);
            return Some(WAIT_MIN);
        }
        self.open(legs);
        legs.station().pauses.inc();
        self.state = State::Paused;
        self.await_room()
    }

    /// The receiver has accepted everything.
    fn resume(&mut self, legs: &Legs, sight: &Sight<'_>) -> Option<Duration> {
        match self.enter(legs) {
            Entry::Inside => self.starved_since = None,
            Entry::Crowded => return self.await_memory(legs, sight.now),
            Entry::Refused => return self.withdraw(legs),
        }
        // All that had come is in the program's hands again; a FIN counts as one.
        self.has_lost = self.received(sight) > legs.moved(self.sender).redirected + self.pump.spliced + 1;
        if self.has_lost { Some(Duration::ZERO) } else { sight.has_fin.then_some(WAIT_MIN) }
    }

    /// Leaves the direction to the program, and at once all that waits of it.
    fn enter(&mut self, legs: &Legs) -> Entry {
        if self.grant.share == 0 && !self.grant.grow() {
            return Entry::Crowded;
        }
        let pool = Arc::clone(&self.grant.pool);
        let waiting = net::received_memory(legs.socket(self.sender)).unwrap_or(0);
        if waiting > pool.burst_max() {
            return Entry::Refused;
        }
        // It counts from when the socket is hooked, for that runs the program over it.
        let Some(_coming) = pool.announce(waiting, || legs.overdraft()) else { return Entry::Crowded };
        self.answer(legs);
        if legs.hook(self.sender).is_err() {
            self.open(legs);
            return Entry::Refused;
        }
        self.state = State::Hooked;
        (self.wants_input, self.wants_room) = (false, false);
        Entry::Inside
    }

    /// What has come from the sender since the hand-over, in bytes; its FIN counts as one.
    fn received(&self, sight: &Sight<'_>) -> u64 {
        sight.infos[index(self.sender)].received.wrapping_sub(self.basis.taken)
    }

    /// Others may stand still for as long as they like, and hold the memory.
    fn await_memory(&mut self, legs: &Legs, now: Moment) -> Option<Duration> {
        let since = *self.starved_since.get_or_insert(now);
        if now >= since + STARVED_MAX { self.withdraw(legs) } else { self.await_room() }
    }

    fn withdraw(&mut self, legs: &Legs) -> Option<Duration> {
        legs.station().withdrawals.inc();
        (self.starved_since, self.is_leaving) = (None, false);
        self.state = State::Withdrawn;
        if self.backlog == 0 {
            self.grant.end();
        }
        Some(Duration::ZERO)
    }

    fn await_stop(&mut self, stop: Stop) -> Option<Duration> {
        match stop {
            Stop::Turn => Some(Duration::ZERO),
            Stop::Receiver => self.await_room(),
            Stop::Sender => {
                self.wants_input = true;
                Some(self.wait)
            }
            Stop::Scarcity => Some(self.wait),
            Stop::SenderGone => self.note_gone(self.sender),
            Stop::ReceiverGone => self.note_gone(self.sender.other()),
        }
    }

    fn note_gone(&mut self, side: Side) -> Option<Duration> {
        self.gone = Some(side);
        Some(self.wait)
    }

    fn await_room(&mut self) -> Option<Duration> {
        self.wants_room = true;
        Some(self.wait)
    }

    fn note_progress(&mut self, accepted: u64) {
        let has_moved = std::mem::replace(&mut self.accepted_before, accepted) != accepted;
        self.wait = if has_moved { WAIT_MIN } else { (self.wait * 2).min(WAIT_MAX) };
        if has_moved {
            self.stuck = Stuck::default();
        }
    }
}
