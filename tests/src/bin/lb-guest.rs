// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first process of a virtual machine in which `cargo xtask vm` runs tests: mounts what tests need, loads modules, runs one test
//! after the other and switches the machine off. What it is to do stands in `/plan`, a line each:
//!
//! ```text
//! module FILE
//! set NAME VALUE               an environment variable of the tests
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

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, chroot, kill_process_group, setrlimit, waitpid,
};
use rustix::system::{RebootCommand, init_module, reboot};

/// Where the report goes.
const REPORT: &str = "/dev/ttyS1";

/// Where a test's output goes while it runs.
const OUTPUT: &str = "/run/output";

/// What a line of a test's output begins with if it belongs into the report.
const NOTES: [&str; 2] = ["carried ", "program "];

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

fn run() -> Result<()> {
    mount_all()?;
    let mut report = File::options().write(true).open(REPORT).context(REPORT)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    writeln!(report, "kernel {}", release.trim())?;
    let limit = Rlimit { current: Some(FILES_MAX), maximum: Some(FILES_MAX) };
    setrlimit(Resource::Nofile, limit).context("open files")?;
    let plan = fs::read_to_string("/plan").context("/plan")?;
    let (mut settings, mut count) = (Vec::new(), 0);
    for line in plan.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["module", file] => load(file)?,
            ["set", name, value] => settings.push((name, value)),
            ["test", program, name, seconds] => {
                let patience = Duration::from_secs(seconds.parse().context("seconds")?);
                test(&mut report, program, name, patience, &settings)?;
                count += 1;
            }
            ["switch", folder, program] => {
                drop(report);
                return switch(folder, program);
            }
            _ => bail!("/plan: {line}"),
        }
    }
    writeln!(report, "end {count}")?;
    Ok(())
}

/// Mounts the kernel's file systems and memory for temporary files, and switches the loopback interface on.
fn mount_all() -> Result<()> {
    for (kind, place, options) in [
        ("devtmpfs", c"/dev", None),
        ("proc", c"/proc", None),
        ("sysfs", c"/sys", None),
        ("cgroup2", c"/sys/fs/cgroup", None),
        ("bpf", c"/sys/fs/bpf", None),
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
fn switch(folder: &str, program: &str) -> Result<()> {
    mount_bind(folder, folder).context("cannot mount the root")?;
    std::env::set_current_dir(folder).context("cannot enter the root")?;
    mount_move(".", "/").context("cannot move the root")?;
    chroot(".").context("cannot change the root")?;
    std::env::set_current_dir("/").context("cannot enter the root")?;
    Err(Command::new(program).exec()).with_context(|| format!("cannot run {program}"))
}

/// Runs one test in a process of its own and reports what became of it.
fn test(
    report: &mut File,
    program: &str,
    name: &str,
    patience: Duration,
    settings: &[(&str, &str)],
) -> Result<()> {
    writeln!(report, "begin {program} {name}")?;
    let start = Instant::now();
    let mut child = start_test(program, name, settings)?;
    let outcome = finish(&mut child, start + patience)?;
    // What a test has left behind belongs to the first process; nobody else asks how it ended.
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
    let seconds = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&fs::read(OUTPUT)?).into_owned();
    // The harness has written this before the first line, on the same one.
    let begin = format!("test {name} ... ");
    let lines = said.lines().map(|line| line.strip_prefix(&begin).unwrap_or(line));
    for note in lines.filter(|line| NOTES.iter().any(|note| line.starts_with(note))) {
        writeln!(report, "note {program} {name} {note}")?;
    }
    match outcome {
        Some(status) if status.success() && has_run(&said) => {
            writeln!(report, "passed {program} {name} {seconds:.1}")?;
            return Ok(());
        }
        Some(status) if status.success() => {
            writeln!(report, "failed {program} {name} {seconds:.1} no such test")?
        }
        Some(status) => writeln!(report, "failed {program} {name} {seconds:.1} {status}")?,
        None => writeln!(report, "failed {program} {name} {seconds:.1} killed: it took too long")?,
    }
    let lines: Vec<&str> = said.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        writeln!(report, "| {line}")?;
    }
    Ok(())
}

fn start_test(program: &str, name: &str, settings: &[(&str, &str)]) -> Result<Child> {
    let output = File::create(OUTPUT)?;
    let mut command = Command::new(Path::new("/tests").join(program));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).envs(settings.iter().copied());
    // A group of its own, which ends as a whole if it takes too long.
    command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().with_context(|| format!("cannot start {program}"))
}

/// Waits for the end of a test; `None`: it did not come in time.
fn finish(child: &mut Child, deadline: Instant) -> Result<Option<std::process::ExitStatus>> {
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
