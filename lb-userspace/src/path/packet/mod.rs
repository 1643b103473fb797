// SPDX-License-Identifier: MIT OR Apache-2.0
//! Path `packet`: programs at the interfaces translate the packets of two connections into each other, and the agent's two sockets are thrown
//! away. From then on client and server speak with each other: flow control, retransmission, FIN and RST are theirs.
//!
//! A flow begins in user space, and comes here when that is worth it ([`approach`]): its segments are watched, and as soon as nothing of it
//! is in a socket that the other end has not acknowledged, the next segment *flips* it, whoever sends it. Short flows cost nothing for this path.
//! What is then left to do is to count, and to notice the end ([`watch`]). None of that is needed for the flow to go on: where somebody keeps
//! what it goes by, it outlives the agent, and the next one takes it up ([`Spliced::adopt`]).

mod approach;
mod canary;
mod cut;
mod entry;
mod grace;
mod outset;
mod ports;
mod reach;
mod sockets;
mod stay;
mod watch;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_common::packet::flow::Phase;
use lb_common::reason::CloseReason;

use canary::{Progress, Trial};

pub use approach::carry_until_spliced;
pub use canary::Canary;
pub use grace::Grace;
pub use outset::{Modesty, Outset};
pub use ports::{Port, Ports};
pub use reach::Reach;
pub use sockets::{Brevity, leaves_soon};
pub use stay::{OnItsOwn, Stay};
pub use watch::{Kinship, Watch};

use crate::kernel::packet::{Keys, Orphan, Receipt, Resets, Slot, connections};
use crate::kernel::{LoadError, Packet};
use crate::net::conntrack::Conntrack;
use crate::net::{self, EcnSetting, repair};
use crate::observe::access_log::Translated;
use crate::observe::metrics::{PacketRefusals, PacketResets, PacketRoundTrips};
use crate::path::meter::Carried;
use crate::runtime::{sleep, spawn};

/// How long late segments of a flow that is over still find it: a last acknowledgement that was lost is sent again, after a
/// retransmission timeout of a second at least (RFC 6298 section 2).
const LINGER: Duration = Duration::from_secs(3);

/// What all workers share of this path.
#[derive(Clone, Debug)]
pub struct Common {
    /// The kernel's side.
    pub kernel: Arc<Packet>,
    /// The programs at their interfaces, for as long as the agent runs, or longer.
    pub stay: Arc<Stay>,
    /// Waits for what has passed the programs.
    pub grace: Grace,
    /// Whose flows can take it.
    pub reach: Reach,
    /// Where connections to servers come from.
    pub ports: Arc<Ports>,
    /// What the first flows have shown.
    pub canary: Arc<Canary>,
    /// For both ends of flows that the agent ends; `None`: it may not send any.
    pub resets: Option<Arc<Resets>>,
    /// Who is told what becomes of connections.
    pub conntrack: Arc<Conntrack>,
    /// What SYNs ask for.
    pub ecn: Arc<EcnSetting>,
    /// `lb_path_fallbacks_total{path="packet",reason}`
    pub refused: PacketRefusals,
    /// `lb_packet_resets_total{result}`
    pub resets_sent: PacketResets,
    /// `lb_packet_rtt_seconds{leg}`
    pub round_trips: PacketRoundTrips,
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

/// A flow that the programs carry. Dropping it ends that: whatever comes then, the host answers with a reset. Who sends nothing hears of that
/// only from [`Spliced::cut`].
#[derive(Debug)]
pub struct Spliced {
    // Given back in this order: nobody finds the flow any more when its port becomes free.
    slot: Arc<Slot>,
    _port: Option<Arc<Port>>,
    station: Rc<Station>,
    /// Bytes of it that had been acknowledged when this agent got it.
    before: u64,
    /// Whether connection tracking is to forget its connections when it is over.
    is_tracked: bool,
}

impl Drop for Spliced {
    fn drop(&mut self) {
        if self.slot.is_left() {
            return;
        }
        self.station.keys.borrow_mut().withdraw(&self.slot);
        self.forget();
    }
}

impl Spliced {
    /// A flow that another agent has left, and the port that it has.
    pub fn adopt(station: &Rc<Station>, orphan: Orphan, port: Option<Port>) -> Self {
        orphan.slot.take_up();
        let before = orphan.slot.edit(|record| Progress::of(record).acknowledged);
        let (slot, station) = (Arc::new(orphan.slot), Rc::clone(station));
        let mut adopted = Self { slot, _port: port.map(Arc::new), station, before, is_tracked: false };
        // The agent before may have had no time for it.
        adopted.note_discarded();
        adopted
    }

    /// The sockets are gone. Connection tracking sees nothing of the flow from here on, and goes on to know its connections: so no other gets
    /// their addresses and ports (NAT), and what this host says to an end in the end passes rules that ask for the connection.
    pub fn note_discarded(&mut self) {
        self.is_tracked = self.station.common.conntrack.loosen(connections(&self.slot));
    }

    /// Its connections are over for connection tracking, unless that has been told. The client may have begun another with the same port, which then has the
    /// entry; the balancer's port is nobody else's yet. Of a flow that was cut nobody sees whether the client has: its entry goes some seconds after the
    /// resets (nf_conntrack_tcp_timeout_close).
    fn forget(&mut self) {
        if !std::mem::take(&mut self.is_tracked) {
            return;
        }
        let is_followed = self.slot.edit(|record| record.flow.phase()) == Phase::Gone;
        let connections = connections(&self.slot);
        self.station.common.conntrack.forget(&connections[usize::from(is_followed)..]);
    }

    /// Who it is, as was told before it left user space.
    pub fn story(&self) -> Vec<u8> {
        self.slot.story()
    }

    /// The two ends of each connection: the client and the balancer, the server and the balancer.
    pub fn connections(&self) -> [[SocketAddr; 2]; 2] {
        connections(&self.slot)
    }

    /// What was carried of it until now, and how much of that is in the counters.
    pub fn carried(&self) -> (Carried, Carried) {
        let flow = self.slot.edit(|record| record.flow);
        let tally = self.slot.tally();
        let delivered = [flow.delivered_to_server, flow.delivered_to_client];
        (watch::carried(&tally, delivered), watch::carried(&tally, tally.counted))
    }

    /// What its line says of it besides the story, and what the log drops when it has written that.
    pub fn translated(&self) -> Translated {
        Translated { receipt: Receipt::new(Arc::clone(&self.slot)), round_trips: self.round_trips() }
    }

    /// It is over: counts its round trips.
    pub fn count_round_trips(&self) {
        self.station.common.round_trips.observe(self.round_trips());
    }

    /// The shortest to the client and to the server, if one was measured.
    fn round_trips(&self) -> [Option<Duration>; 2] {
        let flow = self.slot.edit(|record| record.flow);
        [flow.client, flow.server].map(|end| end.round_trip.shortest_ns().map(Duration::from_nanos))
    }

    /// From here on the flow needs nobody: see [`OnItsOwn`].
    pub fn on_its_own(&self) -> OnItsOwn {
        OnItsOwn::new(&self.station.common.stay)
    }

    /// Leaves it to the next agent, if there is somebody to keep it until then; or gives it back.
    ///
    /// # Errors
    /// Nobody keeps it.
    pub fn leave(self) -> Result<(), Self> {
        if !self.station.common.kernel.outlives() {
            return Err(self);
        }
        self.slot.leave();
        Ok(())
    }

    /// Makes sure that its sockets are where they were when it flipped, and hold nothing; their close says nothing to anybody from here on.
    ///
    /// # Errors
    /// Something of the flow has stayed in a socket, or the kernel does not say. Their close is what it was.
    pub fn discard(&self, client: &OwnedFd, server: &OwnedFd) -> io::Result<()> {
        self.discard_both(client, server).inspect_err(|_| {
            for socket in [client, server] {
                // Where it fails, it was not discarded either.
                let _ = repair::keep(socket);
            }
        })
    }

    fn discard_both(&self, client: &OwnedFd, server: &OwnedFd) -> io::Result<()> {
        let flow = self.slot.edit(|record| record.flow);
        for (socket, position) in [(client, flow.client_position), (server, flow.server_position)] {
            let numbers = repair::discard(socket)?;
            let is_where_it_was = (numbers.received, numbers.written) == (position.taken, position.given);
            if !is_where_it_was || !net::holds_nothing(socket)? {
                return Err(io::Error::other("a socket holds bytes of a flow that has left it"));
            }
        }
        Ok(())
    }

    /// The flow has ended. What ended by itself is left to its late segments for a while; what the agent has ended is [cut](Self::cut).
    pub fn end(mut self, reason: CloseReason) {
        if matches!(
            reason,
            CloseReason::IdleTimeout
                | CloseReason::HalfCloseTimeout
                | CloseReason::ServerDown
                | CloseReason::ActiveServerUp
                | CloseReason::Untranslatable
        ) {
            return self.cut();
        }
        // Not only when late segments are not waited for any more: until then the client's next connection may have the same port.
        self.forget();
        spawn(async move {
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
