// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask run`: ready at once, with commands that work as they are printed, and a clean end; as root and without privileges.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::metrics::Scrape;
use lb_tests::net::Net;
use lb_tests::process::{Process, run};
use lb_tests::wait::until;
use rustix::process::Signal;
use tempfile::TempDir;

/// How long the demo may take until it is ready, the build aside but for cargo's look at what is built.
const READY_MAX: Duration = Duration::from_secs(5);

/// The demo of this repository, in a network namespace of its own: its ports are fixed.
struct Demo {
    xtask: Process,
    wrapper: Vec<String>,
    net: Net,
}

#[test]
fn the_demo_runs_as_root() {
    follow(Vec::new());
}

/// As nobody, who has a target folder and a home of its own. The folder has what is built in ours, by hard links: cargo opens a lock
/// for writing there, but builds nothing. Where the checkout or the tool chain is below a folder of root's (as /root is), nobody could
/// not even find them, and so it may read everything (CAP_DAC_READ_SEARCH): as much as somebody may who has cloned into a folder of
/// their own. It may do nothing else that others may not.
#[test]
fn the_demo_runs_without_privileges() {
    let built = built();
    let target = built.parent().and_then(Path::parent).expect("target/debug/xtask");
    let own = TempDir::new_in(target).expect("a folder in the target folder");
    run(Command::new("sh").args(["-ec", OWN_TARGET]).arg(target).arg(own.path()));
    let reading = "--inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search";
    let user = format!("setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs {reading} -- env");
    let folder = |name: &str, default: &str| {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
        let folder = std::env::var_os(name).map_or_else(|| home.join(default), PathBuf::from);
        format!("{name}={}", folder.display())
    };
    let mut wrapper: Vec<String> = user.split(' ').map(str::to_owned).collect();
    wrapper.extend([folder("CARGO_HOME", ".cargo"), folder("RUSTUP_HOME", ".rustup")]);
    let own = own.path().display();
    wrapper.extend(["CARGO_TARGET_DIR", "HOME", "TMPDIR"].map(|name| format!("{name}={own}")));
    follow(wrapper);
}

/// `$0` is the target folder, `$1` the new one, where folders alone get a new owner: the files are ours as well. Cargo writes its lock
/// and the lists of sources of what it has built (`*.d`), which name the folder.
const OWN_TARGET: &str = "cp -al \"$0/release\" \"$1/release\"; rm -f \"$1\"/release/.cargo*lock \"$1\"/release/*.d; \
                          find \"$1\" -type d -exec chown 65534:65534 {} +";

/// Runs the demo through `wrapper`, does what it proposes as the same user, and ends it as a terminal does at Ctrl-C.
#[track_caller]
fn follow(wrapper: Vec<String>) {
    let demo = Demo::start(wrapper);
    let [app, api, metrics] = &demo.commands()[..] else { panic!("{:?}", demo.xtask.stdout()) };
    let said = demo.shell(app);
    assert!(said.contains("app") && said.contains("127.0.0.1"), "{said}");
    let said = demo.shell(api);
    assert!(said.contains("api") && said.contains("::1"), "{said}");
    let scrape = Scrape::parse(&demo.shell(metrics));
    assert_eq!(scrape.count("lb_frontend_connections_total", &[]), 2);
    demo.end(app);
}

impl Demo {
    #[track_caller]
    fn start(wrapper: Vec<String>) -> Self {
        let xtask = built();
        let net = Net::new(0);
        let begun = Instant::now();
        let mut command = words(&wrapper, xtask.to_str().expect("a path in UTF-8"));
        let xtask = net.balancer.spawn(command.arg("run"));
        let mut demo = Self { xtask, wrapper, net };
        until("the demo to be ready", || {
            assert_eq!(demo.xtask.try_wait(), None, "it ended");
            demo.xtask.stdout().iter().any(|line| line == "Ctrl-C ends it.")
        });
        assert!(begun.elapsed() < READY_MAX, "ready after {:?}", begun.elapsed());
        demo
    }

    /// What it proposes to try.
    fn commands(&self) -> Vec<String> {
        let lines = self.xtask.stdout();
        lines.iter().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
    }

    /// Runs a line in a shell, beside the demo and as its user.
    #[track_caller]
    fn shell(&self, line: &str) -> String {
        let mut command = words(&self.wrapper, "sh");
        // A proxy of the machine's has no business here.
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name);
        }
        self.net.balancer.run(command.args(["-c", line]))
    }

    /// Ends it and asserts that nothing is left: neither the certificate that `command` names, nor somebody who listens.
    #[track_caller]
    fn end(mut self, command: &str) {
        let mut words = command.split(' ').skip_while(|word| *word != "--cacert");
        let certificate = words.nth(1).map(PathBuf::from).expect("a certificate");
        assert!(certificate.exists(), "{}", certificate.display());
        self.xtask.signal(Signal::INT);
        assert_eq!(self.xtask.wait().code(), Some(0), "{:?}", self.xtask.stderr());
        assert_eq!(self.xtask.stdout().last().map(String::as_str), Some("stopping"));
        assert!(!certificate.exists(), "{}", certificate.display());
        let listening = self.net.balancer.run(Command::new("ss").args(["-tlnH"]));
        assert_eq!(listening, "");
    }
}

impl Drop for Demo {
    /// Has it end its `lb` in any case; after three signals, that is killed.
    fn drop(&mut self) {
        for _ in 0..3 {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                if self.xtask.try_wait().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            self.xtask.signal(Signal::INT);
        }
    }
}

/// A program behind words that it is started through.
fn words(wrapper: &[String], program: &str) -> Command {
    let mut all = wrapper.iter().map(String::as_str).chain([program]);
    let mut command = Command::new(all.next().expect("a program"));
    command.args(all);
    command
}

/// The path of xtask. Builds it and the agent, which is nothing to do after `cargo xtask test`; as there, cargo is started as from a
/// shell, or what it says of this crate would have it build most again.
#[track_caller]
fn built() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder of the repository");
    let cargo = || {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        for (name, _) in std::env::vars() {
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(name);
            }
        }
        command.current_dir(root).args(["build", "--locked"]);
        command
    };
    run(cargo().args(["--release", "--package=lb-userspace", "--bin=lb"]));
    let messages = run(cargo().args(["--package=xtask", "--message-format=json"]));
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
        message["executable"].as_str().map(PathBuf::from)
    };
    messages.lines().filter_map(executable).next_back().expect("cargo says where xtask is")
}
