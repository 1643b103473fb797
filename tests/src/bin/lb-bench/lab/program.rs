// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads in namespaces, and the programs that they start.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use lb_tests::net::{Namespace, Net};
use rustix::process::{Pid, Signal, kill_process};

use crate::measure::tree;

/// How long a program may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often its state is looked at.
const POLL: Duration = Duration::from_millis(20);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a namespace that does what it is told.
pub struct Place(mpsc::Sender<Job>);

/// A program to start.
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where its standard error goes, and its standard output if it does not talk.
    pub log: PathBuf,
    /// Whether standard input and output are ours to talk to it.
    pub is_talking: bool,
    /// What ends it with all of its children.
    pub farewell: Signal,
}

impl Place {
    /// A thread in one of the namespaces of a net.
    pub fn new(net: &Arc<Net>, which: impl FnOnce(&Net) -> &Namespace + Send + 'static) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let net = Arc::clone(net);
        thread::spawn(move || which(&net).enter(move || queue.into_iter().for_each(|job| job())));
        Self(jobs)
    }

    /// Runs something in this namespace.
    ///
    /// # Errors
    /// An earlier job has panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, answers) = mpsc::channel();
        let job = move || {
            // Fails only if nobody waits for the answer any more.
            let _ = answer.send(job());
        };
        self.0.send(Box::new(job)).ok().context("the thread of a namespace has ended")?;
        answers.recv().context("the thread of a namespace has panicked")
    }

    /// Starts a program in this namespace.
    ///
    /// # Errors
    /// It is not installed, or its log cannot be written.
    pub fn spawn(&self, launch: Launch) -> Result<Program> {
        let name = launch.command.join(" ");
        let log =
            File::create(&launch.log).with_context(|| format!("cannot write {}", launch.log.display()))?;
        let mut command = Command::new("setpriv");
        // A group of its own: Ctrl-C in a terminal is for this process alone, which ends the others in order.
        command.process_group(0);
        command.args(["--pdeathsig", signal_name(launch.farewell), "--"]).args(&launch.command);
        command.stderr(log.try_clone()?);
        if launch.is_talking {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(log);
        }
        let spawned = self.run(move || command.spawn())?;
        let mut child = spawned.context("cannot start setpriv (package util-linux)")?;
        let (input, output) = (child.stdin.take(), child.stdout.take().map(BufReader::new));
        Ok(Program { child, name, log: launch.log, farewell: launch.farewell, input, output })
    }
}

fn signal_name(signal: Signal) -> &'static str {
    if signal == Signal::KILL { "KILL" } else { "TERM" }
}

/// A running program. Dropping it ends it.
pub struct Program {
    child: Child,
    /// Its command line.
    pub name: String,
    log: PathBuf,
    farewell: Signal,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Program {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to it.
    ///
    /// # Errors
    /// It has ended; with what it said.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("this program does not listen")?;
        let told = writeln!(input, "{line}");
        told.map_err(|_| anyhow!("{}", self.last_words()))
    }

    /// Reads a line from it.
    ///
    /// # Errors
    /// It has ended; with what it said.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.as_mut().context("this program does not talk")?.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{}", self.last_words());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads a line that must be this one.
    ///
    /// # Errors
    /// It is another.
    pub fn expect(&mut self, expected: &str) -> Result<()> {
        let line = self.hear()?;
        if line != expected {
            bail!("{} said {line:?} instead of {expected:?}", self.name);
        }
        Ok(())
    }

    /// Ends its standard input and waits until it ends by itself.
    ///
    /// # Errors
    /// It does not, or it fails.
    pub fn dismiss(mut self) -> Result<()> {
        drop(self.input.take());
        match self.wait()? {
            Some(status) if status.success() => Ok(()),
            Some(_) => bail!("{}", self.last_words()),
            None => bail!("{} does not end", self.name),
        }
    }

    /// Makes sure that it still runs.
    ///
    /// # Errors
    /// It has ended; with what it said.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    fn wait(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                None if Instant::now() < deadline => thread::sleep(POLL),
                status => return Ok(status),
            }
        }
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pids = tree(self.child.id());
        end(self.child.id(), self.farewell);
        if !matches!(self.wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // Workers that their parent left behind, if any.
        pids.into_iter().skip(1).for_each(|pid| end(pid, Signal::KILL));
    }
}

fn end(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // Fails if it has just ended, and that is fine.
        let _ = kill_process(pid, signal);
    }
}
