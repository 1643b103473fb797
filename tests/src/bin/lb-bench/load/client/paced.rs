// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages at a fixed rate on established flows: an open loop. The time of an exchange counts from when its request was due, also
//! if the flow was still busy with an earlier one then, so that a balancer that stalls is charged for all who wait meanwhile
//! (otherwise they would be omitted, because they would not even have asked).

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::super::Outcome;
use super::super::poll::{Interest, Poll, Table, number};
use super::PATIENCE;

/// When requests are due: the first at once, the others evenly after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    /// Requests in a second.
    rate: u64,
    /// Requests in all.
    total: u64,
}

impl Schedule {
    /// Nanoseconds from the start until a request is due.
    fn due(self, request: u64) -> u64 {
        request * NANOSECONDS / self.rate
    }

    /// How many requests were due by a time, in nanoseconds from the start.
    fn due_by(self, nanoseconds: u64) -> u64 {
        // The last with due(request) <= nanoseconds, and those before it.
        (((nanoseconds + 1) * self.rate - 1) / NANOSECONDS + 1).min(self.total)
    }
}

const NANOSECONDS: u64 = 1_000_000_000;

/// Begins `exchanges` at `rate` in a second on flows that take turns, and waits for all answers.
///
/// # Errors
/// One of the flows fails.
pub fn run(flows: &[TcpStream], size: u32, rate: u32, exchanges: u32) -> Result<Outcome> {
    let schedule = Schedule { rate: rate.into(), total: exchanges.into() };
    let mut poll = Poll::new()?;
    let clock = Clock::new(rate)?;
    poll.add(&clock.0, Interest::IN)?;
    let mut load = Load::new(flows, schedule, size as usize);
    for (index, socket) in flows.iter().enumerate() {
        socket.set_nonblocking(true)?;
        poll.add(socket, Interest::IN)?;
        load.by_descriptor.insert(number(socket)? as usize, index);
    }
    let clock_number = number(&clock.0)? as usize;
    load.start = Instant::now();
    clock.start()?;
    load.ask_due()?;
    while load.times.len() < exchanges as usize {
        poll.wait(|_, ready| {
            if ready == clock_number {
                clock.acknowledge()?;
                // The clock goes on whatever becomes of the flows.
                ensure!(load.last_answer.elapsed() < PATIENCE, "no flow moves any more");
                return load.ask_due();
            }
            load.hear(ready)
        })?;
    }
    Ok(Outcome::with_tail(load.start.elapsed().as_secs_f64(), load.times))
}

/// Ticks whenever a request is due, or less often if nobody looks. A timer that is waited for on its own is exact; the kernel
/// rounds the timeouts of epoll_wait(2) up.
struct Clock(rustix::fd::OwnedFd, Duration);

impl Clock {
    fn new(rate: u32) -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(timer, Duration::from_secs(1) / rate))
    }

    fn start(&self) -> Result<()> {
        let interval = Timespec::try_from(self.1)?;
        let ticks = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &ticks)?;
        Ok(())
    }

    fn acknowledge(&self) -> Result<()> {
        match rustix::io::read(&self.0, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error).context("cannot read a timer"),
        }
    }
}

/// Request n goes over flow n modulo their number, one at a time.
struct Load<'a> {
    flows: Vec<Flow<'a>>,
    by_descriptor: Table<usize>,
    schedule: Schedule,
    start: Instant,
    last_answer: Instant,
    /// Requests that were due when the clock was last looked at.
    due: u64,
    message: Vec<u8>,
    answer: Vec<u8>,
    times: Vec<u64>,
}

struct Flow<'a> {
    socket: &'a TcpStream,
    /// The request that is outstanding, or the next one.
    request: u64,
    is_outstanding: bool,
    received: usize,
}

impl<'a> Load<'a> {
    fn new(flows: &'a [TcpStream], schedule: Schedule, size: usize) -> Self {
        let flow = |(request, socket)| Flow { socket, request, is_outstanding: false, received: 0 };
        Self {
            flows: (0..).zip(flows).map(flow).collect(),
            by_descriptor: Table::new(),
            schedule,
            start: Instant::now(),
            last_answer: Instant::now(),
            due: 0,
            message: vec![b'm'; size],
            answer: vec![0; 2 * size],
            times: Vec::with_capacity(usize::try_from(schedule.total).unwrap_or_default()),
        }
    }

    /// Sends what has become due, on flows that are free; the others do when they have their answer.
    fn ask_due(&mut self) -> Result<()> {
        let due = self.schedule.due_by(u64::try_from(self.start.elapsed().as_nanos())?);
        let count = self.flows.len() as u64;
        for request in self.due..due {
            let flow = &mut self.flows[(request % count) as usize];
            if !flow.is_outstanding && flow.request == request {
                flow.ask(&self.message)?;
            }
        }
        self.due = due;
        Ok(())
    }

    fn hear(&mut self, ready: usize) -> Result<()> {
        let Some(index) = self.by_descriptor.at(ready) else { return Ok(()) };
        let count = self.flows.len() as u64;
        let flow = &mut self.flows[*index];
        if !flow.hear(&mut self.answer, self.message.len())? {
            return Ok(());
        }
        self.last_answer = Instant::now();
        let elapsed = u64::try_from(self.last_answer.duration_since(self.start).as_nanos())?;
        self.times.push(elapsed - self.schedule.due(flow.request));
        flow.request += count;
        if flow.request < self.due {
            flow.ask(&self.message)?;
        }
        Ok(())
    }
}

impl Flow<'_> {
    fn ask(&mut self, message: &[u8]) -> Result<()> {
        self.is_outstanding = true;
        self.received = 0;
        let sent = send(self.socket, message, SendFlags::NOSIGNAL)?;
        ensure!(sent == message.len(), "an idle socket took {sent} bytes only");
        Ok(())
    }

    /// Reads; whether the answer is complete.
    fn hear(&mut self, answer: &mut [u8], size: usize) -> Result<bool> {
        match recv(self.socket, answer, RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error).context("an established flow broke"),
            Ok((0, _)) => bail!("an established flow ended"),
            Ok((length, _)) => self.received += length,
        }
        ensure!(self.is_outstanding && self.received <= size, "more came back than was sent");
        self.is_outstanding = self.received < size;
        Ok(!self.is_outstanding)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn requests_are_due_evenly() {
        let schedule = Schedule { rate: 3, total: 10 };
        assert_eq!([0, 1, 2, 3].map(|n| schedule.due(n)), [0, 333_333_333, 666_666_666, NANOSECONDS]);
        for request in 0..10 {
            let due = schedule.due(request);
            assert_eq!(schedule.due_by(due), request + 1, "{request}");
            assert!(due == 0 || schedule.due_by(due - 1) == request, "{request}");
        }
        assert_eq!(schedule.due_by(100 * NANOSECONDS), 10);
    }

    #[test]
    fn a_stall_is_charged_to_all_who_wait() {
        const SIZE: usize = 8;
        const EXCHANGES: u32 = 2_000;
        const STALL: Duration = Duration::from_millis(200);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        let echo = thread::spawn(move || {
            let mut message = [0; SIZE];
            for exchange in 0..EXCHANGES {
                std::io::Read::read_exact(&mut server, &mut message).unwrap();
                if exchange == 0 {
                    thread::sleep(STALL);
                }
                std::io::Write::write_all(&mut server, &message).unwrap();
            }
        });
        // One each half millisecond: a fifth of them falls into the stall, and the middle of those waits half of it.
        let outcome = run(&[client], SIZE as u32, EXCHANGES, EXCHANGES).unwrap();
        echo.join().unwrap();
        let times = outcome.times.unwrap();
        assert_eq!(outcome.units, u64::from(EXCHANGES));
        assert!(times.p99_us.is_some_and(|time| time >= 180_000.0), "{times:?}");
        assert!(times.p50_us < 100_000.0, "{times:?}");
        assert!(outcome.seconds > 0.98, "{outcome:?}");
    }
}
