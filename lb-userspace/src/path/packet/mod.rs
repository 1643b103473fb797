// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: programs at the interfaces translate the packets of two connections into each other, and the agent's two sockets are thrown
//! away. From then on client and server speak with each other: flow control, retransmission, FIN and RST are theirs.
//!
//! A flow begins in user space, and comes here when that is worth it ([`approach`]): its segments are watched, and as soon as nothing of it
//! is in a socket that the other end has not acknowledged, the next segment *flips* it, whoever sends it. Short flows cost nothing for this path.
//! What is then left to do is to count, and to notice the end ([`watch`]).

mod approach;
mod entry;
mod grace;
mod ports;
mod watch;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_common::reason::CloseReason;
use tokio::task::spawn_local;
use tokio::time::sleep;

pub use approach::carry_until_spliced;
pub use grace::Grace;
pub use ports::{Port, Ports};
pub use watch::watch;

use crate::kernel::packet::{Attachment, Keys, Slot};
use crate::kernel::{LoadError, Packet};
use crate::net::{self, repair};
use crate::observe::metrics::PacketRefusals;

/// How long late segments of a flow that is over still find it: a last acknowledgement that was lost is sent again, after a
/// retransmission timeout of a second at least (RFC 6298 section 2).
const LINGER: Duration = Duration::from_secs(3);

/// What all workers share of this path.
#[derive(Clone, Debug)]
pub struct Common {
    /// The kernel's side.
    pub kernel: Arc<Packet>,
    /// The programs at their interfaces, for as long as the agent runs.
    pub attachments: Arc<[Attachment]>,
    /// Waits for what has passed the programs.
    pub grace: Grace,
    /// Where connections to servers come from.
    pub ports: Arc<Ports>,
    /// `lb_path_fallbacks_total{path="packet",reason}`
    pub refused: PacketRefusals,
}

/// What a worker needs for this path.
#[derive(Debug)]
pub struct Station {
    /// What all have.
    pub common: Common,
    /// This worker's descriptor of the map of keys.
    keys: RefCell<Keys>,
}

impl Station {
    /// A worker's own.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new(common: Common) -> Result<Self, LoadError> {
        let keys = RefCell::new(common.kernel.keys()?);
        Ok(Self { common, keys })
    }
}

/// A flow that the programs carry. Dropping it ends that: whatever comes then, the host answers with a reset.
#[derive(Debug)]
pub struct Spliced {
    // Given back in this order: nobody finds the flow any more when its port becomes free.
    slot: Slot,
    _port: Arc<Port>,
    station: Rc<Station>,
}

impl Drop for Spliced {
    fn drop(&mut self) {
        self.station.keys.borrow_mut().withdraw(&self.slot);
    }
}

impl Spliced {
    /// Whether its sockets are where they were when it flipped, and hold nothing.
    ///
    /// # Errors
    /// Something of the flow has stayed in a socket, or the kernel does not say.
    pub fn check(&self, client: &OwnedFd, server: &OwnedFd) -> io::Result<()> {
        let flow = self.slot.edit(|record| record.flow);
        for (socket, position) in [(client, flow.client_position), (server, flow.server_position)] {
            let numbers = repair::numbers(socket)?;
            let is_where_it_was = (numbers.received, numbers.written) == (position.taken, position.given);
            if !is_where_it_was || !net::holds_nothing(socket)? {
                return Err(io::Error::other("a socket holds bytes of a flow that has left it"));
            }
        }
        Ok(())
    }

    /// The flow has ended. What ended by itself is left to its late segments for a while.
    pub fn end(self, reason: CloseReason) {
        if matches!(
            reason,
            CloseReason::IdleTimeout
                | CloseReason::HalfCloseTimeout
                | CloseReason::ServerDown
                | CloseReason::ActiveServerUp
        ) {
            return;
        }
        spawn_local(async move {
            sleep(LINGER).await;
            drop(self);
        });
    }
}

/// Why the end of a flow is what it is, by what its ends have done.
fn reason_of(marks: [u32; 2]) -> CloseReason {
    use lb_common::packet::flow::{FIN_SEEN, FIN_TAKEN, RESET};
    let [client, server] = marks;
    match () {
        // Who has forgotten the connection by then answers a late segment with a reset.
        () if client & server & FIN_TAKEN != 0 => CloseReason::Finished,
        // It had sent everything, and refuses what the client says after that.
        () if server & RESET != 0 && server & FIN_SEEN != 0 => CloseReason::ServerClosed,
        () if client & RESET != 0 => CloseReason::ClientReset,
        () if server & RESET != 0 => CloseReason::ServerReset,
        () => CloseReason::Finished,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::packet::flow::{FIN_SEEN, FIN_TAKEN, RESET};

    use super::*;

    #[test]
    fn a_flow_ends_as_it_would_in_user_space() {
        const FIN: u32 = FIN_SEEN | FIN_TAKEN;
        let check = |client, server, expected| assert_eq!(reason_of([client, server]), expected);
        check(FIN, FIN, CloseReason::Finished);
        check(FIN | RESET, FIN, CloseReason::Finished);
        check(FIN, FIN | RESET, CloseReason::Finished);
        check(RESET, 0, CloseReason::ClientReset);
        check(0, RESET, CloseReason::ServerReset);
        check(FIN, RESET, CloseReason::ServerReset);
        check(RESET, FIN, CloseReason::ClientReset);
        check(FIN | RESET, 0, CloseReason::ClientReset);
        check(0, FIN | RESET, CloseReason::ServerClosed);
        check(0, FIN_SEEN | RESET, CloseReason::ServerClosed);
    }
}
