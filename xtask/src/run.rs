// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask run`: lb in front of the demo servers, until Ctrl-C.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::demo::Demo;
use crate::repository::{agent, root};

/// The configuration of the demo, from the root of the repository.
pub const CONFIG: &str = "config/dev.toml";

/// Where [`CONFIG`] has clients come in.
pub const FRONTEND_PORT: u16 = 8443;

/// Where [`CONFIG`] puts the admin surface.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8404);

/// How long lb may take until it is ready.
const READY_MAX: Duration = Duration::from_secs(30);

/// How often the state of lb and the signals are looked at.
const POLL: Duration = Duration::from_millis(50);

/// How long the admin surface may take for one answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// What `run` can be told.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments for `lb run` instead of the demo, such as `--config FILE`
    #[arg(last = true, value_name = "ARGS")]
    lb: Vec<OsString>,
}

/// Builds lb and runs it, with the demo or with the arguments given.
///
/// # Errors
///
/// The build fails, a port of the demo is taken, or lb is not ready in time. If lb itself ends, its exit code is ours.
pub fn run(args: &Args) -> Result<ExitCode> {
    let lb = agent()?;
    if !args.lb.is_empty() {
        // Takes this process's place, so that signals and the exit code are lb's own.
        let error = Command::new(&lb).arg("run").args(&args.lb).exec();
        return Err(error).with_context(|| format!("cannot start {}", lb.display()));
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let demo = Demo::start()?;
    let start = Instant::now();
    let mut agent = Agent::start(&lb)?;
    let ready = agent.watch(&mut signals, || {
        ensure!(
            start.elapsed() < READY_MAX,
            "lb did not get ready: http://{ADMIN}/readyz does not answer 200"
        );
        Ok(is_ready(ADMIN))
    });
    if let Some(end) = ready? {
        return Ok(end);
    }
    println!("{}", commands(start.elapsed(), demo.ca.path()));
    let end = agent.watch(&mut signals, || Ok(false))?;
    end.context("lb is watched until it ends")
}

/// A running lb; killed if it is dropped while it runs.
struct Agent(Child);

impl Agent {
    /// Starts it in a process group of its own: Ctrl-C reaches this process alone, which passes it on as SIGTERM.
    fn start(lb: &Path) -> Result<Self> {
        let mut command = Command::new(lb);
        command.current_dir(root()).args(["run", "--config", CONFIG]).process_group(0);
        command.spawn().map(Self).with_context(|| format!("cannot start {}", lb.display()))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("cannot wait for lb")
    }

    /// Waits until it ends, by itself or because a signal wants that, or until `is_done`; then there is no exit code yet.
    fn watch(
        &mut self,
        signals: &mut Signals,
        is_done: impl Fn() -> Result<bool>,
    ) -> Result<Option<ExitCode>> {
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(report_end(status)));
            }
            if signals.pending().next().is_some() {
                return self.stop(signals).map(Some);
            }
            if is_done()? {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Has it drain and end; each further signal presses: a second SIGTERM ends it at once, then it is killed.
    fn stop(&mut self, signals: &mut Signals) -> Result<ExitCode> {
        println!("stopping");
        let mut presses = [Signal::TERM, Signal::TERM, Signal::KILL].into_iter();
        self.signal(presses.next());
        loop {
            if let Some(status) = self.ended()? {
                return Ok(if status.success() { ExitCode::SUCCESS } else { report_end(status) });
            }
            if signals.pending().next().is_some() {
                self.signal(presses.next());
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal. The process has not been waited for, so its id is still its own.
    fn signal(&self, signal: Option<Signal>) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), Some(signal)) = (pid, signal) {
            // It may have ended by itself a moment ago; then there is nothing to do.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Says that lb ended without being asked, and passes its exit code on. That is never a success.
fn report_end(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => eprintln!("error: lb ended with exit code {code}; its message is above"),
        (None, signal) => eprintln!("error: lb was ended by signal {}", signal.unwrap_or_default()),
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.filter(|code| *code != 0).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether the admin surface says that connections can come.
fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&admin, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status_line = [0; 12];
        stream.read_exact(&mut status_line)?;
        Ok(status_line == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// What to try, ready to paste.
fn commands(ready_after: Duration, ca: &Path) -> String {
    let ca = ca.display();
    format!(
        "
lb is ready after {:.1} s. Try, in another terminal:

  curl --cacert {ca} --resolve app.localhost:{FRONTEND_PORT}:127.0.0.1 https://app.localhost:{FRONTEND_PORT}/
  curl --cacert {ca} --resolve 'api.localhost:{FRONTEND_PORT}:[::1]' https://api.localhost:{FRONTEND_PORT}/
  curl http://{ADMIN}/metrics

Ctrl-C ends it.
",
        ready_after.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[track_caller]
    fn check(answer: &'static [u8], expected: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 16];
            stream.read_exact(&mut request).expect("a request");
            stream.write_all(answer).expect("answered");
        });
        assert_eq!(is_ready(address), expected);
        server.join().expect("the server ends");
    }

    #[test]
    fn only_status_200_is_ready() {
        check(b"HTTP/1.1 200 OK\r\n\r\n", true);
        check(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", false);
        check(b"SSH-2.0-x\r\n", false);
    }

    #[test]
    fn three_commands_can_be_pasted() {
        let text = commands(Duration::from_millis(1234), Path::new("/tmp/ca.pem"));
        assert_eq!(text.matches("  curl ").count(), 3);
        assert!(text.contains("after 1.2 s") && text.contains("--cacert /tmp/ca.pem"), "{text}");
    }

    #[test]
    fn the_exit_code_of_lb_is_passed_on() {
        // wait(2): the exit code is in the second byte of the status, a signal in the first.
        assert_eq!(report_end(ExitStatus::from_raw(78 << 8)), ExitCode::from(78));
        assert_eq!(report_end(ExitStatus::from_raw(9)), ExitCode::FAILURE);
        assert_eq!(report_end(ExitStatus::from_raw(0)), ExitCode::FAILURE);
    }
}
