// SPDX-License-Identifier: MIT OR Apache-2.0
//! By which interfaces packets of flows leave that have left user space, where routes change.

use std::net::SocketAddr;

use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::record::Record;

use super::keys::ends;
use super::slots::Slots;

/// [`Record::flags`] beyond those that programs know, who leave it as it is: the connection with an end is bound to the interface by which its
/// packets leave, whatever the routes say.
pub const fn bound(to: Side) -> u32 {
    1 << (30 + to as u32)
}

impl Slots {
    /// See [`super::Packet::reroute`].
    pub fn reroute(
        &self,
        number: u32,
        mut interface: impl FnMut(SocketAddr, SocketAddr) -> Option<u32>,
    ) -> u32 {
        let is_there = |record: &Record| record.flow.phase() != Phase::Gone;
        let found = self.records.edit(number, |record| is_there(record).then_some(*record));
        let Some(before) = found else { return 0 };
        let mut changed = 0;
        for to in Side::ALL {
            let (from, [end, own]) = (to.other(), ends(&before.key(to)));
            let is_free = before.way(from).interface != 0 && before.flags & bound(to) == 0;
            let Some(new) = is_free.then(|| interface(own, end)).flatten() else { continue };
            changed += self.records.edit(number, |record| {
                let is_same = record.generation == before.generation && is_there(record);
                u32::from(is_same && lead(record, from, new))
            });
        }
        changed
    }
}

/// Has packets that come from a side leave by an interface; whether that is another one than before.
fn lead(record: &mut Record, from: Side, interface: u32) -> bool {
    let way = match from {
        Side::Client => &mut record.to_server,
        Side::Server => &mut record.to_client,
    };
    std::mem::replace(&mut way.interface, interface) != interface
}
