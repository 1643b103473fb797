// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program under test: the real binary, in the balancer's namespace.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::config::{ADMIN, Config, Path};
use crate::metrics::{Response, Scrape, fetch};
use crate::net::{Namespace, Net};
use crate::process::{Process, output, run};
use crate::wait;

/// How long an agent may take to be ready: on emulated processors that others want, too, the verifier alone takes half a minute.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    balancer: Arc<Namespace>,
    _files: TempDir,
}

/// How an agent is started.
#[derive(Debug)]
pub struct Launch {
    balancer: Arc<Namespace>,
    wrapper: Vec<String>,
    ready_path: &'static str,
}

impl Agent {
    /// Starts the agent and waits until it is ready.
    #[track_caller]
    pub fn start(net: &Net, config: &Config) -> Self {
        Self::launch(net).start(config)
    }

    /// A start with special circumstances.
    pub fn launch(net: &Net) -> Launch {
        Launch { balancer: Arc::clone(&net.balancer), wrapper: Vec::new(), ready_path: "/readyz" }
    }

    /// Asks the admin surface; `None` if it cannot be connected, or ends before it has answered.
    #[track_caller]
    pub fn admin(&self, path: &str) -> Option<Response> {
        fetch(&self.balancer, admin(), path, "").ok()
    }

    /// All metrics as they are now.
    #[track_caller]
    pub fn scrape(&self) -> Scrape {
        let response = self.admin("/metrics").expect("an admin surface");
        assert_eq!(response.status, 200, "{}", response.head);
        Scrape::parse(&response.body)
    }

    /// Waits until a metric reaches a value.
    #[track_caller]
    pub fn until_count(&self, name: &str, labels: &[(&str, &str)], expected: u64) {
        let mut last = None;
        let what = format!("{name}{labels:?} = {expected}");
        let reached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait::until(&what, || {
                last = Some(self.scrape().count(name, labels));
                last == Some(expected)
            });
        }));
        assert!(reached.is_ok(), "{what}: it is {last:?}");
    }

    /// Waits until no client connection is open.
    #[track_caller]
    pub fn until_idle(&self) {
        self.until_count("lb_frontend_connections_active", &[], 0);
    }

    /// As [`Self::assert_path`], and that each flow has gone the way that `path` itself is for a part at least.
    #[track_caller]
    pub fn assert_own_path(&self, path: Path, flows: u64) -> u64 {
        let carried = self.assert_path(path, flows);
        let own = self.own_flows(path);
        assert!(own >= flows, "{own} of {flows} flows went over {path:?} itself");
        carried
    }

    /// Waits until so many flows have gone the way that `path` says, asserts that none went another way, and returns the bytes
    /// carried. Bytes of a flow that is still open may not be counted yet.
    #[track_caller]
    pub fn assert_path(&self, path: Path, flows: u64) -> u64 {
        let counted = |scrape: &Scrape| -> (u64, u64) {
            let by_path =
                path.labels().iter().map(|label| scrape.count("lb_path_flows_total", &[("path", label)]));
            (by_path.sum(), scrape.count("lb_path_flows_total", &[]))
        };
        wait::until(&format!("{flows} flows over {path:?}"), || counted(&self.scrape()).0 >= flows);
        let scrape = self.scrape();
        let (allowed, all) = counted(&scrape);
        assert_eq!(allowed, all, "flows went another way than {path:?}");
        // A flow that changes its path is counted for both.
        let most = flows * path.labels().len() as u64;
        assert!((flows..=most).contains(&all), "{all} flows over {path:?} instead of {flows}");
        scrape.count("lb_path_bytes_total", &[])
    }

    /// Asserts that at least `percent` of all bytes so far went inside the kernel.
    #[track_caller]
    pub fn assert_inside(&self, percent: u64) {
        self.assert_share(Path::Sockmap, percent);
    }

    /// Asserts that bytes went, and that at least `percent` of them went the way that `path` itself is.
    #[track_caller]
    pub fn assert_share(&self, path: Path, percent: u64) {
        let scrape = self.scrape();
        let all = scrape.count("lb_path_bytes_total", &[]);
        let own = own_count(&scrape, path, "lb_path_bytes_total");
        assert!(all > 0 && own * 100 >= all * percent, "{own} of {all} bytes went over {path:?}");
    }

    /// Flows that `path` itself has carried something of. One that goes on is counted within a second.
    #[track_caller]
    pub fn own_flows(&self, path: Path) -> u64 {
        own_count(&self.scrape(), path, "lb_path_flows_total")
    }

    /// The lines about connections so far, in the order in which the connections were accepted.
    pub fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> = self.process.stdout().iter().map(|line| Record::parse(line)).collect();
        records.sort_by_key(|record| record.number("id"));
        records
    }

    /// Waits until there are so many lines about connections, and returns them.
    #[track_caller]
    pub fn until_records(&self, count: usize) -> Vec<Record> {
        wait::until(&format!("{count} lines about connections"), || self.process.stdout_lines() >= count);
        self.records()
    }

    /// Sends SIGTERM.
    #[track_caller]
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }
}

impl Drop for Agent {
    /// Says what it carried, where somebody reads that: `cargo xtask vm`.
    fn drop(&mut self) {
        if std::env::var_os("LB_TELL_CARRIED").is_none() || std::thread::panicking() {
            return;
        }
        // An agent that has ended already tells nothing.
        let Some(response) = self.admin("/metrics") else { return };
        let scrape = Scrape::parse(&response.body);
        for path in ["packet", "sockmap", "splice", "copy"] {
            println!("carried {} by {path}", scrape.count("lb_path_bytes_total", &[("path", path)]));
        }
    }
}

impl Launch {
    /// Starts it through a program that ends in execve(2), such as prlimit or setpriv.
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().map(ToString::to_string));
        self
    }

    /// Starts it as a user without any privilege.
    #[must_use]
    pub fn unprivileged(self) -> Self {
        self.through_own_user().through(&["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"])
    }

    /// Starts it as a user with these capabilities alone, named as in capabilities(7).
    #[must_use]
    pub fn with_capabilities(self, names: &[&str]) -> Self {
        let plus = |name: &&str| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase());
        let set: String = names.iter().map(plus).collect();
        let sets = ["inh-caps", "ambient-caps", "bounding-set"].map(|kind| format!("--{kind}=-all{set}"));
        self.through_own_user().through(&[&sets[0], &sets[1], &sets[2], "--"])
    }

    /// The beginning of setpriv(1) with a user whom no other process of tests has, for all processes of a user share what the kernel gives
    /// it of pipes (pipe(7), /proc/sys/fs/pipe-user-pages-soft).
    fn through_own_user(self) -> Self {
        let id = 1_000_000 + std::process::id();
        self.through(&["setpriv", &format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"])
    }

    /// Runs another verb than `run` in the same circumstances, to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn verb(self, arguments: &[&str], config: &Config) -> Output {
        let files = public_directory();
        let file = files.path().join("lb.toml");
        std::fs::write(&file, config.text()).expect("a temporary file");
        let mut command = self.bare_command(&files);
        command.args(arguments).arg("--config").arg(file);
        self.balancer.enter(|| output(&mut command))
    }

    /// Does not wait for servers: `/healthz` must answer, not `/readyz`.
    #[must_use]
    pub fn alive(self) -> Self {
        Self { ready_path: "/healthz", ..self }
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with what it said.
    #[track_caller]
    pub fn start(self, config: &Config) -> Agent {
        let files = public_directory();
        let mut command = self.command(&files, config);
        let process = self.balancer.spawn(&mut command);
        let mut agent = Agent { process, balancer: self.balancer, _files: files };
        wait::within(START_PATIENCE, &format!("{} to answer 200", self.ready_path), || {
            if let Some(status) = agent.process.try_wait() {
                panic!("the agent ended: {status}\n{}", config.text());
            }
            agent.admin(self.ready_path).filter(|response| response.status == 200)
        });
        agent
    }

    /// Runs the agent to its end, which must come by itself.
    #[track_caller]
    pub fn fail(self, config: &Config) -> Output {
        let files = public_directory();
        let mut command = self.command(&files, config);
        self.balancer.enter(|| output(&mut command))
    }

    fn command(&self, files: &TempDir, config: &Config) -> Command {
        let file = files.path().join("lb.toml");
        std::fs::write(&file, config.text()).expect("a temporary file");

        let mut command = self.bare_command(files);
        command.args(["run", "--config"]).arg(file);
        command
    }

    /// The binary through its wrapper, without arguments.
    fn bare_command(&self, files: &TempDir) -> Command {
        let mut words: Vec<String> = self.wrapper.clone();
        let binary = if words.is_empty() { binary() } else { public_copy(files) };
        words.push(binary.to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }
}

fn own_count(scrape: &Scrape, path: Path, name: &str) -> u64 {
    path.own_labels().iter().map(|label| scrape.count(name, &[("path", label)])).sum()
}

/// The binary under test.
///
/// # Panics
/// If `LB_AGENT` does not name it.
pub fn binary() -> PathBuf {
    let hint = "run `cargo xtask test`, or `cargo build` and then \
                `LB_AGENT=$PWD/target/debug/lb cargo test -p lb-tests`";
    let path = std::env::var_os("LB_AGENT").unwrap_or_else(|| panic!("LB_AGENT is not set: {hint}"));
    let path = PathBuf::from(path);
    assert!(path.is_file(), "LB_AGENT={}: no such file: {hint}", path.display());
    path
}

/// Where the admin surface is.
pub fn admin() -> SocketAddr {
    ADMIN.parse().expect("an address")
}

/// Runs a verb that ends by itself, in the directory `place`.
#[track_caller]
pub fn verb(place: &FilePath, arguments: &[&str]) -> Output {
    output(Command::new("timeout").arg("60").arg(binary()).args(arguments).current_dir(place))
}

/// The line about one connection.
#[derive(Clone, Debug)]
pub struct Record(Value);

impl Record {
    /// Reads a line.
    ///
    /// # Panics
    /// If it is not a JSON object.
    #[track_caller]
    pub fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value.is_object(), "{line}");
        Self(value)
    }

    /// A field as text; empty if it is null or missing.
    pub fn text(&self, field: &str) -> &str {
        self.0.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// A field as a whole number.
    ///
    /// # Panics
    /// If it is not one.
    #[track_caller]
    pub fn number(&self, field: &str) -> u64 {
        let value = self.0.get(field).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("{field} is no whole number in {}", self.0))
    }

    /// Any field.
    pub fn field(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// Why the connection ended.
    pub fn close(&self) -> &str {
        self.text("close")
    }
}

/// A directory that every user may enter.
pub fn public_directory() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), everybody).expect("our own directory");
    directory
}

/// A copy of the binary that every user may run, wherever the original is.
fn public_copy(files: &TempDir) -> PathBuf {
    let copy = files.path().join("lb");
    // By another process: a descriptor for writing, if this one had it, would be inherited by what other tests start at this
    // moment, and a file that is open for writing cannot be executed (ETXTBSY, execve(2)).
    run(Command::new("cp").arg(binary()).arg(&copy));
    copy
}
