// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes away what an agent has left, with the flows in it. Both ends of each get a reset.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use lb_common::packet::flow::Phase;
use lb_common::packet::record::Record;

use super::pins::Pins;
use super::{FILTERS, FLOWS, Found, KEYS, KeptError, LAYOUT, Why, read_layout};
use crate::kernel::bpf;
use crate::kernel::packet::hooks::take_off;
use crate::kernel::packet::records::Records;
use crate::kernel::packet::resets::Resets;
use crate::net;

/// After how long resets are sent again: one may get lost.
const AGAIN: Duration = Duration::from_millis(250);

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
    Ok(Flushed::Flows { count, are_told: count == 0 || ended.is_some_and(|ended| reset(&ended)) })
}

/// Ends all flows, for whom programs that run yet may not silence what this host sends; how they were. `None`: that cannot be read, or
/// is of another network: then this host resets each end as soon as it sends something.
fn end_all(found: &Found) -> Option<Vec<Record>> {
    let layout = read_layout(found.get(LAYOUT)?).ok().filter(|layout| layout.network == net::network())?;
    let records = Records::map(found.get(FLOWS)?, layout.slots).ok()?;
    let end = |slot: u32| {
        records.break_lock(slot);
        records.end(slot)
    };
    let is_open = |record: &Record| {
        matches!(record.flow.phase(), Phase::Spliced | Phase::Closing) && !record.flow.is_over()
    };
    Some((0..layout.slots).map(end).filter(is_open).collect())
}

/// Sends both ends of these flows resets; whether this process may.
fn reset(ended: &[Record]) -> bool {
    if ended.is_empty() {
        return true;
    }
    let Ok(resets) = Resets::open(Arc::default()) else { return false };
    let send_all = || ended.iter().map(|record| resets.send(record).failed).sum::<u64>() == 0;
    let are_sent = send_all();
    thread::sleep(AGAIN);
    send_all() || are_sent
}
