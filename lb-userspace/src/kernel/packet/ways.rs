// SPDX-License-Identifier: MIT OR Apache-2.0
//! By which interfaces packets of flows leave that programs know, where routes change.
//!
//! A question for a route cannot carry all that the kernel goes by when a socket sends: marks of packets and connections, for one. So a way follows
//! the routes only if their answer was once the interface by which packets do leave.

use std::net::{IpAddr, SocketAddr};

use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::record::{Key, Record, free, routed};

use super::keys::ends;
use super::slots::Slots;

/// The way to an end which may change, as it was at a glance.
struct Way {
    number: u32,
    to: Side,
    generation: u64,
    key: Key,
    interface: u32,
    /// Neither a socket nor an address binds it to its interface.
    is_free: bool,
    is_routed: bool,
}

impl Slots {
    /// See [`super::Packet::note_routed`].
    pub fn note_routed(
        &self,
        number: u32,
        mut interface: impl FnMut(SocketAddr, SocketAddr) -> Option<u32>,
    ) -> bool {
        let mut is_elsewhere = |way: &Way| {
            let [end, own] = ends(&way.key);
            let answer = interface(own, end);
            let _is_noted = answer == Some(way.interface) && self.lead(way, way.interface);
            answer.is_some_and(|answer| answer != way.interface)
        };
        let unnoted = self.ways(number).filter(|way| way.is_free && !way.is_routed);
        // Each is asked for.
        unnoted.filter(|way| is_elsewhere(way)).count() == 0
    }

    /// See [`super::Packet::reroute`].
    pub fn reroute(
        &self,
        mut interface: impl FnMut(SocketAddr, SocketAddr) -> Option<u32>,
        mut is_lost: impl FnMut(u32) -> bool,
        mut successor: impl FnMut(u32) -> Option<u32>,
    ) -> u32 {
        if self.is_empty() {
            return 0;
        }
        let mut lead = |way: &Way| {
            if !way.is_free {
                return successor(way.interface).is_some_and(|new| self.lead(way, new));
            }
            let [end, own] = ends(&way.key);
            let Some(new) = interface(own, end) else { return false };
            if new == way.interface {
                // Explained at last, if it was not: it follows from here on.
                let _is_there = way.is_routed || self.lead(way, new);
                return false;
            }
            (way.is_routed || is_lost(way.interface)) && self.lead(way, new)
        };
        let mut moved = 0;
        for number in 0..self.count() {
            let ways = self.ways(number).filter(|way| lead(way)).count();
            moved += u32::from(ways > 0);
        }
        moved
    }

    /// The ways of a slot's flow.
    fn ways(&self, number: u32) -> impl Iterator<Item = Way> {
        let record = self.records.is_there(number).then(|| self.records.glance(number));
        record
            .into_iter()
            .flat_map(move |record| Side::ALL.map(|to| Way::of(number, &record, to)).into_iter().flatten())
    }

    /// Has packets leave by an interface from now on, as the routes say; whether it is still the same flow.
    fn lead(&self, way: &Way, interface: u32) -> bool {
        self.records.edit(way.number, |record| {
            let is_there = record.flow.phase() != Phase::Gone && record.generation == way.generation;
            // A glance may have seen half of a flow that has just begun.
            if !is_there || record.key(way.to) != way.key {
                return false;
            }
            record.flags |= routed(way.to);
            match way.to {
                Side::Client => record.to_client.interface = interface,
                Side::Server => record.to_server.interface = interface,
            }
            true
        })
    }
}

impl Way {
    fn of(number: u32, record: &Record, to: Side) -> Option<Self> {
        let (key, interface) = (record.key(to), record.way(to.other()).interface);
        // An address of one link alone is nowhere else.
        let is_of_link = matches!(ends(&key)[0].ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        let is_free = record.flags & free(to) != 0 && !is_of_link;
        let is_routed = record.flags & routed(to) != 0;
        let generation = record.generation;
        (interface != 0).then_some(Self { number, to, generation, key, interface, is_free, is_routed })
    }
}
