// SPDX-License-Identifier: MIT OR Apache-2.0
//! Short connections in a closed loop: connect, ClientHello, answer, end; the next one starts when one has ended.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use super::super::hello::Template;
use super::super::poll::{Interest, Poll, Table, number};
use super::super::preface::Request;
use super::super::{ANSWER_SIZE, Outcome, ROUTES, Task, Times};
use super::{PATIENCE, check_signature};

/// A prime: multiples of it visit every one of the names, in no order that helps a cache.
const STRIDE: usize = 7919;

/// Makes `total` connections, `concurrent` at a time, for each of the names in turn.
///
/// # Errors
/// Any of them is refused, reset, answered wrongly or cut short.
pub fn run(task: &Task, total: u32, concurrent: u32, names: u32) -> Result<Outcome> {
    let mut load = Load {
        task,
        hello: Template::new(Request::Source(ANSWER_SIZE as u64)),
        names: names as usize,
        flows: Table::new(),
        started: 0,
        total,
        times: Vec::with_capacity(total as usize),
        first_byte_times: Vec::with_capacity(total as usize),
    };
    let mut poll = Poll::with_patience(PATIENCE)?;
    let start = Instant::now();
    for _ in 0..concurrent.min(total) {
        load.start(&poll)?;
    }
    while load.times.len() < total as usize {
        poll.wait(|poll, ready| load.step(poll, ready))?;
    }
    let outcome = Outcome::with_times(start.elapsed().as_secs_f64(), load.times);
    Ok(Outcome { first_byte: Times::of(load.first_byte_times), ..outcome })
}

struct Load<'a> {
    task: &'a Task,
    hello: Template,
    names: usize,
    flows: Table<Flow>,
    started: u32,
    total: u32,
    times: Vec<u64>,
    first_byte_times: Vec<u64>,
}

struct Flow {
    socket: OwnedFd,
    name: usize,
    start: Instant,
    first_byte: Option<Duration>,
    is_hello_sent: bool,
    received: usize,
}

impl Load<'_> {
    /// Starts the next connection, if there is one left.
    fn start(&mut self, poll: &Poll) -> Result<()> {
        if self.started == self.total {
            return Ok(());
        }
        let name = self.started as usize * STRIDE % self.names;
        self.started += 1;
        let start = Instant::now();
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        match connect(&socket, &self.task.targets[name % ROUTES]) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context("cannot connect"),
        }
        poll.add(&socket, Interest::IN | Interest::OUT | Interest::ET)?;
        let number = number(&socket)? as usize;
        let flow = Flow { socket, name, start, first_byte: None, is_hello_sent: false, received: 0 };
        self.flows.insert(number, flow);
        Ok(())
    }

    fn step(&mut self, poll: &Poll, ready: usize) -> Result<()> {
        let Some(flow) = self.flows.at(ready) else { return Ok(()) };
        if !flow.is_hello_sent {
            let hello = self.hello.named(flow.name);
            let sent = match send(&flow.socket, hello, SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN) => return Ok(()),
                sent => sent.context("the connection failed")?,
            };
            ensure!(sent == hello.len(), "a fresh socket took {sent} bytes only");
            flow.is_hello_sent = true;
            // No answer can be there yet; the next edge announces it.
            return Ok(());
        }
        if flow.read(self.task)? {
            let elapsed = flow.start.elapsed();
            self.times.push(u64::try_from(elapsed.as_nanos())?);
            let first_byte = flow.first_byte.unwrap_or(elapsed);
            self.first_byte_times.push(u64::try_from(first_byte.as_nanos())?);
            drop(self.flows.take(ready));
            self.start(poll)?;
        }
        Ok(())
    }
}

impl Flow {
    /// Reads what is there; true at the end.
    fn read(&mut self, task: &Task) -> Result<bool> {
        let mut answer = [0; 4 * ANSWER_SIZE];
        loop {
            match recv(&self.socket, &mut answer[..], RecvFlags::empty()) {
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error).context("the connection broke before its end"),
                Ok((0, _)) if self.received == ANSWER_SIZE => return Ok(true),
                Ok((0, _)) => bail!("the answer ended after {} of {ANSWER_SIZE} bytes", self.received),
                Ok((length, _)) => {
                    if self.received == 0 {
                        self.first_byte = Some(self.start.elapsed());
                        check_signature(task, self.name, &answer[..length])?;
                    }
                    self.received += length;
                }
            }
        }
    }
}
