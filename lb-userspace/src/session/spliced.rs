// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session whose flow is to leave this process: programs translate its packets, and its sockets are thrown away.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use lb_common::reason::{CloseReason, PacketObstacle, PathKind};

use super::{Legs, finish, finish_flow, or_cut, path_choice};
use crate::backend::{Backend, ServerSlot};
use crate::journal::{Journal, Kin, Story};
use crate::path::packet::{self, Brevity, Kinship, OnItsOwn, Port, Spliced};
use crate::path::{self, Flow, FlowEnd, JoinedHeader, Start, Strategy, Without};
use crate::runtime::spawn;
use crate::worker::Worker;

/// Goes on with a session in a task of its own: no other flow keeps room for it.
pub(super) fn move_away(
    worker: &Rc<Worker>,
    legs: Legs,
    journal: Box<Journal>,
    slot: ServerSlot,
    header: Option<Box<JoinedHeader>>,
) {
    spawn(Departure::Leaving(Box::pin(leave(Rc::clone(worker), legs, journal, slot, header))));
}

/// Carries a flow in user space until programs do; `None`: it has ended before.
async fn leave(
    worker: Rc<Worker>,
    legs: Legs,
    mut journal: Box<Journal>,
    slot: ServerSlot,
    header: Option<Box<JoinedHeader>>,
) -> Option<Watched> {
    let may_be_cut = slot.server().may_be_cut().then(|| Arc::clone(slot.server()));
    let backend = journal.backend();
    journal.hand_over(slot, Strategy::of(path_choice(&backend, &journal).path).first());
    // Others get it when the socket is gone, and the flow.
    let port = journal.take_port();
    let approaching = Box::pin(approach(&worker, &backend, &legs, &mut journal, (port.clone(), header)));
    let mut spliced = match or_cut(approaching, &may_be_cut, |reason| Err(FlowEnd::cut(reason))).await {
        Ok(spliced) => spliced,
        Err(flow_end) => {
            finish_flow(&worker, legs, *journal, flow_end);
            return None;
        }
    };
    journal.change_path(PathKind::Packet);
    if let Err(error) = spliced.discard(legs.client.get_ref(), legs.server.get_ref()) {
        tracing::error!(%error, "a flow on path packet is broken: both ends are reset");
        journal.note_translated(spliced.translated());
        // In this order: while programs know the flow, they let no reset of its sockets out.
        spliced.cut();
        drop(legs);
        finish(&worker, *journal, CloseReason::PathFailed);
        return None;
    }
    drop(legs);
    spliced.note_discarded();
    Some(Watched::new(worker, Leaving::new(spliced, journal.depart())))
}

/// Goes on with a flow that another agent has left, in a task of its own.
pub fn resume(worker: &Rc<Worker>, spliced: Spliced, kin: Kin) {
    spawn(Departure::Left(Watched::new(Rc::clone(worker), Leaving::new(spliced, kin))));
}

/// Most bytes of a task that watches a flow which needs nobody, so that nobody makes it larger without noticing: all of them have one.
const DEPARTURE_MAX: usize = 168;

const _: () = assert!(size_of::<Departure>() <= DEPARTURE_MAX);

/// A flow that leaves, and then one that has left. What it takes to get there is given back before the flow is watched: it is far more than that takes.
// Not `async`: that would keep everything twice.
enum Departure {
    Leaving(Pin<Box<dyn Future<Output = Option<Watched>>>>),
    Left(Watched),
}

impl Future for Departure {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Self::Leaving(leaving) => match ready!(leaving.as_mut().poll(cx)) {
                    Some(watched) => self.set(Self::Left(watched)),
                    None => return Poll::Ready(()),
                },
                Self::Left(watched) => return watched.poll_end(cx).map(|flow_end| watched.end(flow_end)),
            }
        }
    }
}

/// Waits for the end of a flow that needs nobody, and writes it down.
struct Watched {
    worker: Rc<Worker>,
    leaving: Leaving,
    watch: packet::Watch,
    /// Where the server's sessions may end before their time: until they do.
    cut: Option<Pin<Box<dyn Future<Output = CloseReason>>>>,
}

impl Watched {
    fn new(worker: Rc<Worker>, leaving: Leaving) -> Self {
        let (spliced, kin) = leaving.parts();
        let server = kin.server();
        let cut = server.may_be_cut().then(|| -> Pin<Box<dyn Future<Output = CloseReason>>> {
            let server = Arc::clone(server);
            Box::pin(async move { server.cut().await })
        });
        let watch = packet::Watch::new(spliced);
        Self { worker, leaving, watch, cut }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<FlowEnd> {
        let (spliced, kin) = self.leaving.parts();
        let kinship =
            Kinship { frontend: kin.frontend(), backend: &kin.backend().settings, server: kin.server() };
        // First this: a flow that has ended was not cut.
        if let Poll::Ready(flow_end) = self.watch.poll_end(cx, spliced, &kinship) {
            return Poll::Ready(flow_end);
        }
        self.cut.as_mut().map_or(Poll::Pending, |cut| cut.as_mut().poll(cx).map(FlowEnd::cut))
    }

    fn end(&mut self, flow_end: FlowEnd) {
        let (spliced, mut journal) = self.leaving.end();
        spliced.end(flow_end.reason);
        journal.note_silent_side(flow_end.silent);
        finish(&self.worker, journal, flow_end.reason);
    }
}

/// A flow that goes on when the agent ends, if somebody keeps what it goes by. Dropping it before its end leaves it to the next
/// agent; if nobody keeps it until then, both ends get a reset.
struct Leaving(Option<(Spliced, Kin, OnItsOwn)>);

impl Leaving {
    fn new(spliced: Spliced, kin: Kin) -> Self {
        let on_its_own = spliced.on_its_own();
        Self(Some((spliced, kin, on_its_own)))
    }

    fn parts(&self) -> (&Spliced, &Kin) {
        let (spliced, kin, _) = self.0.as_ref().expect("it is there until its task ends");
        (spliced, kin)
    }

    /// It has ended.
    fn end(&mut self) -> (Spliced, Journal) {
        let (spliced, kin, _) = self.0.take().expect("as in `parts`");
        let journal = recall(&spliced, kin);
        (spliced, journal)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some((spliced, kin, on_its_own)) = self.0.take() else { return };
        match spliced.leave() {
            Ok(()) => on_its_own.outlive(),
            Err(spliced) => {
                let journal = recall(&spliced, kin);
                spliced.cut_once();
                // It says that this is the agent's end.
                drop(journal);
            }
        }
    }
}

/// The journal of a flow that ends.
fn recall(spliced: &Spliced, kin: Kin) -> Journal {
    let story = Story::from_bytes(&spliced.story()).unwrap_or_else(|| {
        tracing::warn!("what the log says of a flow cannot be read any more: its line is without it");
        Story::lost()
    });
    let mut journal = kin.recall(story.complete(spliced.connections()), spliced.carried());
    spliced.count_round_trips();
    journal.note_translated(spliced.translated());
    journal
}

/// Carries the flow in user space until programs do, or to its end.
async fn approach(
    worker: &Rc<Worker>,
    backend: &Backend,
    legs: &Legs,
    journal: &mut Journal,
    (port, header): (Option<Arc<Port>>, Option<Box<JoinedHeader>>),
) -> Result<Spliced, FlowEnd> {
    let choice = path_choice(backend, journal);
    let strategy = Strategy::of(choice.path);
    let flow = Flow { client: &legs.client, server: &legs.server, backend: &backend.settings };
    let mut start = Start { strategy, has_bytes_waiting: journal.has_hello(), header };
    let Some(station) = &worker.packet else {
        worker.note_refusal(PacketObstacle::Unavailable);
        return Err(path::carry(&flow, start, &worker.tools, journal.meter()).await);
    };
    // For a while, and where the flow will leave: meanwhile whoever is far away gets less at a time.
    let is_soon = packet::leaves_soon(station, choice.promotion);
    let mut brevity = Brevity::new([&legs.client, &legs.server], is_soon);
    if !choice.promotion.is_at_once() {
        let carrying = path::carry_until_promoted(
            &flow,
            start,
            &worker.tools,
            journal.meter(),
            (choice.promotion, Without::Held(&mut brevity)),
        );
        if let Some(flow_end) = carrying.await {
            return Err(flow_end);
        }
        start = Start { strategy, has_bytes_waiting: false, header: None };
        brevity.want();
    }
    let kept = (port, journal.story().to_bytes(), brevity);
    packet::carry_until_spliced(station, &flow, start, &worker.tools, journal.meter(), kept).await
}
