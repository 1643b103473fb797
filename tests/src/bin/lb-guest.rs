// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first process of a virtual machine in which `cargo xtask vm` runs tests: mounts what tests need, loads modules, runs as many tests
//! at a time as there are processors and switches the machine off. What it is to do stands in `/plan`, a line each:
//!
//! ```text
//! module FILE
//! set NAME VALUE               an environment variable of the tests that follow
//! test PROGRAM NAME SECONDS    a test of a program of Rust's test harness, and how long it may take
//! switch FOLDER PROGRAM        the end of this plan: the folder becomes the root, and a program of it the first process
//! ```
//!
//! What became of it goes to the second serial line, also a line each:
//!
//! ```text
//! kernel RELEASE
//! begin PROGRAM NAME
//! note PROGRAM NAME TEXT       a line that the test printed for whoever reads the report
//! passed PROGRAM NAME SECONDS
//! failed PROGRAM NAME SECONDS REASON
//! | TEXT                       the end of what a failed test said
//! end COUNT
//! ```
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{Pid, Resource, Rlimit, Signal, chroot, kill_process_group, setrlimit};
use rustix::system::{RebootCommand, init_module, reboot};

/// Where the report goes.
const REPORT: &str = "/dev/ttyS1";

/// Where outputs of tests go while they run.
const OUTPUTS: &str = "/run";

/// What a line of a test's output begins with if it belongs into the report.
const NOTES: [&str; 3] = ["carried ", "idle ", "program "];

/// Lines of a failed test's output that are reported.
const TAIL_LINES: usize = 60;

/// Open files that a process may have: what fs.nr_open allows if nobody has changed it (Documentation/admin-guide/sysctl/fs.rst).
const FILES_MAX: u64 = 1 << 20;

fn main() {
    // An error's last word is on the console; the report then lacks its end.
    if let Err(error) = run() {
        eprintln!("lb-guest: {error:#}");
    }
    let _ = reboot(RebootCommand::PowerOff);
}

/// A test to run.
struct Test<'a> {
    program: &'a str,
    name: &'a str,
    patience: Duration,
    settings: Vec<(&'a str, &'a str)>,
}

fn run() -> Result<()> {
    mount_all()?;
    let mut report = File::options().write(true).open(REPORT).context(REPORT)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    writeln!(report, "kernel {}", release.trim())?;
    let limit = Rlimit { current: Some(FILES_MAX), maximum: Some(FILES_MAX) };
    setrlimit(Resource::Nofile, limit).context("open files")?;
    let plan = fs::read_to_string("/plan").context("/plan")?;
    let tests = prepare(&plan)?;
    run_all(&tests, &Mutex::new(&report))?;
    writeln!(report, "end {}", tests.len())?;
    Ok(())
}

/// Loads the modules of a plan and returns its tests; if the plan ends in another root, it does not return.
fn prepare(plan: &str) -> Result<Vec<Test<'_>>> {
    let (mut settings, mut tests) = (Vec::new(), Vec::new());
    for line in plan.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["module", file] => load(file)?,
            // Of two with the same name, the later one counts.
            ["set", name, value] => settings.push((name, value)),
            ["test", program, name, seconds] => {
                let patience = Duration::from_secs(seconds.parse().context("seconds")?);
                tests.push(Test { program, name, patience, settings: settings.clone() });
            }
            ["switch", folder, program] => match switch(folder, program)? {},
            _ => bail!("/plan: {line}"),
        }
    }
    Ok(tests)
}

/// Runs tests, each begun as soon as a processor is free.
fn run_all(tests: &[Test<'_>], report: &Mutex<&File>) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = |worker: usize| {
        let output = Path::new(OUTPUTS).join(format!("output-{worker}"));
        while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let lines = run_test(test, &output, report)?;
            write_lines(report, &lines)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers = 0..std::thread::available_parallelism()?.get();
        let workers: Vec<_> = workers.map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Writes lines that nobody else's come between.
fn write_lines(report: &Mutex<&File>, lines: &str) -> Result<()> {
    let mut report = *report.lock().unwrap_or_else(PoisonError::into_inner);
    report.write_all(lines.as_bytes()).context(REPORT)
}

/// Mounts the kernel's file systems and memory for temporary files, and switches the loopback interface on. Not that of BPF at its usual place: there,
/// agents of tests beside each other would keep flows for each other. Tests that want one mount their own.
fn mount_all() -> Result<()> {
    for (kind, place, options) in [
        ("devtmpfs", c"/dev", None),
        ("proc", c"/proc", None),
        ("sysfs", c"/sys", None),
        ("cgroup2", c"/sys/fs/cgroup", None),
        ("tmpfs", c"/run", None),
        ("tmpfs", c"/tmp", Some(c"mode=1777")),
    ] {
        mount(kind, place, kind, MountFlags::empty(), options)
            .with_context(|| format!("{kind} on {place:?}"))?;
    }
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
    ensure!(status.success(), "ip: {status}");
    Ok(())
}

fn load(file: &str) -> Result<()> {
    let image = fs::read(file).with_context(|| file.to_owned())?;
    init_module(&image, c"").with_context(|| file.to_owned())
}

/// Makes a folder the root, and runs a program there in place of this one. As switch_root(8), but the files in memory stay: the folder is
/// among them. It is mounted on itself first, because the kernel's own first mount cannot be moved (pivot_root(2), "Notes").
fn switch(folder: &str, program: &str) -> Result<Infallible> {
    mount_bind(folder, folder).context("cannot mount the root")?;
    std::env::set_current_dir(folder).context("cannot enter the root")?;
    mount_move(".", "/").context("cannot move the root")?;
    chroot(".").context("cannot change the root")?;
    std::env::set_current_dir("/").context("cannot enter the root")?;
    Err(Command::new(program).exec()).with_context(|| format!("cannot run {program}"))
}

/// Runs one test in a process of its own and returns what became of it, in lines.
fn run_test(test: &Test<'_>, output: &Path, report: &Mutex<&File>) -> Result<String> {
    let (program, name) = (test.program, test.name);
    write_lines(report, &format!("begin {program} {name}\n"))?;
    let start = Instant::now();
    let mut child = start_test(test, output)?;
    let outcome = finish(&mut child, start + test.patience)?;
    let seconds = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&fs::read(output)?).into_owned();
    let mut lines = notes(test, &said);
    let why = match outcome {
        Some(status) if status.success() && has_run(&said) => {
            return Ok(format!("{lines}passed {program} {name} {seconds:.1}\n"));
        }
        Some(status) if status.success() => "no such test".to_owned(),
        Some(status) => status.to_string(),
        None => "killed: it took too long".to_owned(),
    };
    writeln!(lines, "failed {program} {name} {seconds:.1} {why}")?;
    let tail: Vec<&str> = said.lines().collect();
    for line in &tail[tail.len().saturating_sub(TAIL_LINES)..] {
        writeln!(lines, "| {line}")?;
    }
    Ok(lines)
}

/// What a test has said for the report.
fn notes(test: &Test<'_>, said: &str) -> String {
    // The harness has written this before the first line, on the same one.
    let begin = format!("test {} ... ", test.name);
    let lines = said.lines().map(|line| line.strip_prefix(&begin).unwrap_or(line));
    let notes = lines.filter(|line| NOTES.iter().any(|note| line.starts_with(note)));
    notes.map(|note| format!("note {} {} {note}\n", test.program, test.name)).collect()
}

fn start_test(test: &Test<'_>, output: &Path) -> Result<Child> {
    let output = File::create(output)?;
    let mut command = Command::new(Path::new("/tests").join(test.program));
    command
        .args(["--exact", test.name, "--nocapture", "--test-threads=1"])
        .envs(test.settings.iter().copied());
    // A group of its own, which ends as a whole if it takes too long.
    command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().with_context(|| format!("cannot start {}", test.program))
}

/// Waits for the end of a test; `None`: it did not come in time.
fn finish(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            let group = Pid::from_raw(child.id().cast_signed()).context("a process id is not 0")?;
            kill_process_group(group, Signal::KILL)?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a test harness says that exactly one test ran.
fn has_run(said: &str) -> bool {
    said.contains("test result: ok. 1 passed; 0 failed; 0 ignored;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_has_not_run() {
        assert!(has_run("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out"));
        assert!(!has_run("test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 10 filtered out"));
    }
}
