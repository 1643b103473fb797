// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small messages on established flows, one outstanding on each.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::super::poll::{Interest, Poll, Table, number};
use super::super::preface::Request;
use super::super::{FLOWS_A_SOURCE, Outcome, SOURCES, Task};
use super::PATIENCE;

/// Opens flows that have each exchanged one message, so that nothing about them is outstanding.
///
/// # Errors
/// One of them fails.
pub fn open(task: &Task, flows: u32, size: u32) -> Result<Vec<TcpStream>> {
    let mut message = vec![b'm'; size as usize];
    let flow = |route| {
        let mut stream = match source(route) {
            None => super::open(task, route as usize, Request::Echo)?,
            Some(source) => super::open_from(source, task, route as usize, Request::Echo)?,
        };
        exchange(&mut stream, &mut message)?;
        Ok(stream)
    };
    (0..flows).map(flow).collect()
}

/// The address that a flow comes from where the usual one has no ports left.
fn source(flow: u32) -> Option<Ipv4Addr> {
    let address = flow / FLOWS_A_SOURCE;
    (address > 0).then(|| Ipv4Addr::from(u32::from(SOURCES.0) + address))
}

/// Exchanges messages of so many bytes, one after the other on each flow.
///
/// # Errors
/// One of the flows fails.
pub fn ping_pong(flows: &[TcpStream], size: u32, exchanges: u32) -> Result<Outcome> {
    let message = vec![b'm'; size as usize];
    let start = Instant::now();
    let times = match flows {
        [flow] => alone(flow, message, exchanges)?,
        flows => together(flows, &message, exchanges)?,
    };
    Ok(Outcome::with_tail(start.elapsed().as_secs_f64(), times))
}

/// One flow needs no epoll: the wake-up of a blocking read is the shortest there is.
fn alone(mut flow: &TcpStream, mut message: Vec<u8>, exchanges: u32) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(exchanges as usize);
    for _ in 0..exchanges {
        let start = Instant::now();
        exchange(&mut flow, &mut message)?;
        times.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    Ok(times)
}

/// Sends a message and waits for its answer.
///
/// # Errors
/// The flow fails.
pub fn exchange(flow: &mut (impl std::io::Read + std::io::Write), message: &mut [u8]) -> Result<()> {
    flow.write_all(message)?;
    flow.read_exact(message).context("no answer to a message")
}

struct Flow<'a> {
    socket: &'a TcpStream,
    left: u32,
    received: usize,
    start: Instant,
}

fn together(flows: &[TcpStream], message: &[u8], exchanges: u32) -> Result<Vec<u64>> {
    let mut answer = vec![0; 2 * message.len()];
    let share = exchanges / u32::try_from(flows.len())?;
    let mut poll = Poll::with_patience(PATIENCE)?;
    let mut table = Table::new();
    for socket in flows {
        socket.set_nonblocking(true)?;
        poll.add(socket, Interest::IN)?;
        let mut flow = Flow { socket, left: share, received: 0, start: Instant::now() };
        flow.ask(message)?;
        table.insert(number(socket)? as usize, flow);
    }
    let total = share as usize * flows.len();
    let mut times = Vec::with_capacity(total);
    while times.len() < total {
        poll.wait(|_, ready| {
            let Some(flow) = table.at(ready) else { return Ok(()) };
            if let Some(time) = flow.hear(&mut answer, message.len())? {
                times.push(time);
                flow.ask(message)?;
            }
            Ok::<(), anyhow::Error>(())
        })?;
    }
    Ok(times)
}

impl Flow<'_> {
    /// Sends the next message, if there is one left.
    fn ask(&mut self, message: &[u8]) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        self.received = 0;
        self.start = Instant::now();
        let sent = send(self.socket, message, SendFlags::NOSIGNAL)?;
        ensure!(sent == message.len(), "an idle socket took {sent} bytes only");
        Ok(())
    }

    /// Reads; the nanoseconds since the question if the answer is complete.
    fn hear(&mut self, answer: &mut [u8], size: usize) -> Result<Option<u64>> {
        match recv(self.socket, answer, RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error).context("an established flow broke"),
            Ok((0, _)) => bail!("an established flow ended"),
            Ok((length, _)) => self.received += length,
        }
        ensure!(self.received <= size, "more came back than was sent");
        let is_complete = self.received == size;
        Ok(if is_complete { Some(u64::try_from(self.start.elapsed().as_nanos())?) } else { None })
    }
}
