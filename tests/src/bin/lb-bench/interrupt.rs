// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT, SIGTERM and SIGHUP: every program that this one started is killed, whoever waits for it hears that, and the run ends in
//! good order with the samples that it has. The namespaces end with the last process inside.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::measure::tree;

/// How often programs are looked for.
const POLL: Duration = Duration::from_millis(10);

/// How long killed programs may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is still to be taken back, the last first; [`AtExit`] does it, and the second signal.
static AT_EXIT: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

/// Has something done by [`AtExit`], and also if this process ends in haste.
pub fn at_exit(action: impl FnOnce() + Send + 'static) {
    AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(action));
}

/// Does what [`at_exit`] was told when it is dropped.
pub struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        run_at_exit();
    }
}

/// Does what there is to do, once.
fn run_at_exit() {
    let actions = std::mem::take(&mut *AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner));
    actions.into_iter().rev().for_each(|action| action());
}

/// Whether and by what this process was told to end.
#[derive(Clone)]
pub struct Interrupt {
    signal: Arc<AtomicI32>,
    may_kill: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on, and adopts the children of programs that end before them (prctl(2), PR_SET_CHILD_SUBREAPER), such as
    /// worker processes whose parent was killed.
    ///
    /// # Errors
    /// The kernel refuses, or there is no /proc.
    pub fn listen() -> Result<Self> {
        set_child_subreaper(Some(getpid())).context("cannot adopt orphans")?;
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        // A terminal that goes away ends it like Ctrl-C; whoever starts it with nohup wants it to go on.
        if !is_ignored(SIGHUP)? {
            signals.add_signal(SIGHUP)?;
        }
        let interrupt = Self { signal: Arc::default(), may_kill: Arc::default() };
        let heard = interrupt.clone();
        thread::spawn(move || {
            let Some(signal) = signals.forever().next() else { return };
            heard.signal.store(signal, Ordering::SeqCst);
            eprintln!("interrupted: ends everything that it started");
            // The main thread ends the process when it is done; a second signal does it at once.
            while signals.pending().next().is_none() {
                if heard.may_kill.load(Ordering::SeqCst) {
                    kill_descendants();
                }
                thread::sleep(POLL);
            }
            kill_descendants();
            run_at_exit();
            std::process::exit(128 + signal);
        });
        Ok(interrupt)
    }

    /// From now on, programs are killed at a signal. Until then one that vanishes would be taken for a fault of this machine.
    pub fn allow_killing(&self) {
        self.may_kill.store(true, Ordering::SeqCst);
    }

    /// The signal that came.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Goes on unless a signal came.
    ///
    /// # Errors
    /// One came.
    pub fn check(&self) -> Result<()> {
        match self.signal() {
            Some(signal) => bail!("interrupted by signal {signal}"),
            None => Ok(()),
        }
    }
}

/// Whether this process was told to ignore a signal by who started it (SigIgn of /proc/PID/status, a bit a signal from the first).
fn is_ignored(signal: i32) -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("there is no /proc")?;
    ignored(&status).map(|mask| mask >> (signal - 1) & 1 == 1).context("/proc/self/status has no SigIgn")
}

fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// Ends every program that this one, or one of those, started, and waits until they have ended.
///
/// # Errors
/// One does not end.
pub fn sweep() -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let living = kill_descendants();
        if living.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {living:?} do not end");
        }
        thread::sleep(POLL);
    }
}

/// Kills them and says which lived.
fn kill_descendants() -> Vec<u32> {
    let living: Vec<u32> =
        tree(std::process::id()).into_iter().skip(1).filter(|pid| is_living(*pid)).collect();
    for pid in living.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        // Fails if it has just ended, and that is fine.
        let _ = kill_process(pid, Signal::KILL);
    }
    living
}

/// Whether a process has not ended; its parent may not have asked yet how (state Z of /proc/PID/stat).
pub fn is_living(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_mask() {
        assert_eq!(ignored("Name:\ta\nSigIgn:\t0000000000001001\nSigCgt:\t1\n"), Some(0x1001));
        assert_eq!(ignored("Name:\ta\n"), None);
        // The runtime of Rust ignores it, and nobody ignores SIGKILL.
        assert!(is_ignored(signal_hook::consts::SIGPIPE).unwrap());
        assert!(!is_ignored(signal_hook::consts::SIGKILL).unwrap());
    }

    #[test]
    fn a_process_lives_until_it_has_ended() {
        assert!(is_living(std::process::id()));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        assert!(is_living(child.id()));
        child.kill().unwrap();
        while is_living(child.id()) {
            thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_living(child.id()));
    }
}
