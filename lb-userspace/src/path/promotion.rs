// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow that begins in user space and goes inside the kernel when that is worth its beginning: most connections are short.
//!
//! The program of path `sockmap` gets whole segments, also those of which a part was taken (net/ipv4/tcp.c, tcp_read_skb), and would have to
//! cut that off, in steps. So a flow goes inside only between bytes, when all that was taken has been delivered and no more waits: what
//! comes from then on is taken by nobody else. Path `packet` watches a flow that goes on in user space, and minds no bytes that wait.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::drain::drain;
use super::flow::{Ending, Run};
use super::meter::Meter;
use super::{Flow, FlowEnd, Start, Tools};
use crate::config::Promotion;
use crate::runtime::{Moment, sleep_until};

/// Of what nothing may be there at the moment of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Bytes that wait in a socket, or that user space has taken and not delivered.
    Waiting,
    /// Bytes that user space has taken and not delivered.
    Held,
}

/// Carries a flow in user space until it ends, or until it is to go inside the kernel: then `None`, and nothing of it is in user space.
/// `meter` is up to date whenever this future is not being polled.
pub async fn carry_until_promoted(
    flow: &Flow<'_>,
    start: Start,
    tools: &Tools,
    meter: &mut Meter,
    (promotion, without): (Promotion, Without),
) -> Option<FlowEnd> {
    let due_at = Moment::now() + promotion.after;
    let mut run = Run::new(flow, start, tools, meter);
    let ending = {
        let mut tick = pin!(sleep_until(run.next_tick(Moment::now())));
        let (run, mut delivered) = (&mut run, 0);
        poll_fn(move |cx| {
            if let Poll::Ready(ending) = run.poll(cx, tick.as_mut()) {
                return Poll::Ready(Some(ending));
            }
            let has_moved = std::mem::replace(&mut delivered, run.delivered()) != delivered;
            let is_due = has_moved && (delivered >= promotion.after_bytes || Moment::now() >= due_at);
            let can_be = |run: &Run<'_>| match without {
                Without::Waiting => run.is_between_bytes(),
                Without::Held => run.has_delivered_all(),
            };
            if is_due && can_be(run) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await?
    };
    let (flow_end, drains_until) = (run.conclude(&ending), run.drains_until());
    drop(run);
    if let Ending::Reset(side, _) = ending {
        drain(side.other().of(flow), drains_until).await;
    }
    Some(flow_end)
}
