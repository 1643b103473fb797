// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a connection to a server begins that is to take this path: from a port that may outlive its socket, and with a SYN that offers no more than
//! the client has ([`lb_common::packet::offer`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::packet::offer::Offer;

use super::{Port, Ports, Station};
use crate::kernel::packet::Opening;
use crate::net::{self, Socket};

/// What all tries for one client have in common.
#[derive(Clone, Copy, Debug)]
pub struct Outset<'a> {
    station: &'a Station,
    offer: Option<Offer>,
}

/// A try: programs know its SYN. Dropping it ends that.
#[derive(Debug)]
pub struct Modesty<'a> {
    station: &'a Station,
    opening: Opening,
    offer: Offer,
    is_settled: bool,
}

impl<'a> Outset<'a> {
    /// For a client at an address. `None`: its flow never takes the path, and has no use for a port, because it is on this host.
    pub fn new(station: &'a Station, client: &Socket, address: IpAddr) -> Option<Self> {
        if !station.common.reach.has(address) {
            return None;
        }
        // A client that is gone needs no offer.
        let terms = net::tcp_info(client.get_ref()).ok().map(|info| info.terms);
        let offer = terms.map(|terms| Offer {
            has_timestamps: terms.has_timestamps,
            has_sack: terms.has_sack,
            has_ecn: terms.has_ecn,
            segment_size: u16::try_from(terms.accepted).unwrap_or(u16::MAX),
        });
        Some(Self { station, offer })
    }

    /// Whether a flow with a server may take the path at all.
    pub fn may_lead_to(&self, server: SocketAddr) -> bool {
        self.station.common.reach.has(server.ip())
    }

    /// Where local ports come from.
    pub fn ports(&self) -> &'a Arc<Ports> {
        &self.station.common.ports
    }

    /// Lets programs know the SYN that is about to go to a server from a port. `None`: it offers what the kernel does, because that is no more, or there is
    /// no room for telling.
    pub fn before(&self, server: SocketAddr, port: &Port) -> Option<Modesty<'a>> {
        let offer = self.offer?;
        if port.offers_at_most(offer, || self.station.common.ecn.asks()) {
            return None;
        }
        let opening = Opening::new(net::canonical(server), port.number());
        let is_known = self.station.keys.borrow_mut().offer(&opening, offer);
        is_known.then_some(Modesty { station: self.station, opening, offer, is_settled: false })
    }
}

impl Modesty<'_> {
    /// The connection is there: writes down what its SYN has announced.
    pub fn settle(mut self, port: &Port, socket: &Socket) {
        if port.is_curious()
            && let Ok(info) = net::tcp_info(socket.get_ref())
        {
            // The socket does not know what is taken out of its SYN.
            port.note_announced(u16::try_from(info.terms.announced).unwrap_or(u16::MAX));
        }
        self.is_settled = true;
        if self.station.keys.borrow_mut().settle(&self.opening) {
            port.note_segment_size(self.offer.segment_size);
        }
    }
}

impl Drop for Modesty<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.station.keys.borrow_mut().settle(&self.opening);
        }
    }
}
