// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs as guards: killed by their process id when dropped, their output kept for the message of a failing test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::wait;

/// A running program with its output so far.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// Lines as they come.
type Lines = Arc<Mutex<Vec<String>>>;

impl Process {
    /// Starts a program in the namespace of this thread.
    ///
    /// # Panics
    /// If it is not installed.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![
            collect(child.stdout.take().expect("was piped"), Arc::clone(&stdout)),
            collect(child.stderr.take().expect("was piped"), Arc::clone(&stderr)),
        ];
        Self { child, name, stdout, stderr, readers }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines on standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        lock(&self.stdout).clone()
    }

    /// How many lines on standard output so far.
    pub fn stdout_lines(&self) -> usize {
        lock(&self.stdout).len()
    }

    /// The lines on standard output from a position on.
    pub fn stdout_from(&self, first: usize) -> Vec<String> {
        lock(&self.stdout).get(first..).unwrap_or_default().to_vec()
    }

    /// The lines on standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        lock(&self.stderr).clone()
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// Waits for its end and for the rest of its output.
    ///
    /// # Panics
    /// If it does not end within [`wait::PATIENCE`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let status = wait::until_some(&format!("the end of {name}"), || self.try_wait());
        for reader in self.readers.drain(..) {
            reader.join().expect("reading lines does not panic");
        }
        status
    }

    /// User and system time that it has used, to the hundredth of a second (proc(5), /proc/pid/stat, fields 14 and 15).
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        let (_, after_name) = stat.rsplit_once(')').expect("the name is in parentheses");
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // USER_HZ is 100 on all architectures that Linux still supports.
        Duration::from_millis(ticks * 10)
    }

    /// Memory in RAM, in bytes (proc(5), /proc/pid/status, VmRSS).
    pub fn resident_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a living process");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// How often each of its threads went to sleep, and so was woken, by the thread's number (proc(5), /proc/pid/task/tid/status,
    /// voluntary_ctxt_switches).
    pub fn naps(&self) -> BTreeMap<String, u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a living process");
        let naps = |task: std::io::Result<std::fs::DirEntry>| {
            let task = task.ok()?;
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            let count = line.trim().parse().expect("a number");
            Some((task.file_name().to_string_lossy().into_owned(), count))
        };
        tasks.filter_map(naps).collect()
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        self.open_files().len()
    }

    /// Waits until a signal to stop has reached each of its threads (proc_pid_stat(5), state T).
    #[track_caller]
    pub fn until_stopped(&self) {
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
            stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')))
        };
        let tasks = || std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a living process");
        wait::until("every thread to stop", || tasks().all(is_stopped));
    }

    /// Sockets that it has open, by descriptors. Pipes do not count, which it keeps for the next flow.
    ///
    /// # Panics
    /// It has ended.
    #[track_caller]
    pub fn sockets(&self) -> usize {
        self.open_files().iter().filter(|file| file.starts_with("socket:")).count()
    }

    /// Changes how many file descriptors it may have from now on; those that are open stay.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    pub fn limit_descriptors(&self, most: usize) {
        let hard = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(most as u64), maximum: hard };
        prlimit(Some(self.raw_pid()), Resource::Nofile, limit).expect("prlimit needs root");
    }

    /// What the open file descriptors are, sorted, for messages (proc(5), /proc/pid/fd).
    pub fn open_files(&self) -> Vec<String> {
        open_files(self.pid()).expect("a living process")
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process id is not 0")
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).expect("a living process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {} was doing:\n{}", self.name, doings(self.pid()));
        }
        // Fails if it has ended already, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let (stdout, stderr) = (self.stdout(), self.stderr());
            eprintln!("---- {} said last:\n{}\n{}", self.name, tail(&stdout), tail(&stderr));
        }
    }
}

/// What each thread of a process does: state and processor time in ticks of 10 ms (fields 3, 14 and 15 of proc_pid_stat(5)), and what it waits
/// for in the kernel (proc_pid_stack(5)), which root may see; and what it has open. A thread that has ended has nothing.
fn doings(pid: u32) -> String {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return "it has ended".to_owned();
    };
    let read = |folder: &Path, file| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let thread = |folder: &Path| {
        let stat = read(folder, "stat");
        // The name before may have blanks and brackets.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
        let field = |number: usize| *fields.get(number - 3).unwrap_or(&"?");
        let stack = read(folder, "stack").lines().take(6).collect::<Vec<_>>().join(" ");
        let name = read(folder, "comm");
        format!("{} {} user {} system {}: {stack}", name.trim_end(), field(3), field(14), field(15))
    };
    let mut lines: Vec<_> = threads.filter_map(|entry| Some(thread(&entry.ok()?.path()))).collect();
    lines.push(format!("open: {}", kinds(&open_files(pid).unwrap_or_default())));
    lines.join("\n")
}

/// What the open file descriptors of a process are, sorted (proc(5), /proc/pid/fd).
fn open_files(pid: u32) -> std::io::Result<Vec<String>> {
    let listing = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    // A descriptor may be closed between listing and reading.
    let links = listing.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let mut files: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    files.sort_unstable();
    Ok(files)
}

/// How many files there are of each kind: what sockets and pipes have behind it is their number.
fn kinds(files: &[String]) -> String {
    let mut counts = BTreeMap::new();
    for file in files {
        let inside =
            file.strip_suffix(']').map(|file| file.trim_end_matches(|digit: char| digit.is_ascii_digit()));
        let kind = inside.and_then(|inside| inside.strip_suffix(":["));
        *counts.entry(kind.unwrap_or(file)).or_insert(0) += 1;
    }
    counts.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}

/// Runs a program in the namespace of this thread to its end and returns its standard output.
///
/// # Panics
/// If it is not installed or fails, with its standard error.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// Runs a program in the namespace of this thread to its end, whatever that is.
///
/// # Panics
/// If it is not installed.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().unwrap_or_else(|error| panic!("cannot start {name}: {error}"))
}

/// Output as text, whatever it is.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn collect(source: impl Read + Send + 'static, lines: Lines) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
            lock(&lines).push(text(&line));
        }
    })
}

fn lock(lines: &Lines) -> std::sync::MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tail(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_does_is_told_by_thread() {
        let own = doings(std::process::id());
        let name = std::fs::read_to_string("/proc/thread-self/comm").expect("a kernel with names of threads");
        let line = own.lines().find(|line| line.starts_with(&format!("{} R user ", name.trim_end())));
        assert!(line.is_some(), "{own}");
        assert_eq!(doings(u32::MAX), "it has ended");
        assert!(own.lines().last().is_some_and(|line| line.starts_with("open: ")), "{own}");
    }

    #[test]
    fn open_files_are_told_by_kind() {
        let files = ["/dev/null", "anon_inode:[eventpoll]", "socket:[7]", "socket:[8]"].map(str::to_owned);
        assert_eq!(kinds(&files), "1 /dev/null, 1 anon_inode:[eventpoll], 2 socket");
    }
}
