// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session whose flow is to go inside the kernel, from socket to socket.

use std::rc::Rc;
use std::sync::Arc;

use lb_common::reason::{CloseReason, FallbackReason, PathKind};

use super::{Legs, finish, finish_flow, or_cut, path_choice};
use crate::backend::{Backend, Server, ServerSlot};
use crate::journal::Journal;
use crate::net::Socket;
use crate::path::sockmap::{self, Backpressure, Bytes, Refused, Terms};
use crate::path::{self, Flow, FlowEnd, Start, Strategy, Without};
use crate::runtime::spawn;
use crate::worker::Worker;

/// Goes on with a session whose flow is to go inside the kernel, in a task of its own: no other flow keeps room for it.
pub(super) fn move_inside(worker: &Rc<Worker>, legs: Legs, journal: Box<Journal>, slot: ServerSlot) {
    spawn(run_inside(Rc::clone(worker), legs, journal, slot));
}

async fn run_inside(worker: Rc<Worker>, legs: Legs, mut journal: Box<Journal>, slot: ServerSlot) {
    let may_be_cut = slot.server().may_be_cut().then(|| Arc::clone(slot.server()));
    let backend = journal.backend();
    let choice = path_choice(&backend, &journal);
    let strategy = Strategy::of(choice.path);
    journal.hand_over(slot, strategy.first());
    let (mut has_bytes_waiting, mut first) = (journal.has_hello(), Bytes::Waiting);
    if worker.station.is_some() && !choice.promotion.is_at_once() {
        let flow = Flow { client: &legs.client, server: &legs.server, backend: &backend.settings };
        let start = Start { strategy, has_bytes_waiting, header: None };
        let meter = journal.meter();
        let carrying = path::carry_until_promoted(
            &flow,
            start,
            &worker.tools,
            meter,
            (choice.promotion, Without::Waiting),
        );
        if let Some(flow_end) = or_cut(carrying, &may_be_cut, |reason| Some(FlowEnd::cut(reason))).await {
            return finish_flow(&worker, legs, *journal, flow_end);
        }
        (has_bytes_waiting, first) = (false, Bytes::Carried);
    }
    journal.change_path(PathKind::Sockmap);
    let backpressure = if choice.is_required { Backpressure::Inside } else { Backpressure::Outside };
    let terms = Terms { first, backpressure };
    let inside = Box::pin(carry_inside(&worker, &backend, legs, &mut journal, terms, &may_be_cut)).await;
    let flow_end = match inside {
        Outcome::Ended(flow_end) => flow_end,
        Outcome::Outside(_) if choice.is_required => FlowEnd::cut(CloseReason::PathUnavailable),
        Outcome::Outside(legs) => {
            journal.change_path(strategy.first());
            let start = Start { strategy, has_bytes_waiting, header: None };
            let flow = Flow { client: &legs.client, server: &legs.server, backend: &backend.settings };
            let carrying = path::carry(&flow, start, &worker.tools, journal.meter());
            let flow_end = or_cut(carrying, &may_be_cut, FlowEnd::cut).await;
            return finish_flow(&worker, legs, *journal, flow_end);
        }
    };
    journal.note_silent_side(flow_end.silent);
    finish(&worker, *journal, flow_end.reason);
}

/// What came of carrying a flow inside the kernel.
enum Outcome {
    /// It has ended, and both sockets are closed.
    Ended(FlowEnd),
    /// It was not carried: nothing of it was taken.
    Outside(Legs),
}

/// Carries a flow inside the kernel, or gives it back untouched.
async fn carry_inside(
    worker: &Worker,
    backend: &Backend,
    legs: Legs,
    journal: &mut Journal,
    terms: Terms,
    may_be_cut: &Option<Arc<Server>>,
) -> Outcome {
    let Some(station) = &worker.station else {
        worker.note_fallback(FallbackReason::Unavailable);
        return Outcome::Outside(legs);
    };
    // What the runtime watches wakes the worker for every segment.
    let sockets = [legs.client.into_inner(), legs.server.into_inner()];
    let carrying = sockmap::carry(station, sockets, &backend.settings, &worker.tools, journal.meter(), terms);
    let Refused { sockets: [client, server], reason } =
        match or_cut(carrying, may_be_cut, |reason| Ok(FlowEnd::cut(reason))).await {
            Ok(flow_end) => return Outcome::Ended(flow_end),
            Err(refused) => refused,
        };
    worker.note_fallback(reason);
    match (Socket::connection(client), Socket::connection(server)) {
        (Ok(client), Ok(server)) => Outcome::Outside(Legs { client, server }),
        _ => Outcome::Ended(FlowEnd::cut(CloseReason::Resources)),
    }
}
