// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes away what an agent has left, with the flows in it. Their ends are reset by this host as soon as they send something.

use std::io;
use std::path::Path;

use super::pins::Pins;
use super::{FILTERS, KEYS, KeptError, LAYOUT, Why, read_layout};
use crate::kernel::bpf;
use crate::kernel::packet::hooks::take_off;

/// What was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing.
    Nothing,
    /// Maps and programs with so many flows, which are gone.
    Flows(usize),
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
    if let Some(filters) = found.remove(FILTERS) {
        take_off(filters);
    }
    pins.clear();
    // Each flow has two.
    Ok(if found.is_empty() { Flushed::Nothing } else { Flushed::Flows(keys.div_ceil(2)) })
}
