// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small messages on established flows, one outstanding on each.

use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::super::poll::{Interest, Poll, Table, number};
use super::super::preface::Request;
use super::super::{MESSAGE_SIZE, Outcome, Task};

/// Opens flows that have each exchanged one message, so that nothing about them is outstanding.
///
/// # Errors
/// One of them fails.
pub fn open(task: &Task, flows: u32) -> Result<Vec<TcpStream>> {
    let flow = |route| {
        let mut stream = super::open(task, route as usize, Request::Echo)?;
        exchange(&mut stream)?;
        Ok(stream)
    };
    (0..flows).map(flow).collect()
}

/// Exchanges messages, one after the other on each flow.
///
/// # Errors
/// One of the flows fails.
pub fn ping_pong(flows: &[TcpStream], exchanges: u32) -> Result<Outcome> {
    let start = Instant::now();
    let times = match flows {
        [flow] => alone(flow, exchanges)?,
        flows => together(flows, exchanges)?,
    };
    Ok(Outcome::with_times(start.elapsed().as_secs_f64(), times))
}

/// One flow needs no epoll: the wake-up of a blocking read is the shortest there is.
fn alone(mut flow: &TcpStream, exchanges: u32) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(exchanges as usize);
    for _ in 0..exchanges {
        let start = Instant::now();
        exchange(&mut flow)?;
        times.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    Ok(times)
}

fn exchange(flow: &mut (impl std::io::Read + std::io::Write)) -> Result<()> {
    let mut message = [b'm'; MESSAGE_SIZE];
    flow.write_all(&message)?;
    flow.read_exact(&mut message).context("no answer to a message")
}

struct Flow<'a> {
    socket: &'a TcpStream,
    left: u32,
    received: usize,
    start: Instant,
}

fn together(flows: &[TcpStream], exchanges: u32) -> Result<Vec<u64>> {
    let share = exchanges / u32::try_from(flows.len())?;
    let mut poll = Poll::new()?;
    let mut table = Table::new();
    for socket in flows {
        socket.set_nonblocking(true)?;
        poll.add(socket, Interest::IN)?;
        let mut flow = Flow { socket, left: share, received: 0, start: Instant::now() };
        flow.ask()?;
        table.insert(number(socket)? as usize, flow);
    }
    let total = share as usize * flows.len();
    let mut times = Vec::with_capacity(total);
    while times.len() < total {
        poll.wait(|_, ready| {
            let Some(flow) = table.at(ready) else { return Ok(()) };
            if let Some(time) = flow.hear()? {
                times.push(time);
                flow.ask()?;
            }
            Ok::<(), anyhow::Error>(())
        })?;
    }
    Ok(times)
}

impl Flow<'_> {
    /// Sends the next message, if there is one left.
    fn ask(&mut self) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        self.received = 0;
        self.start = Instant::now();
        let sent = send(self.socket, &[b'm'; MESSAGE_SIZE], SendFlags::NOSIGNAL)?;
        ensure!(sent == MESSAGE_SIZE, "an idle socket took {sent} bytes only");
        Ok(())
    }

    /// Reads; the nanoseconds since the question if the answer is complete.
    fn hear(&mut self) -> Result<Option<u64>> {
        let mut message = [0; 2 * MESSAGE_SIZE];
        match recv(self.socket, &mut message[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error).context("an established flow broke"),
            Ok((0, _)) => bail!("an established flow ended"),
            Ok((length, _)) => self.received += length,
        }
        ensure!(self.received <= MESSAGE_SIZE, "more came back than was sent");
        let is_complete = self.received == MESSAGE_SIZE;
        Ok(if is_complete { Some(u64::try_from(self.start.elapsed().as_nanos())?) } else { None })
    }
}
