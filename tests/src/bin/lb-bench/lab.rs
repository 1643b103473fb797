// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where it all runs: client, balancer and servers in network namespaces of their own, and programs inside that never outlive us.
//!
//! Namespaces have no names and end with the last process inside. Every program gets a signal from the kernel when this process
//! ends, however it ends (`setpriv --pdeathsig`, prctl(2) PR_SET_PDEATHSIG), so that nothing has to be cleaned up at Ctrl-C. The
//! kernel sends it when the *thread* that started the program ends, so each namespace has one thread that starts all of its
//! programs and lives as long as this process.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use lb_tests::net::{Namespace, Net};
use rustix::process::{Pid, Signal, kill_process};

use crate::load::{READY, ROUTES};

/// The servers' ports, one a route.
const FIRST_SERVER_PORT: u16 = 2001;

/// How long a program may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often its state is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Settings of every namespace: the same congestion control, no memory of earlier connections, and ports for many of them.
const SYSCTLS: [(&str, &str); 3] = [
    ("net/ipv4/tcp_congestion_control", "cubic"),
    ("net/ipv4/tcp_no_metrics_save", "1"),
    ("net/ipv4/ip_local_port_range", "10000 65535"),
];

/// The namespaces with the load server inside.
pub struct Lab {
    /// Where clients run.
    pub client: Place,
    /// Where balancers run.
    pub balancer: Place,
    /// Address of the balancer that clients reach, without port.
    pub balancer_address: SocketAddr,
    /// Addresses of the load servers, by route.
    pub servers: Vec<SocketAddr>,
    /// Where configurations, logs and results go.
    pub directory: PathBuf,
    /// The load server.
    pub load_server: Program,
    /// Its thread: the load server ends with it.
    _server: Place,
}

impl Lab {
    /// Makes the namespaces and starts the load server.
    ///
    /// # Errors
    /// A file cannot be written, or the load server does not start.
    ///
    /// # Panics
    /// Without root.
    pub fn new(directory: &Path) -> Result<Self> {
        for folder in ["configs", "logs"] {
            fs::create_dir_all(directory.join(folder))
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let directory = directory.canonicalize()?;
        let net = Arc::new(Net::new(1));
        for place in [&net.client, &net.balancer, net.server()] {
            for (key, value) in SYSCTLS {
                place.sysctl(key, value);
            }
        }
        let servers =
            (0..ROUTES as u16).map(|route| net.server().address(FIRST_SERVER_PORT + route)).collect();
        let server = Place::new(&net, Net::server);
        let mut load_server = server.spawn(Launch {
            command: vec![
                own_program()?,
                "--as-server".into(),
                FIRST_SERVER_PORT.to_string(),
                ROUTES.to_string(),
            ],
            log: directory.join("logs/load-server.log"),
            is_talking: true,
            farewell: Signal::KILL,
        })?;
        load_server.expect(READY)?;
        Ok(Self {
            client: Place::new(&net, |net| &net.client),
            balancer: Place::new(&net, |net| &net.balancer),
            balancer_address: net.frontend(0),
            servers,
            directory,
            load_server,
            _server: server,
        })
    }

    /// The congestion control of the balancer's namespace, as its kernel says.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn congestion_control(&self) -> Result<String> {
        let read = || fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        Ok(self.balancer.run(read)??.trim().to_owned())
    }

    /// Waits until a balancer accepts connections.
    ///
    /// # Errors
    /// It ends, or it does not accept in time.
    pub fn wait_for(&self, balancer: &mut Program, address: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.client.run(move || TcpStream::connect_timeout(&address, POLL))?.is_err() {
            balancer.ensure_running()?;
            if Instant::now() > deadline {
                bail!("{} does not accept connections: {}", balancer.name, balancer.last_words());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// The program file of this process.
///
/// # Errors
/// Its path is not text.
pub fn own_program() -> Result<String> {
    let path = std::env::current_exe().context("the path of this program is unknown")?;
    path.into_os_string().into_string().map_err(|path| anyhow!("{} is not text", path.display()))
}

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
    fn new(net: &Arc<Net>, which: impl FnOnce(&Net) -> &Namespace + Send + 'static) -> Self {
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
    name: String,
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

    fn ensure_running(&mut self) -> Result<()> {
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

    fn last_words(&self) -> String {
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
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // Fails if it has just ended, and that is fine; the same below.
            let _ = kill_process(pid, self.farewell);
        }
        if !matches!(self.wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
