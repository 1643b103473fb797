// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes away what an agent has left, with the flows in it. Both ends of each get a reset.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use lb_common::packet::flow::{Phase, Side};
use lb_common::packet::record::Record;

use super::pins::Pins;
use super::{FILTERS, FLOWS, Found, KEYS, KeptError, LAYOUT, Why, read_layout};
use crate::kernel::bpf;
use crate::kernel::packet::hooks::take_off;
use crate::kernel::packet::keys::ends;
use crate::kernel::packet::records::Records;
use crate::kernel::packet::resets::{Outcome, Resets};
use crate::net;
use crate::net::conntrack::{Conntrack, Ends};

/// What was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing.
    Nothing,
    /// Maps and programs with flows, which are gone.
    Flows {
        /// So many.
        count: usize,
        /// Whether their ends have got resets.
        are_told: bool,
    },
}

/// Why it stays.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// Somebody runs on it.
    #[error(transparent)]
    Taken(#[from] KeptError),
    /// It cannot be opened.
    #[error("{0}")]
    Closed(Why),
}

/// The process of the agent that runs on a directory, if one does.
///
/// # Errors
/// It cannot be opened.
pub fn owner(directory: &Path) -> io::Result<Option<u32>> {
    if !directory.exists() || !Pins::is_locked(directory)? {
        return Ok(None);
    }
    let layout = bpf::open(&directory.join(LAYOUT))?;
    read_layout(&layout)
        .map(|layout| Some(layout.process))
        .map_err(|found| io::Error::other(found.to_string()))
}

/// Takes everything away that is in a directory.
///
/// # Errors
/// See [`FlushError`]; then nothing has changed.
pub fn flush(directory: &Path) -> Result<Flushed, FlushError> {
    if !directory.exists() {
        return Ok(Flushed::Nothing);
    }
    let (pins, mut found) = Pins::open(directory)?.map_err(FlushError::Closed)?;
    let keys = found.get(KEYS).map_or(0, |keys| bpf::count(keys).unwrap_or(0));
    let ended = end_all(&found);
    if let Some(filters) = found.remove(FILTERS) {
        take_off(filters);
    }
    pins.clear();
    if found.is_empty() {
        return Ok(Flushed::Nothing);
    }
    drop(found);
    // Each flow has two.
    let count = keys.div_ceil(2);
    Ok(Flushed::Flows { count, are_told: count == 0 || ended.is_some_and(|ended| tell(&ended)) })
}

/// Ends all flows, for whom programs that run yet may not silence what this host sends; how those were that had left user space. `None`: that cannot be
/// read, or is of another network: then this host resets each end as soon as it sends something.
fn end_all(found: &Found) -> Option<Vec<Record>> {
    let layout = read_layout(found.get(LAYOUT)?).ok().filter(|layout| layout.network == net::network())?;
    let records = Records::map(found.get(FLOWS)?, layout.slots).ok()?;
    let end = |slot: u32| {
        records.break_lock(slot);
        records.end(slot)
    };
    let has_left = |record: &Record| matches!(record.flow.phase(), Phase::Spliced | Phase::Closing);
    Some((0..layout.slots).map(end).filter(has_left).collect())
}

/// Says that these flows are over: to both ends of those that had not ended by themselves, and to connection tracking. Whether ends were told.
fn tell(ended: &[Record]) -> bool {
    let conntrack = Arc::<Conntrack>::default();
    let (over, open): (Vec<_>, Vec<_>) = ended.iter().partition(|record| record.flow.is_over());
    over.into_iter().for_each(|record| conntrack.forget(&connections(record)));
    let are_told = open.is_empty() || reset(&open, &conntrack);
    if are_told {
        for [client, server] in open.into_iter().map(connections) {
            conntrack.forget(&[server]);
            // Who has heard of it may have begun another with the same port.
            conntrack.forget_closed(&[client]);
        }
    }
    // Where they were not, rules let pass what this host says to who speaks, as long as the connection is known.
    are_told
}

/// Sends both ends of these flows resets, as often as an agent does; whether this process may.
fn reset(open: &[&Record], conntrack: &Arc<Conntrack>) -> bool {
    let Ok(resets) = Resets::open(Arc::clone(conntrack)) else { return false };
    let send_all = |send: fn(&Resets, &Record) -> Outcome| {
        open.iter().map(|record| send(&resets, record).failed).sum::<u64>() == 0
    };
    let mut are_sent = send_all(Resets::send);
    for pause in Resets::AGAIN {
        thread::sleep(pause);
        are_sent |= send_all(Resets::send_again);
    }
    are_sent
}

/// Those of a flow: the client and the balancer, the server and the balancer.
fn connections(record: &Record) -> [Ends; 2] {
    Side::ALL.map(|side| ends(&record.key(side)))
}
