// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that follow each other, some at a time, each with the same work of its own: messages to and fro, or a download. The client
//! ends each.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::super::preface::Request;
use super::super::{Errand, Outcome, Task};
use super::{bulk, messages, open};

/// Makes `total` connections, `concurrent` at a time, a thread for each that is open.
///
/// # Errors
/// Any of them fails in any way.
pub fn run(task: &Task, total: u32, concurrent: u32, errand: Errand) -> Result<Outcome> {
    let started = AtomicU32::new(0);
    let turns = || {
        std::iter::from_fn(|| Some(started.fetch_add(1, Ordering::Relaxed)))
            .take_while(|number| *number < total)
            .try_for_each(|number| turn(task, number as usize, errand))
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..concurrent.min(total)).map(|_| scope.spawn(turns)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a flow panicked"))?)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = u64::from(total) * errand.bytes();
    Ok(Outcome { seconds, units: total.into(), bytes: Some(bytes), ..Outcome::default() })
}

/// One of them.
fn turn(task: &Task, number: usize, errand: Errand) -> Result<()> {
    match errand {
        Errand::Download { bytes } => bulk::download(task, number, bytes),
        Errand::Exchanges { count, size } => {
            let mut stream = open(task, number, Request::Echo)?;
            let mut message = vec![b'm'; size as usize];
            (0..count).try_for_each(|_| messages::exchange(&mut stream, &mut message))
        }
    }
}
