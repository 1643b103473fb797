// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two sockets of a flow inside the maps: how they get in, and how they get out whatever happens.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use lb_common::layout::{Allowed, Moved};
use lb_common::reason::FallbackReason;
use rustix::event::epoll::EventFlags;

use super::Station;
use super::watch::Watched;
use crate::kernel::{Gate, Refusal, Seat};
use crate::net::{self, TcpInfo};
use crate::path::Side;

/// A flow's sockets, client's first, and their places. Dropping it takes them out of the maps and closes them, which resets both ends
/// unless they were told to end cleanly.
#[derive(Debug)]
pub(super) struct Legs {
    // Dropped from the top: out of the maps, then closed, then the slots are free for others.
    membership: Membership,
    gates: [Gate; 2],
    pub(super) watched: Watched,
    pub(super) sockets: [OwnedFd; 2],
    pub(super) seat: Seat,
}

/// What a direction had moved when the flow was handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Basis {
    /// Bytes that user space took from the sender before.
    pub(super) taken: u64,
    /// Bytes that the receiver accepted before.
    pub(super) accepted: u64,
}

/// What became of a flow's first bytes before the hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// They wait, and of the client's a PROXY header may have been taken that was in front.
    Waiting,
    /// User space has carried them, and taken no part of a segment.
    Carried,
}

/// Entries of two sockets in the maps.
#[derive(Debug)]
struct Membership {
    station: Rc<Station>,
    cookies: [u64; 2],
    slots: [u32; 2],
    hooked: [Cell<bool>; 2],
}

/// Sockets that stay outside, untouched, and why.
#[derive(Debug)]
pub struct Refused {
    /// Client's and server's.
    pub sockets: [OwnedFd; 2],
    /// Why.
    pub reason: FallbackReason,
}

/// Position of a side in what has one entry a side.
pub(super) fn index(side: Side) -> usize {
    side as usize
}

impl Legs {
    /// Puts both sockets into the maps, and lets the program judge them under these conditions.
    ///
    /// Names and targets come first, so that the program finds them whenever it runs; whom it judges comes last. Until then nothing
    /// has happened to any byte. If the second socket cannot be judged because its peer has just closed, the flow is inside all
    /// the same, for bytes of the first may be on their way: see [`Self::is_hooked`].
    ///
    /// # Errors
    /// The sockets, of which nothing was taken.
    pub(super) fn insert(
        station: &Rc<Station>,
        sockets: [OwnedFd; 2],
        allowed: [Allowed; 2],
        first: Bytes,
    ) -> Result<(Self, [Basis; 2]), Refused> {
        let refused = |sockets, reason| Refused { sockets, reason };
        let Some(seat) = station.kernel.seat() else { return Err(refused(sockets, FallbackReason::Full)) };
        let (bases, membership) = match enter(station, &sockets, &seat, first) {
            Ok(entered) => entered,
            Err(reason) => return Err(refused(sockets, reason)),
        };
        let Ok(watched) = station.watch.add(seat.number(), &sockets) else {
            return Err(refused(sockets, FallbackReason::Kernel));
        };
        for (slot, allowed) in membership.slots.into_iter().zip(&allowed) {
            station.kernel.allow(slot, allowed);
        }
        let gates = match filter(station, &sockets, membership.slots) {
            Ok(gates) => gates,
            Err(_) => return Err(leave(membership, watched, sockets, FallbackReason::Kernel)),
        };
        let legs = Self { membership, gates, watched, sockets, seat };
        if let Err(refusal) = legs.hook(Side::Server) {
            let Self { membership, watched, sockets, .. } = legs;
            return Err(leave(membership, watched, sockets, refusal.into()));
        }
        if legs.hook(Side::Client).is_err() {
            // Shows in `is_hooked`. Its receive buffer bounds what comes.
            legs.allow(Side::Client, &Allowed { pause_at: u64::MAX, ..allowed[index(Side::Client)] });
        }
        Ok((legs, bases))
    }

    /// Lets the program judge what this side sends, and what waits of it.
    pub(super) fn hook(&self, side: Side) -> Result<(), Refusal> {
        let Membership { station, slots, hooked, .. } = &self.membership;
        let socket = self.socket(side);
        station.maps.borrow_mut().hook(slots[index(side)], socket)?;
        hooked[index(side)].set(true);
        net::kick(socket);
        Ok(())
    }

    /// From now on, what this side sends stays in its socket; `false`: a segment is on its way to the program, and it is soon time to try
    /// again. Either way, segments are turned away until [`Self::allow`].
    pub(super) fn unhook(&self, side: Side) -> bool {
        let Membership { station, slots, hooked, .. } = &self.membership;
        if !hooked[index(side)].get() {
            return true;
        }
        let is_closed = self.gates[index(side)].close(&station.kernel, self.socket(side));
        if is_closed {
            hooked[index(side)].set(false);
            station.maps.borrow_mut().unhook(slots[index(side)]);
        }
        is_closed
    }

    /// Takes in what TCP has counted of this side's segments, for [`Self::unhook`].
    pub(super) fn learn(&self, side: Side, info: &TcpInfo) {
        self.gates[index(side)].learn(&self.membership.station.kernel, info);
    }

    /// Whether the program judges what this side sends.
    pub(super) fn is_hooked(&self, side: Side) -> bool {
        self.membership.hooked[index(side)].get()
    }

    /// The socket of a side.
    pub(super) fn socket(&self, side: Side) -> &OwnedFd {
        &self.sockets[index(side)]
    }

    /// What the program has counted of what this side sends.
    pub(super) fn moved(&self, side: Side) -> Moved {
        self.station().kernel.moved(self.membership.slots[index(side)])
    }

    /// Tells the program what it may do with what this side sends.
    pub(super) fn allow(&self, side: Side, allowed: &Allowed) {
        self.station().kernel.allow(self.membership.slots[index(side)], allowed);
    }

    /// The last round in which a segment of this side's was turned away because all memory beyond the shares is used up.
    pub(super) fn crowded_out(&self, side: Side) -> u64 {
        self.station().kernel.crowded_out(self.membership.slots[index(side)])
    }

    /// Takes back from the overdraft what this side's direction does not need of it.
    pub(super) fn take_back(&self, side: Side, all_but: u64) {
        self.station().kernel.take_back(self.membership.slots[index(side)], all_but);
    }

    /// What all directions together have waiting beyond their shares.
    pub(super) fn overdraft(&self) -> u64 {
        self.station().kernel.overdraft()
    }

    /// Also hears of these events.
    pub(super) fn wish(&self, side: Side, wish: EventFlags) {
        self.watched.wish(index(side), self.socket(side), wish);
    }

    /// What the worker has.
    pub(super) fn station(&self) -> &Rc<Station> {
        &self.membership.station
    }
}

/// Gives both sockets the filter.
fn filter(station: &Station, sockets: &[OwnedFd; 2], slots: [u32; 2]) -> io::Result<[Gate; 2]> {
    let kernel = &station.kernel;
    sockets.iter().try_for_each(|socket| net::filter(socket, kernel.filter()))?;
    Ok([Gate::new(kernel, slots[0], &sockets[0])?, Gate::new(kernel, slots[1], &sockets[1])?])
}

/// Out of everything, before anything has happened.
fn leave(membership: Membership, watched: Watched, sockets: [OwnedFd; 2], reason: FallbackReason) -> Refused {
    drop(membership);
    sockets.iter().for_each(net::end_filter);
    watched.end(&sockets);
    Refused { sockets, reason }
}

/// Looks at both sockets and gives them names and targets.
fn enter(
    station: &Rc<Station>,
    sockets: &[OwnedFd; 2],
    seat: &Seat,
    first: Bytes,
) -> Result<([Basis; 2], Membership), FallbackReason> {
    let kernel = |_: io::Error| FallbackReason::Kernel;
    let [client, server] = sockets;
    for socket in sockets {
        // A peer that is gone has closed or reset.
        if net::is_with_this_host(socket).map_err(|_| FallbackReason::NotEstablished)? {
            return Err(FallbackReason::LocalPeer);
        }
    }
    let (taken, waiting, client_accepted) = taken_bytes(client).map_err(kernel)?;
    if !net::tcp_info(client).map_err(kernel)?.is_established {
        // Its FIN counts as a byte that was taken.
        return Err(FallbackReason::NotEstablished);
    }
    if first == Bytes::Waiting && taken > 0 && waiting > 0 {
        // The program would cut off what was taken, in steps; splice(2) just goes on behind it.
        return Err(FallbackReason::PartlyTaken);
    }
    if waiting > station.pool.burst_max() {
        return Err(FallbackReason::Memory);
    }
    let (taken_from_server, _, server_accepted) = taken_bytes(server).map_err(kernel)?;
    let cookies = [net::cookie(client).map_err(kernel)?, net::cookie(server).map_err(kernel)?];
    let slots = seat.slots();
    let membership = Membership { station: Rc::clone(station), cookies, slots, hooked: Default::default() };
    let mut maps = station.maps.borrow_mut();
    let inserted = (|| {
        maps.aim(slots[0], server)?;
        maps.aim(slots[1], client)?;
        maps.name(cookies[0], slots[0])?;
        maps.name(cookies[1], slots[1])
    })();
    drop(maps);
    inserted.map_err(|refusal: Refusal| FallbackReason::from(refusal))?;
    let up = Basis { taken, accepted: server_accepted };
    Ok(([up, Basis { taken: taken_from_server, accepted: client_accepted }], membership))
}

/// How many bytes were taken of what a socket has received, how many wait, and how many it has accepted. Bytes that come in between are no matter:
/// then it is asked again.
fn taken_bytes(socket: &OwnedFd) -> io::Result<(u64, u64, u64)> {
    let mut before = net::tcp_info(socket)?;
    loop {
        let waiting = net::waiting_bytes(socket)?;
        let after = net::tcp_info(socket)?;
        if after.received == before.received {
            return Ok((after.received.saturating_sub(waiting), waiting, after.accepted));
        }
        before = after;
    }
}

impl From<Refusal> for FallbackReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotEstablished => Self::NotEstablished,
            Refusal::Kernel(errno) => {
                tracing::debug!(%errno, "the kernel takes no socket into a map");
                Self::Kernel
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut maps = self.station.maps.borrow_mut();
        // First nobody judges any more, then nobody is a target.
        self.slots.into_iter().for_each(|slot| maps.unhook(slot));
        for (cookie, slot) in self.cookies.into_iter().zip(self.slots) {
            maps.forget(cookie, slot);
        }
    }
}
