// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow carried in user space: two directions, the end of each, and the timeouts.
//!
//! How ends are carried across: a FIN becomes a FIN behind the last byte. A reset becomes a reset, once the bytes that arrived
//! before it are delivered and acknowledged, or a deadline has passed. Both sockets reset on close (linger 0) until both
//! directions ended with a FIN, so that whatever stops the agent in between is never mistaken for a clean end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use lb_common::reason::CloseReason;
use tokio::io::Interest;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Strategy;
use super::direction::{Direction, DirectionEnd, Tools};
use super::meter::{Carried, Meter};
use crate::config;
use crate::net::{self, Socket};

/// How long bytes that arrived before a reset may take to be acknowledged before the reset is passed on without them.
const RESET_DRAIN_MAX: Duration = Duration::from_secs(5);

/// A flow of at least this age gets keepalive and user timeout on the server's leg: shorter ones never need them.
const SETTLED_AGE: Duration = Duration::from_secs(5);

/// How late the counters may show bytes of a flow that goes on.
const COUNTING_DELAY_MAX: Duration = Duration::from_secs(1);

/// Two connected sockets and how to carry bytes between them.
#[derive(Debug)]
pub struct Flow<'a> {
    /// The client's leg.
    pub client: &'a Socket,
    /// The server's leg.
    pub server: &'a Socket,
    /// How bytes move.
    pub strategy: Strategy,
    /// The client's first bytes wait in its socket.
    pub has_bytes_waiting: bool,
    /// Timeouts and socket options of the server's leg.
    pub backend: &'a config::Backend,
}

/// Carries a flow to its end, and says why it ended. `meter` is up to date whenever this future is not being polled.
pub async fn carry(flow: Flow<'_>, tools: &Tools, meter: &mut Meter) -> CloseReason {
    let mut run = Run::new(&flow);
    let mut tick = pin!(sleep_until(run.next_tick()));
    let ending = poll_fn(|cx| run.poll(cx, tools, meter, tick.as_mut())).await;
    match ending {
        Ending::Clean => {
            net::end_cleanly(flow.client);
            net::end_cleanly(flow.server);
            CloseReason::Finished
        }
        Ending::Cut(close) => close,
        Ending::Reset(side) => {
            let other = side.other().of(&flow);
            net::push(other);
            wait_until_acknowledged(other).await;
            side.reset_reason()
        }
    }
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    fn of<'a>(self, flow: &Flow<'a>) -> &'a Socket {
        match self {
            Self::Client => flow.client,
            Self::Server => flow.server,
        }
    }

    fn reset_reason(self) -> CloseReason {
        match self {
            Self::Client => CloseReason::ClientReset,
            Self::Server => CloseReason::ServerReset,
        }
    }
}

/// What is left to do when no more bytes will move.
#[derive(Debug)]
enum Ending {
    /// Both directions ended with a FIN.
    Clean,
    /// This side is gone; what it sent is in the other's socket.
    Reset(Side),
    /// Both sides are cut now.
    Cut(CloseReason),
}

/// A wait for an error on a socket that nobody reads, because the other end does not take what was read before.
type ErrorWatch<'a> = Option<Pin<Box<dyn Future<Output = ()> + 'a>>>;

/// The state of a flow while it runs.
struct Run<'a> {
    flow: &'a Flow<'a>,
    /// From the client to the server.
    up: Direction<'a>,
    /// From the server to the client.
    down: Direction<'a>,
    up_ended: bool,
    down_ended: bool,
    /// The side that reset, once known, and when its reset is passed on at the latest.
    gone: Option<(Side, Instant)>,
    watches: [ErrorWatch<'a>; 2],
    last_activity: Instant,
    settles_at: Option<Instant>,
    /// When bytes that the counters do not show are counted at the latest.
    counts_at: Option<Instant>,
}

impl<'a> Run<'a> {
    fn new(flow: &'a Flow<'a>) -> Self {
        let now = Instant::now();
        Self {
            flow,
            up: Direction::new(flow.client, flow.server, flow.strategy)
                .with_bytes_waiting(flow.has_bytes_waiting),
            down: Direction::new(flow.server, flow.client, flow.strategy),
            up_ended: false,
            down_ended: false,
            gone: None,
            watches: [None, None],
            last_activity: now,
            settles_at: Some(now + SETTLED_AGE),
            counts_at: None,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tools: &Tools,
        meter: &mut Meter,
        mut tick: Pin<&mut Sleep>,
    ) -> Poll<Ending> {
        let moved = self.poll_directions(cx, tools);
        self.note_activity(meter);
        if moved.is_ready() {
            return moved;
        }
        self.poll_watches(cx);
        loop {
            if let Some(cut) = self.overdue(Instant::now(), meter) {
                return Poll::Ready(cut);
            }
            let next = self.next_tick();
            if tick.deadline() > next || tick.is_elapsed() {
                tick.as_mut().reset(next);
            }
            if tick.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_directions(&mut self, cx: &mut Context<'_>, tools: &Tools) -> Poll<Ending> {
        if !self.up_ended
            && let Poll::Ready(end) = self.up.poll(cx, tools)
        {
            self.up_ended = true;
            self.ended(end, Side::Client);
        }
        if !self.down_ended
            && let Poll::Ready(end) = self.down.poll(cx, tools)
        {
            self.down_ended = true;
            self.ended(end, Side::Server);
        }
        match self.gone {
            // What the side that is gone sent before is still being delivered.
            Some((side, _)) if !self.direction_from_ended(side) => Poll::Pending,
            Some((side, _)) => Poll::Ready(Ending::Reset(side)),
            None if self.up_ended && self.down_ended => Poll::Ready(Ending::Clean),
            None => Poll::Pending,
        }
    }

    /// Notes the end of the direction that `sender` sends in.
    fn ended(&mut self, end: DirectionEnd, sender: Side) {
        // The half-close timeout begins with the half-close, however long the flow was silent before.
        self.last_activity = Instant::now();
        match end {
            // Behind a reset that the other direction met first, an end of file is not the peer's word.
            DirectionEnd::Fin if self.gone.is_some() => {}
            // The last FIN goes with the close.
            DirectionEnd::Fin if self.up_ended && self.down_ended => {}
            DirectionEnd::Fin => net::send_fin(sender.other().of(self.flow)),
            DirectionEnd::SenderGone => self.note_gone(sender),
            DirectionEnd::ReceiverGone => self.note_gone(sender.other()),
        }
    }

    fn note_gone(&mut self, side: Side) {
        if self.gone.is_none() {
            self.gone = Some((side, Instant::now() + RESET_DRAIN_MAX));
        }
    }

    fn direction_from_ended(&self, side: Side) -> bool {
        match side {
            Side::Client => self.up_ended,
            Side::Server => self.down_ended,
        }
    }

    /// Watches senders whose direction is stalled: nobody reads from them, so nobody would notice that they reset.
    fn poll_watches(&mut self, cx: &mut Context<'_>) {
        if self.gone.is_some() {
            return;
        }
        for side in [Side::Client, Side::Server] {
            let (is_stalled, has_ended) = match side {
                Side::Client => (self.up.is_stalled(), self.up_ended),
                Side::Server => (self.down.is_stalled(), self.down_ended),
            };
            let watch = &mut self.watches[side as usize];
            if !is_stalled || has_ended {
                *watch = None;
                continue;
            }
            let socket = side.of(self.flow);
            let waiting = watch.get_or_insert_with(|| {
                Box::pin(async move {
                    let _ = socket.ready(Interest::ERROR).await;
                })
            });
            if waiting.as_mut().poll(cx).is_ready() {
                *watch = None;
                self.note_gone(side);
            }
        }
    }

    fn note_activity(&mut self, meter: &mut Meter) {
        let carried = Carried {
            received: self.up.total(),
            sent: self.down.total(),
            by_path: std::array::from_fn(|index| self.up.moved[index] + self.down.moved[index]),
        };
        if carried != meter.carried {
            meter.carried = carried;
            self.last_activity = Instant::now();
            self.counts_at.get_or_insert(self.last_activity + COUNTING_DELAY_MAX);
        }
    }

    /// The timeout that applies now, with the word for it.
    fn silence_allowed(&self) -> Option<(Duration, CloseReason)> {
        let idle = self.flow.backend.idle_timeout.map(|timeout| (timeout, CloseReason::IdleTimeout));
        if !(self.up_ended || self.down_ended) {
            return idle;
        }
        let half_closed =
            self.flow.backend.half_close_timeout.map(|timeout| (timeout, CloseReason::HalfCloseTimeout));
        half_closed.or(idle)
    }

    fn next_tick(&self) -> Instant {
        let idle_at = self.silence_allowed().map(|(timeout, _)| self.last_activity + timeout);
        // From this moment, not from the last activity: a tick in the past would come again at once, for ever.
        let far_off = Instant::now() + Duration::from_secs(24 * 3600);
        [idle_at, self.settles_at, self.counts_at, self.gone.map(|(_, at)| at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(far_off)
    }

    /// Does what is due. `Some`: the flow ends.
    fn overdue(&mut self, now: Instant, meter: &mut Meter) -> Option<Ending> {
        if self.counts_at.is_some_and(|at| now >= at) {
            self.counts_at = None;
            meter.count();
        }
        if let Some((side, at)) = self.gone
            && now >= at
        {
            return Some(Ending::Cut(side.reset_reason()));
        }
        if self.settles_at.is_some_and(|at| now >= at) {
            self.settles_at = None;
            settle(self.flow);
        }
        let (timeout, reason) = self.silence_allowed()?;
        (now >= self.last_activity + timeout).then_some(Ending::Cut(reason))
    }
}

/// Sets what a long-lived flow needs on the server's leg. The client's leg inherited it from the listener.
fn settle(flow: &Flow<'_>) {
    // The kernel only refuses values that the configuration does not allow.
    if let Some(keepalive) = flow.backend.keepalive {
        let _ = net::set_keepalive(flow.server.get_ref(), keepalive);
    }
    if let Some(timeout) = flow.backend.user_timeout {
        let _ = net::set_user_timeout(flow.server.get_ref(), timeout);
    }
}

/// Waits until the peer's kernel has everything, so that a reset behind it discards nothing.
async fn wait_until_acknowledged(socket: &Socket) {
    let deadline = Instant::now() + RESET_DRAIN_MAX;
    let mut pause = Duration::from_millis(1);
    while Instant::now() < deadline {
        match net::unacknowledged_bytes(socket.get_ref()) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
