// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that writes: takes what has gathered, makes lines, writes them in as few calls as the target allows, and says
//! once a minute if lines are lost.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Record;
use super::format::Formatter;
use super::queue::Queue;
use super::stream::Stream;
use super::syslog::{Peer, Syslog};
use crate::config::LogTarget;

/// How long the writer lets lines gather after a batch. Also the longest that a line waits under load.
const NAP: Duration = Duration::from_millis(10);

/// At most one warning about lost lines in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Where lines go.
#[derive(Debug)]
pub(super) enum Target {
    /// Bytes.
    Stream(Stream),
    /// Datagrams.
    Syslog(Syslog),
}

/// Lines that a target did not take, and why.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Their number.
    pub(super) lines: u64,
    /// The last error, also where it cost no line.
    pub(super) cause: Option<io::Error>,
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    target: Target,
    formatter: Formatter,
    unsaid: Lost,
    warned_at: Option<Instant>,
}

impl Target {
    /// Opens a target; `None` for [`LogTarget::Off`].
    ///
    /// # Errors
    /// The file cannot be opened, or standard output cannot be duplicated.
    pub(super) fn open(target: &LogTarget) -> io::Result<Option<Self>> {
        Ok(Some(match target {
            LogTarget::Off => return Ok(None),
            LogTarget::Stdout => Self::Stream(Stream::stdout()?),
            LogTarget::File(path) => Self::Stream(Stream::file(path)?),
            LogTarget::SyslogUnix(path) => Self::Syslog(Syslog::new(Peer::Unix(path.clone()))),
            LogTarget::SyslogUdp(address) => Self::Syslog(Syslog::new(Peer::Udp(*address))),
        }))
    }

    fn write(&mut self, batch: &[Record], formatter: &Formatter) -> Lost {
        match self {
            Self::Stream(stream) => stream.write(batch, formatter),
            Self::Syslog(syslog) => syslog.write(batch, formatter),
        }
    }

    fn reopen(&mut self) -> Lost {
        match self {
            Self::Stream(stream) => stream.reopen(),
            Self::Syslog(_) => Lost::default(),
        }
    }
}

impl Lost {
    /// Adds a later loss.
    pub(super) fn add(&mut self, later: Self) {
        self.lines += later.lines;
        self.cause = later.cause.or(self.cause.take());
    }
}

impl Writer {
    /// A writer that has not started.
    pub(super) fn new(queue: Arc<Queue>, target: Target, formatter: Formatter) -> Self {
        Self { queue, target, formatter, unsaid: Lost::default(), warned_at: None }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self) {
        if let Target::Syslog(syslog) = &mut self.target {
            // A mistyped path should not wait for the first connection to be noticed.
            let cause = syslog.connect().err();
            self.report(Lost { lines: 0, cause });
        }
        let mut batch = Vec::new();
        loop {
            let orders = self.queue.take(&mut batch);
            let mut lost = Lost::default();
            if orders.is_reopen_due {
                lost.add(self.target.reopen());
            }
            lost.add(self.target.write(&batch, &self.formatter));
            self.queue.dropped.inc_by(lost.lines);
            // The queue has counted its own already.
            lost.lines += orders.dropped;
            self.report(lost);
            self.queue.finish(&mut batch, self.unsaid.lines);
            if orders.is_closed {
                return;
            }
            self.queue.nap(NAP);
        }
    }

    /// Warns about losses, those of the last minute together.
    fn report(&mut self, lost: Lost) {
        self.unsaid.add(lost);
        let is_silent = self.unsaid.lines == 0 && self.unsaid.cause.is_none();
        if is_silent || self.warned_at.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        let Lost { lines, cause } = std::mem::take(&mut self.unsaid);
        self.warned_at = Some(Instant::now());
        match cause {
            Some(cause) => {
                tracing::warn!(lines, error = %cause, "the access log's target fails; lines dropped")
            }
            None => tracing::warn!(lines, "the access log's target is too slow; lines dropped"),
        }
    }
}
