// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bench is a guest: it takes everything along when it is interrupted, keeps what it has measured, and can go on.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use lb_common::packet::record::{PACKET_EGRESS, PACKET_INGRESS};
use lb_tests::process::{Process, output, text};
use lb_tests::wait::{until, until_some};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// What the bench and all of its programs find in their environment; the value is the directory of the run.
const MARK: &str = "LB_BENCH_MARK";

/// Samples of [`Run::start`], in all: two repeats of three workloads (few and many names, and one connection at a time) on four
/// contestants, nginx among them because it has worker processes.
const SAMPLES: usize = 2 * 3 * 4;

/// A bench that runs.
struct Run {
    directory: TempDir,
    temporary: TempDir,
    bench: Process,
}

/// Where in a run it is interrupted.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The namespaces are being made.
    Beginning,
    /// A balancer has its configuration and starts, or is warmed up.
    Starting,
    /// So many samples have been taken.
    Samples(usize),
}

impl Run {
    #[track_caller]
    fn start() -> Self {
        Self::start_with("--default-signal=HUP")
    }

    /// With what env(1) does about a signal first: it is inherited, and these tests may run where nobody waits for a terminal.
    #[track_caller]
    fn start_with(signal: &str) -> Self {
        let (directory, temporary) = (tempdir().expect("a directory"), tempdir().expect("a directory"));
        let mut command = Command::new("env");
        command.args([signal, env!("CARGO_BIN_EXE_lb-bench")]);
        with_the_least_work(&mut command, directory.path(), "--output");
        command.env("TMPDIR", temporary.path()).args(["connections", "--repeats", "2"]);
        let bench = Process::spawn(&mut command);
        Self { directory, temporary, bench }
    }

    fn leaves_nothing_in_the_folder_for_temporary_files(&self) -> bool {
        fs::read_dir(self.temporary.path()).expect("a folder").next().is_none()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    #[track_caller]
    fn wait_for(&self, moment: Moment) {
        until(&format!("{moment:?}"), || match moment {
            Moment::Beginning => self.path().join("logs").exists(),
            Moment::Starting => self.path().join("configs/lb-auto.10-names.toml").exists(),
            Moment::Samples(count) => samples(self.path()).len() >= count,
        });
    }
}

/// The bench on a directory, with the least work.
fn bench(directory: &Path, option: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-bench"));
    with_the_least_work(&mut command, directory, option);
    command
}

fn with_the_least_work(command: &mut Command, directory: &Path, option: &str) {
    command.env(MARK, directory).args(["--ci", "--paths", "auto", "--peers", "direct,haproxy,nginx"]);
    command.arg(option).arg(directory);
}

/// The samples that are kept, a line each.
fn samples(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("samples.jsonl")).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.filter(|line| line.starts_with(r#"{"sample""#)).map(str::to_owned).collect()
}

#[track_caller]
fn check(signal: Signal, moment: Moment) {
    let mut run = Run::start();
    run.wait_for(moment);
    let namespaces = namespaces_of(&marked(run.path()));
    assert!(matches!(moment, Moment::Beginning) || namespaces.len() >= 3, "client, balancer and server");
    run.bench.signal(signal);
    let status = run.bench.wait();
    let error = run.bench.stderr().join("\n");
    assert_eq!(status.code(), Some(128 + signal.as_raw()), "{moment:?}: {status}: {error}");
    assert_eq!(left(run.path(), &namespaces), Vec::<String>::new(), "{signal:?}, {moment:?}");
    assert!(run.leaves_nothing_in_the_folder_for_temporary_files(), "{signal:?}, {moment:?}");
    if let Moment::Samples(count) = moment {
        let kept = samples(run.path());
        assert!((count..SAMPLES).contains(&kept.len()), "{} samples: {error}", kept.len());
        let report = fs::read_to_string(run.path().join("results.md")).expect("a report");
        assert!(report.contains("Cut short"), "{report}");
    }
}

#[test]
fn interrupted_it_leaves_no_process_and_no_namespace() {
    check(Signal::INT, Moment::Beginning);
    check(Signal::TERM, Moment::Starting);
    check(Signal::INT, Moment::Samples(1));
    check(Signal::TERM, Moment::Samples(6));
    check(Signal::HUP, Moment::Samples(2));
}

/// As nohup(1) starts it.
#[test]
fn told_to_outlive_its_terminal_it_goes_on() {
    let mut run = Run::start_with("--ignore-signal=HUP");
    run.wait_for(Moment::Samples(1));
    run.bench.signal(Signal::HUP);
    let taken = samples(run.path()).len();
    run.wait_for(Moment::Samples(taken + 2));
    run.bench.signal(Signal::INT);
    let status = run.bench.wait();
    assert_eq!(status.code(), Some(128 + Signal::INT.as_raw()), "{status}");
}

#[test]
fn killed_it_leaves_no_process_and_no_namespace() {
    let mut run = Run::start();
    run.wait_for(Moment::Samples(1));
    let namespaces = namespaces_of(&marked(run.path()));
    run.bench.signal(Signal::KILL);
    assert_eq!(run.bench.wait().signal(), Some(Signal::KILL.as_raw()));
    until("nothing is left", || left(run.path(), &namespaces).is_empty());
    assert!(!samples(run.path()).is_empty());
}

#[test]
fn an_interrupted_run_goes_on_and_only_with_the_same_plan() {
    let mut run = Run::start();
    run.wait_for(Moment::Samples(2));
    run.bench.signal(Signal::INT);
    run.bench.wait();
    let kept = samples(run.path());

    let other = output(bench(run.path(), "--resume").args(["connections", "--repeats", "3"]));
    assert!(!other.status.success() && text(&other.stderr).contains("repeats: 2 became 3"), "{other:?}");
    let again = output(bench(run.path(), "--output").args(["connections", "--repeats", "2"]));
    assert!(!again.status.success() && text(&again.stderr).contains("--resume"), "{again:?}");
    assert_eq!(samples(run.path()), kept);

    let resumed = output(bench(run.path(), "--resume").args(["connections", "--repeats", "2"]));
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    let all = samples(run.path());
    assert_eq!(all.len(), SAMPLES);
    assert_eq!(all[..kept.len()], kept);
    assert!(text(&resumed.stdout).contains("resumed at"), "{}", text(&resumed.stdout));
    reports_can_be_made_again(run.path());
}

#[test]
fn how_long_the_programs_of_path_packet_run_is_counted_once_a_workload() {
    let directory = tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-bench"));
    command
        .args(["bulk", "--ci", "--paths", "packet", "--peers", "direct", "--output"])
        .arg(directory.path());
    let done = output(&mut command);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let results = fs::read(directory.path().join("results.json")).expect("results");
    let results: Value = serde_json::from_slice(&results).expect("JSON");
    let times = results["program_times"].as_array().expect("a list");
    let titles: Vec<_> = times.iter().map(|times| times["workload"].as_str().expect("a title")).collect();
    assert_eq!(titles, ["download, 8 flows", "upload, 8 flows"]);
    for programs in times.iter().map(|times| times["programs"].as_array().expect("a list")) {
        for name in [PACKET_INGRESS, PACKET_EGRESS] {
            let own = programs.iter().find(|program| program["name"] == name).expect("it has run");
            let [runs, nanoseconds] = ["runs", "nanoseconds"].map(|key| own[key].as_u64().expect("a number"));
            // 100 MB are 1,526 packets of the greatest size.
            assert!(runs > 1_526 && nanoseconds > runs, "{own}");
        }
    }
    let report = text(&done.stdout);
    assert!(report.contains("| lb-packet: download, 8 flows |"), "{report}");
}

/// A peer that says its version, and works only if a file is not there.
fn fickle_haproxy(folder: &Path) {
    let script = format!(
        "#!/bin/sh\ncase $1 in -v) ;; *) [ ! -e {0}/broken ] || {{ echo out of order >&2; exit 1; }} ;; esac\nexec {1} \"$@\"\n",
        folder.display(),
        "/usr/sbin/haproxy"
    );
    fs::write(folder.join("haproxy"), script).expect("written");
    fs::set_permissions(folder.join("haproxy"), fs::Permissions::from_mode(0o755)).expect("permitted");
    fs::write(folder.join("broken"), "").expect("written");
}

#[test]
fn a_peer_that_fails_is_named_and_the_others_go_on() {
    let (directory, programs) = (tempdir().expect("a directory"), tempdir().expect("a directory"));
    fickle_haproxy(programs.path());
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").expect("a path"));
    let run = |option| {
        let mut command = bench(directory.path(), option);
        output(command.env("PATH", &path).args(["connections", "--repeats", "2"]))
    };
    let failed = run("--output");
    let error = text(&failed.stderr);
    assert!(error.contains("FAILED: haproxy in new connections, 10 names"), "{error}");
    assert_eq!(failed.status.code(), Some(1), "{error}");
    let report = fs::read_to_string(directory.path().join("results.md")).expect("a report");
    assert!(report.contains("out of order") && report.contains("| haproxy | failed |"), "{report}");
    assert_eq!(samples(directory.path()).len(), SAMPLES / 4 * 3);

    fs::remove_file(programs.path().join("broken")).expect("removed");
    let resumed = run("--resume");
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert_eq!(samples(directory.path()).len(), SAMPLES);
    let report = fs::read_to_string(directory.path().join("results.md")).expect("a report");
    assert!(!report.contains("failed"), "{report}");
}

#[track_caller]
fn reports_can_be_made_again(directory: &Path) {
    let page = fs::read_to_string(directory.join("report.html")).expect("a page");
    fs::remove_file(directory.join("report.html")).expect("removed");
    let readme = directory.join("README.md");
    fs::write(&readme, "above\n<!-- bench:begin -->\nstale figures\n<!-- bench:end -->\nbelow\n")
        .expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-bench"));
    command.arg("--report-only").arg(directory.join("results.json"));
    let remade = output(command.arg(format!("--update-readme={}", readme.display())));
    assert!(remade.status.success(), "{}", text(&remade.stderr));
    assert!(fs::read_to_string(directory.join("report.html")).expect("a page") == page, "another page");
    let readme = fs::read_to_string(readme).expect("text");
    assert!(readme.starts_with("above\n") && readme.ends_with("below\n"), "{readme}");
    assert!(
        readme.contains("| new connections, 10 names |") && !readme.contains("stale figures"),
        "{readme}"
    );
}

#[test]
fn without_lb_nothing_is_measured() {
    let directory = tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb-bench"));
    command.env_remove("LB_AGENT").args(["idle", "--quick", "--output"]).arg(directory.path());
    let refused = output(&mut command);
    let error = text(&refused.stderr);
    assert!(!refused.status.success() && error.contains("cannot take part: "), "{error}");
    assert!(error.contains("missing: lb-auto") && error.contains("to install it: cargo build"), "{error}");
}

/// All programs of this machine but one, as links.
fn programs_but(missing: &str) -> TempDir {
    let folder = tempdir().expect("a directory");
    let path = std::env::var_os("PATH").expect("a path");
    let folders = std::env::split_paths(&path).filter_map(|folder| fs::read_dir(folder).ok());
    for program in folders.flatten().flatten().filter(|program| program.file_name() != missing) {
        // The first of a name is the one that is found; the others are refused.
        let _ = symlink(program.path(), folder.path().join(program.file_name()));
    }
    folder
}

#[test]
fn a_missing_peer_is_named_and_in_continuous_integration_refused() {
    let (directory, programs) = (tempdir().expect("a directory"), programs_but("haproxy"));
    let run = |arguments: &str, directory: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-bench"));
        command.env("PATH", programs.path()).args(arguments.split(' ')).arg("--output").arg(directory);
        output(&mut command)
    };
    let done = run("idle --quick --repeats 1 --paths packet", directory.path());
    let error = text(&done.stderr);
    assert!(done.status.success() && error.contains("missing: haproxy (cannot start haproxy"), "{error}");
    let report = fs::read_to_string(directory.path().join("results.md")).expect("a report");
    assert!(report.contains("- **missing: haproxy** (cannot start haproxy"), "{report}");
    let names = ["lb-packet", "nginx", "direct"].map(|name| format!(r#""contestant":"{name}""#));
    let samples = samples(directory.path());
    assert!(samples.len() == 3 && names.iter().all(|name| samples.iter().any(|one| one.contains(name))));
    let log = fs::read_to_string(directory.path().join("logs/lb-packet.log")).expect("a log");
    assert!(!log.contains("max-connections"), "it has fewer connections than the report says: {log}");

    let other = tempdir().expect("a directory");
    let refused = run("idle --ci --repeats 1 --paths packet", other.path());
    let error = text(&refused.stderr);
    let names = error.lines().find_map(|line| line.strip_prefix("error: cannot take part: "));
    let is_named = names.is_some_and(|names| names.split(", ").any(|name| name == "haproxy"));
    assert!(!refused.status.success() && is_named, "{error}");
    assert!(!other.path().join("samples.jsonl").exists());
}

/// Processes of the run in a directory.
fn marked(directory: &Path) -> Vec<u32> {
    let mark = format!("{MARK}={}", directory.display());
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    processes().into_iter().filter(is_marked).collect()
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The network namespaces that these processes are in, but for our own: inodes of nsfs (namespaces(7)).
fn namespaces_of(pids: &[u32]) -> BTreeSet<u64> {
    let inode = |process: &str| Some(fs::metadata(format!("/proc/{process}/ns/net")).ok()?.ino());
    let own = inode("self");
    pids.iter().filter_map(|pid| inode(&pid.to_string())).filter(|inode| Some(*inode) != own).collect()
}

/// Whatever is left of a run: its processes, others in its namespaces, and mounts that keep one of those.
fn left(directory: &Path, namespaces: &BTreeSet<u64>) -> Vec<String> {
    let describe = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("{pid}: {}", String::from_utf8_lossy(&command).replace('\0', " "))
    };
    let inside = |pid: &u32| !namespaces_of(&[*pid]).is_disjoint(namespaces);
    let mut left: Vec<String> = marked(directory).iter().map(describe).collect();
    left.extend(processes().iter().filter(|pid| inside(pid)).map(describe));
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let is_ours = |path: &Path| fs::metadata(path).is_ok_and(|data| namespaces.contains(&data.ino()));
    left.extend(
        named.map(|entry| entry.path()).filter(|path| is_ours(path)).map(|path| path.display().to_string()),
    );
    left
}

#[test]
fn what_is_left_is_found() {
    let directory = tempdir().expect("a directory");
    let mut command = Command::new("unshare");
    command.env(MARK, directory.path()).args(["--net", "--", "sleep", "1000"]);
    let process = Process::spawn(&mut command);
    let namespaces = until_some("a namespace", || {
        Some(namespaces_of(&marked(directory.path()))).filter(|namespaces| !namespaces.is_empty())
    });
    // While it turns from unshare into sleep, it has no mark.
    until("it to be found by its mark and by its namespace", || {
        left(directory.path(), &namespaces).len() == 2
    });
    drop(process);
    assert_eq!(left(directory.path(), &namespaces), Vec::<String>::new());
}
