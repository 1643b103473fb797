// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session whose flow is to leave this process: programs translate its packets, and its sockets are thrown away.

use std::rc::Rc;
use std::sync::Arc;

use lb_common::reason::{CloseReason, PacketObstacle, PathKind};

use super::{Legs, finish, finish_flow, or_cut, path_choice};
use crate::backend::{Backend, Server, ServerSlot};
use crate::journal::Journal;
use crate::path::packet::{self, Brevity, OnItsOwn, Port, Spliced};
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
    spawn(run(Rc::clone(worker), legs, journal, slot, header));
}

async fn run(
    worker: Rc<Worker>,
    legs: Legs,
    mut journal: Box<Journal>,
    slot: ServerSlot,
    header: Option<Box<JoinedHeader>>,
) {
    let may_be_cut = slot.server().may_be_cut().then(|| Arc::clone(slot.server()));
    let backend = journal.backend();
    journal.hand_over(slot, Strategy::of(path_choice(&backend, &journal).path).first());
    // Others get it when the socket is gone, and the flow.
    let port = journal.take_port();
    let approaching = Box::pin(approach(&worker, &backend, &legs, &mut journal, (port.clone(), header)));
    let spliced = match or_cut(approaching, &may_be_cut, |reason| Err(FlowEnd::cut(reason))).await {
        Ok(spliced) => spliced,
        Err(flow_end) => return finish_flow(&worker, legs, *journal, flow_end),
    };
    journal.change_path(PathKind::Packet);
    let mut leaving = Leaving::new(spliced, journal);
    if let Err(error) = leaving.spliced().discard(legs.client.get_ref(), legs.server.get_ref()) {
        tracing::error!(%error, "a flow on path packet is broken: both ends are reset");
        let (spliced, journal) = leaving.end();
        // In this order: while programs know the flow, they let no reset of its sockets out.
        spliced.cut();
        drop(legs);
        return finish(&worker, *journal, CloseReason::PathFailed);
    }
    drop(legs);
    leaving.parts().0.note_discarded();
    watch(&worker, leaving, &may_be_cut).await;
}

/// Goes on with a flow that another agent has left, in a task of its own.
pub fn resume(worker: &Rc<Worker>, spliced: Spliced, journal: Box<Journal>) {
    let (worker, leaving) = (Rc::clone(worker), Leaving::new(spliced, journal));
    spawn(async move {
        let server = leaving.server();
        let may_be_cut = server.may_be_cut().then_some(server);
        watch(&worker, leaving, &may_be_cut).await;
    });
}

/// Waits for the end of a flow that needs nobody, and writes it down.
async fn watch(worker: &Worker, mut leaving: Leaving, may_be_cut: &Option<Arc<Server>>) {
    let (spliced, journal) = leaving.parts();
    let backend = journal.backend();
    let watching = packet::watch(spliced, &backend.settings, journal.meter());
    let flow_end = or_cut(watching, may_be_cut, FlowEnd::cut).await;
    let (spliced, mut journal) = leaving.end();
    spliced.end(flow_end.reason);
    journal.note_silent_side(flow_end.silent);
    finish(worker, *journal, flow_end.reason);
}

/// A flow that goes on when the agent ends, if somebody keeps what it goes by. Dropping it before its end leaves it to the next
/// agent; if nobody keeps it until then, both ends get a reset.
struct Leaving(Option<(Spliced, Box<Journal>, OnItsOwn)>);

impl Leaving {
    fn new(spliced: Spliced, mut journal: Box<Journal>) -> Self {
        journal.note_receipt(spliced.receipt());
        let on_its_own = spliced.on_its_own();
        Self(Some((spliced, journal, on_its_own)))
    }

    fn parts(&mut self) -> (&mut Spliced, &mut Journal) {
        let (spliced, journal, _) = self.0.as_mut().expect("it is there until `end` consumes this");
        (spliced, journal)
    }

    fn spliced(&self) -> &Spliced {
        &self.0.as_ref().expect("as in `parts`").0
    }

    fn server(&self) -> Arc<Server> {
        self.0.as_ref().expect("as in `parts`").1.server()
    }

    /// It has ended.
    fn end(mut self) -> (Spliced, Box<Journal>) {
        let (spliced, journal, _) = self.0.take().expect("as in `parts`");
        (spliced, journal)
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some((spliced, journal, on_its_own)) = self.0.take() else { return };
        match spliced.leave() {
            Ok(()) => {
                journal.leave();
                on_its_own.outlive();
            }
            Err(spliced) => spliced.cut_once(),
        }
    }
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
