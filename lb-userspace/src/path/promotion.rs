// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow that begins in user space and goes inside the kernel when that is worth its beginning: most connections are short.
//!
//! The program of path `sockmap` gets whole segments, also those of which a part was taken (net/ipv4/tcp.c, tcp_read_skb), and would have to
//! cut that off, in steps. So a flow goes inside only between bytes, when all that was taken has been delivered and no more waits: what
//! comes from then on is taken by nobody else. Path `packet` watches a flow that goes on in user space, and minds no bytes that wait.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use super::drain::drain;
use super::flow::{Ending, Run};
use super::meter::Meter;
use super::packet::Brevity;
use super::{Flow, FlowEnd, Start, Tools};
use crate::config::Promotion;
use crate::runtime::{Moment, Sleep, sleep_until};

/// How long nothing is taken from either side, so that what was taken can be delivered: a reader that is slow never has all of it else.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often that is tried; each time after twice as many bytes as before.
const PAUSES_MAX: u8 = 10;

/// Twice as many bytes lie between the first pause and the second.
const FIRST_BYTES: u64 = 256 << 10;

/// Of what nothing may be there at the moment of a promotion.
#[derive(Debug)]
pub enum Without<'a, 'b> {
    /// Bytes that wait in a socket, or that user space has taken and not delivered.
    Waiting,
    /// Bytes that user space has taken and not delivered. Until then the sockets may be kept brief, for what comes after.
    Held(&'a mut Brevity<'b>),
}

/// Carries a flow in user space until it ends, or until it is to go inside the kernel: then `None`, and nothing of it is in user space.
/// `meter` is up to date whenever this future is not being polled.
pub async fn carry_until_promoted(
    flow: &Flow<'_>,
    start: Start,
    tools: &Tools,
    meter: &mut Meter,
    (promotion, mut without): (Promotion, Without<'_, '_>),
) -> Option<FlowEnd> {
    let due_at = Moment::now() + promotion.after;
    let mut run = Run::new(flow, start, tools, meter);
    let ending = {
        let mut tick = pin!(sleep_until(run.next_tick(Moment::now())));
        let (run, mut delivered, mut pauses) = (&mut run, 0, Pauses::default());
        poll_fn(move |cx| {
            if let Without::Held(brevity) = &without {
                run.take_care(brevity.is_awaited());
            }
            if let Poll::Ready(ending) = run.poll(cx, tick.as_mut()) {
                return Poll::Ready(Some(ending));
            }
            let has_moved = std::mem::replace(&mut delivered, run.delivered()) != delivered;
            let is_due = has_moved && (delivered >= promotion.after_bytes || Moment::now() >= due_at);
            let can_be = |run: &Run<'_>| match without {
                Without::Waiting => run.is_between_bytes(),
                Without::Held(_) => run.has_delivered_all(),
            };
            if (is_due || run.is_paused()) && can_be(run) {
                return Poll::Ready(None);
            }
            if let Without::Held(brevity) = &mut without {
                brevity.look(delivered);
                pauses.go_on(cx, run, is_due);
            }
            Poll::Pending
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

/// Times in which nothing is taken from either side.
#[derive(Default)]
struct Pauses {
    count: u8,
    /// Bytes that had been delivered when the last one began.
    begun_at: u64,
    end: Option<Pin<Box<Sleep>>>,
}

impl Pauses {
    /// Begins one where a flow `is_due` and something of it is held, and ends one that is over.
    fn go_on(&mut self, cx: &mut Context<'_>, run: &mut Run<'_>, is_due: bool) {
        if let Some(end) = &mut self.end {
            if end.as_mut().poll(cx).is_ready() {
                self.end = None;
                run.resume(cx);
            }
            return;
        }
        if is_due && self.may_begin(run) {
            (self.count, self.begun_at) = (self.count + 1, run.delivered());
            run.pause();
            let mut end = Box::pin(sleep_until(Moment::now() + PAUSE_MAX));
            // Whoever has not been polled wakes nobody.
            let _ = end.as_mut().poll(cx);
            self.end = Some(end);
        }
    }

    fn may_begin(&self, run: &Run<'_>) -> bool {
        let more = if self.count == 0 { 0 } else { FIRST_BYTES << self.count };
        !run.is_over() && self.count < PAUSES_MAX && run.delivered() >= self.begun_at + more
    }
}
