// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `sockmap`: a BPF program hands every segment that one socket receives to the other, inside the kernel.
//!
//! **Hand-over.** What was taken before has been delivered, and no part of a segment is left behind: names, targets, and then the program
//! ([`legs`]). The kernel does not run it for what waits already, so each socket is kicked.
//!
//! **Bounds.** What the kernel queues for a socket that takes nothing has no bound, and the sender's window stays open. So the program
//! counts what waits, and calls user space when that is more than the direction's share of a pool for all flows ([`pool`]). A direction that
//! rests has hardly a share, or none, and the program calls for its next segment. User space
//! then makes the share larger, or takes the sender's socket out of the program's hands until the receiver has caught up ([`lane`]). Bytes
//! then wait in its receive buffer, and the sender with them. Until user space comes, a filter on the socket turns away what would be
//! beyond the bound, and TCP sends it again. Then user space moves on with the direction ([`pump`]), until nothing has moved for a while:
//! it holds up a sender without losing anything, and carries bulk better. A socket that has begun to close cannot come into the map again.
//!
//! **Ends.** The kernel carries neither FIN nor RST across, and closing a socket discards what is queued for it. So user space
//! listens for ends ([`watch`]), waits until the receiver's socket has accepted every byte that the sender's has received, by the
//! kernel's own counters, and then sends the FIN. Both sockets reset on close until both directions have ended.

mod grant;
mod lane;
mod legs;
mod pace;
mod pool;
mod pump;
mod run;
mod watch;

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use lb_common::reason::{CloseReason, FallbackReason};
use prometheus_client::metrics::counter::Counter;

pub use legs::{Bytes, Refused};
pub use pool::{Limits, Pool};
pub use watch::Watch;

use self::grant::Grant;
use self::lane::{FIRST_ROUND, Lane};
use self::legs::Legs;
use self::pace::FIRST_LOOK;
use self::run::{Ending, Run};
use super::drain::acknowledged;
use super::{FlowEnd, Meter, Side, Tools};
use crate::config;
use crate::kernel::{Maps, Sockmap};
use crate::net;
use crate::runtime::{Moment, sleep_until, timeout_at};

/// What a worker needs for this path.
#[derive(Debug)]
pub struct Station {
    /// The kernel's side.
    pub kernel: Arc<Sockmap>,
    /// This worker's descriptors of the maps.
    pub maps: RefCell<Maps>,
    /// Where ends are heard.
    pub watch: Rc<Watch>,
    /// The memory for all flows.
    pub pool: Arc<Pool>,
    /// `lb_sockmap_pauses_total`
    pub pauses: Counter,
    /// `lb_sockmap_withdrawals_total`
    pub withdrawals: Counter,
}

/// What becomes of a direction that carries a stream, or whose receiver takes less than comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backpressure {
    /// User space moves on with it, and holds up the sender by what it does not take, until nothing has moved for a while.
    Outside,
    /// It pauses and goes on inside, again and again: the path is to carry every byte.
    Inside,
}

/// How a flow comes inside and what may take it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What became of its first bytes.
    pub first: Bytes,
    /// What becomes of a stream and of what waits for a slow receiver.
    pub backpressure: Backpressure,
}

/// Carries a flow between client and server to its end, and says why it ended; both sockets are closed then. `meter` is up to date
/// whenever this future is not being polled.
///
/// # Errors
/// The sockets, untouched: another path must carry them.
pub async fn carry(
    station: &Rc<Station>,
    sockets: [OwnedFd; 2],
    backend: &config::Backend,
    tools: &Tools,
    meter: &mut Meter,
    Terms { first, backpressure }: Terms,
) -> Result<FlowEnd, Refused> {
    let grant = || Grant::first(&station.pool, station.kernel.overdraft());
    let Some((up, down)) = grant().zip(grant()) else {
        return Err(Refused { sockets, reason: FallbackReason::Memory });
    };
    let now = Moment::now();
    let look_at = match backpressure {
        Backpressure::Outside => FIRST_LOOK,
        Backpressure::Inside => u64::MAX,
    };
    let allowed =
        [&up, &down].map(|grant| grant.allowed(FIRST_ROUND, if grant.share > 0 { look_at } else { 0 }));
    let (legs, [up_basis, down_basis]) = Legs::insert(station, sockets, allowed, first)?;
    let before = meter.carried;
    let lanes = [
        Lane::new(Side::Client, up, up_basis, legs.is_hooked(Side::Client), before.up, backpressure),
        Lane::new(Side::Server, down, down_basis, legs.is_hooked(Side::Server), before.down, backpressure),
    ];
    let (ending, drains_until) = {
        let mut run = Run::new(&legs, lanes, backend, tools, meter, now);
        let mut tick = pin!(sleep_until(now));
        let ending = poll_fn(|cx| run.poll(cx, tick.as_mut())).await;
        (ending, run.drains_until().unwrap_or_else(Moment::now))
    };
    let (reason, silent) = match ending {
        Ending::Clean => {
            legs.sockets.iter().for_each(net::end_cleanly);
            (CloseReason::Finished, None)
        }
        Ending::Cut(reason, silent) => (reason, silent),
        Ending::Reset(side, reason) => {
            let other = side.other();
            // Not by what is heard: that is said once, and may have been said already.
            let is_gone = || net::has_ended(legs.socket(other));
            // Missed: the rest goes with the reset.
            let _ = timeout_at(drains_until, acknowledged(legs.socket(other), is_gone)).await;
            (reason, None)
        }
    };
    drop(legs);
    Ok(FlowEnd { reason, silent })
}
