// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fixed number of bytes as fast as they go, a thread for each flow.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};

use super::super::preface::Request;
use super::super::{CHUNK_SIZE, Outcome, Task};
use super::{check_signature, open};

/// Runs `flow` on so many threads, for an even share of the bytes each.
///
/// # Errors
/// As `flow`'s.
pub fn run(
    task: &Task,
    flows: u32,
    bytes: u64,
    flow: fn(&Task, usize, u64) -> Result<()>,
) -> Result<Outcome> {
    let share = bytes / u64::from(flows);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..flows).map(|route| scope.spawn(move || flow(task, route as usize, share))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a flow panicked"))?)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { seconds, units: share * u64::from(flows), ..Outcome::default() })
}

/// Reads what it asked for, and closes.
///
/// # Errors
/// The flow breaks, or more or fewer bytes come.
pub fn download(task: &Task, route: usize, bytes: u64) -> Result<()> {
    let mut stream = open(task, route, Request::Source(bytes))?;
    let mut chunk = vec![0; CHUNK_SIZE];
    let mut signature = [0; 2];
    stream.read_exact(&mut signature)?;
    check_signature(task, route, &signature)?;
    let mut received = signature.len() as u64;
    while received < bytes {
        match stream.read(&mut chunk)? {
            0 => break,
            length => received += length as u64,
        }
    }
    stream.shutdown(Shutdown::Write)?;
    received += stream.read(&mut chunk)? as u64;
    ensure!(received == bytes, "{received} of {bytes} bytes came");
    Ok(())
}

/// Writes, and reads how many bytes came.
///
/// # Errors
/// The flow breaks, or another number comes back.
pub fn upload(task: &Task, route: usize, bytes: u64) -> Result<()> {
    let mut stream = open(task, route, Request::Sink(bytes))?;
    let chunk = vec![0; CHUNK_SIZE];
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
        stream.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == bytes.to_be_bytes(), "the server did not confirm {bytes} bytes: {answer:?}");
    Ok(())
}
